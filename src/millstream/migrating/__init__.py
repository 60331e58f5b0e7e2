"""A project that moves: its parts to servers, and a share of it to a laptop."""

from millstream.migrating.to_laptop import Sampled, sample
from millstream.migrating.to_servers import Migrated, Part, migrate

__all__ = ["Migrated", "Part", "Sampled", "migrate", "sample"]
