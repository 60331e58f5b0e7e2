"""The online store in LMDB as settings choose it."""

from __future__ import annotations

from msgspec import Struct

from millstream.clock import Clock
from millstream.settings import Settings
from millstream.store.lmdb.store import LmdbOnlineStore


class Lmdb(Struct, frozen=True):
    """`[online] kind = "lmdb"`: in the project's data folder; `fsync` is the project's setting."""

    def open(self, settings: Settings, clock: Clock) -> LmdbOnlineStore:
        """Open the store."""
        return LmdbOnlineStore(settings.data / "online", fsync=settings.fsync)
