"""Format 2: states may be built anew beside those that are read; views and model versions are kept as they were."""

import sqlalchemy as sa
from alembic.operations import Operations

from millstream.registry.migrations import text

revision = "2"
down_revision = "1"


def upgrade(op: Operations) -> None:
    """Add the tables, which registries of format 1 that were made later have already."""
    _definitions(op)
    _models(op)


def _definitions(op: Operations) -> None:
    op.create_table(
        "registry_view_revisions",
        sa.Column("name", text(64), primary_key=True),
        sa.Column("revision", text(16), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "registry_builds",
        sa.Column("name", text(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("build", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", text(16), nullable=False),
        if_not_exists=True,
    )


def _models(op: Operations) -> None:
    op.create_table(
        "model_versions",
        sa.Column("model", text(255), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", text(64), nullable=False),
        sa.Column("registered", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "model_aliases",
        sa.Column("model", text(255), primary_key=True),
        sa.Column("alias", text(255), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "model_alias_moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model", text(255), nullable=False),
        sa.Column("alias", text(255), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("previous", sa.Integer),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        if_not_exists=True,
    )
