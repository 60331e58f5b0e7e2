"""The embedded log as settings choose it."""

from __future__ import annotations

from msgspec import Struct

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import Clock
from millstream.settings import Settings


class Embedded(Struct, frozen=True):
    """`[log] kind = "embedded"`: in the project's data folder; its size and pace are the project's settings."""

    def open(self, settings: Settings, clock: Clock) -> EmbeddedLog:
        """Open the log."""
        return EmbeddedLog(
            settings.data / "log",
            clock,
            map_gib=settings.log_gib,
            fsync=settings.fsync,
            look_every=settings.poll_ms / 4_000,  # a look costs next to nothing
            largest=settings.largest_record,
        )
