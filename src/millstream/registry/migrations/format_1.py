"""Format 1: where it begins."""

from alembic.operations import Operations

revision = "1"
down_revision = None


def upgrade(op: Operations) -> None:
    """Nothing: a registry of format 1 is as it was made."""
