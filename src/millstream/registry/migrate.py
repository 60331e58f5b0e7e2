"""Bringing a registry of an earlier format to this one, by Alembic; imported only where there is one to bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

_HERE = Path(__file__).parent
_NOTE = "registry_migrations"  # where Alembic keeps how far it is, for as long as the transaction lasts


def migrate(connection: sa.Connection, found: int) -> None:
    """Run the migrations that follow a format, within the transaction of a connection.

    The registry's own format says how far it is, so nothing of Alembic's stays in it: a transaction that is undone
    leaves what was there.

    Args:
        connection: a connection in a transaction that no other writer is in.
        found: the format of what is there.
    """
    scripts = ScriptDirectory(str(_HERE), version_locations=[str(_HERE / "migrations")])

    def steps(reached: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", reached)

    note = sa.Table(_NOTE, sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
    note.drop(connection, checkfirst=True)
    context = MigrationContext.configure(connection, opts={"fn": steps, "script": scripts, "version_table": _NOTE})
    context.stamp(scripts, str(found))
    # Handed over, not as `alembic.op`: that is one for all threads, of which another may migrate another registry.
    context.run_migrations(op=Operations(context))
    note.drop(connection)
