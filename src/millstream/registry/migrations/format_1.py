"""Format 1: where it begins."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing: a registry of format 1 is as it was made."""
