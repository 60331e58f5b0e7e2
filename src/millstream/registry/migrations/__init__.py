"""How the registry's tables came to be what they are: one file for each format, run by Alembic from the first that lacks.

A file that a release has shipped stays as it is: it says what the tables of its time became, not what they are now.
"""

from __future__ import annotations

import sqlalchemy as sa


def text(length: int) -> sa.String:
    """Text in the order of its characters, whatever language a server sorts by."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
