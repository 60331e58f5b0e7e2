"""Format 3: what commands have begun, and the marks of group versions, are kept in the registry."""

import sqlalchemy as sa
from alembic.operations import Operations

from millstream.registry.migrations import text

revision = "3"
down_revision = "2"


def upgrade(op: Operations) -> None:
    """Add the tables, of which registries of format 2 that were made later have the first already."""
    op.create_table(
        "registry_operations",
        sa.Column("kind", text(16), primary_key=True),
        sa.Column("subject", text(128), primary_key=True),
        sa.Column("step", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "registry_marks",
        sa.Column("mark", text(128), primary_key=True),
        sa.Column("place", text(512), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
