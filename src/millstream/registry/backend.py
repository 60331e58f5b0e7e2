"""The registry in a SQL database as settings choose it."""

from __future__ import annotations

from msgspec import Struct

from millstream.clock import Clock
from millstream.registry.definitions import Registry
from millstream.settings import Settings


class Sql(Struct, frozen=True):
    """`[registry] kind = "sql"`: SQLite in the project's data folder, or the database of `registry_url`."""

    def open(self, settings: Settings, clock: Clock) -> Registry:
        """Open the registry."""
        return Registry(settings.registry_url, shards=settings.shards)
