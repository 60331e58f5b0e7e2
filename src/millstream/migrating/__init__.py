"""A project that moves: its parts to servers, and a share of it to a laptop."""

from millstream.migrating.migrate import Migrated, Part, migrate
from millstream.migrating.sample import Sampled, sample

__all__ = ["Migrated", "Part", "Sampled", "migrate", "sample"]
