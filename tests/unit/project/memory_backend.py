"""An online store that lives in memory: all that a backend takes beside its line in the table."""

from __future__ import annotations

import shutil
import tempfile
from typing import Annotated

from msgspec import Meta, Struct

from millstream.clock import Clock
from millstream.settings import Settings
from millstream.store.lmdb.store import LmdbOnlineStore

#: What each store was opened with and whether it was closed since.
opened: list[MemoryStore] = []


class MemoryStore(LmdbOnlineStore):
    """A store in a folder of its own, which notes that it was closed."""

    def __init__(self, megabytes: int) -> None:
        super().__init__(tempfile.mkdtemp(), fsync=False)
        self.megabytes, self.closed = megabytes, False
        opened.append(self)

    def close(self) -> None:
        """Note it."""
        self.closed = True
        super().close()
        shutil.rmtree(self.path, ignore_errors=True)


class Memory(Struct, frozen=True, kw_only=True):
    """`[online] kind = "memory"`."""

    megabytes: Annotated[int, Meta(ge=1, description="a whole number from 1")]

    def open(self, settings: Settings, clock: Clock) -> MemoryStore:
        """Open the store."""
        return MemoryStore(self.megabytes)
