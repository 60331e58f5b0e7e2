"""How much room a log has, and for whom: what is left at the end is kept for those who empty it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from millstream.errors import DiskFull

if TYPE_CHECKING:
    import lmdb

    from millstream.buffer.embedded.environment import Environment

_MAP_SHARE, _MOST_OF_MAP = 8, 1 << 30
_DISK_SHARE, _MOST_OF_DISK = 50, 64 << 20
_LOOSE = 256  # pages inside the file that have to be free before an append counts on them


class Room:
    """The room of one log.

    An eighth of the map (1 GiB at most) and a fiftieth of the disk (64 MiB at most) are a reserve that producers cannot
    take. Of the map's, computing may take half. The rest is for those who only commit and trim: so a full log can be
    computed, ingested, archived and trimmed, and then has room again.

    Args:
        env: the log's environment.
    """

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._page = env.page_size

    def check(self, rows: lmdb.Transaction, *, consumer: bool, size: int) -> None:
        """Refuse what a write transaction has appended when it has taken of what is kept for others.

        Args:
            rows: the transaction.
            consumer: whether it has moved a consumer on as well.
            size: how many bytes it has appended.

        Raises:
            DiskFull: when it has.
        """
        pages = self._env.map_size // self._page
        used, free = self._pages(rows)
        reserve = self._reserve(pages) // (2 if consumer else 1)
        if used > pages - reserve:
            raise DiskFull(
                f"'{self._env.path}' has reached the size it may grow to; nothing was written.",
                "what is left is kept for computing and ingestion: they make room. If the log stays full, raise "
                "'log_gib' in millstream.toml, or shorten the retention of the largest streams.",
            )
        if not consumer and free < size // self._page + _LOOSE and self._disk_room() < 0:
            raise DiskFull(
                f"The disk of '{self._env.path}' is full; nothing was written.",
                "make room, then try again; what is left is kept for computing and ingestion.",
            )

    def filled(self, rows: lmdb.Transaction) -> float:
        """How much of what producers may take is taken, from 0 to 1; 1 where the disk has no more room for them."""
        pages = self._env.map_size // self._page
        used, free = self._pages(rows)
        if free < _LOOSE and self._disk_room() < 0:
            return 1.0
        return min(1.0, used / max(1, pages - self._reserve(pages)))

    def _pages(self, rows: lmdb.Transaction) -> tuple[int, int]:
        """Pages that hold something, and pages of the file that hold nothing."""
        used = self._env.pages(rows)
        return used, max(0, self._env.last_page() + 1 - used)

    def _reserve(self, pages: int) -> int:
        return min(pages // _MAP_SHARE, _MOST_OF_MAP // self._page)

    def _disk_room(self) -> int:
        """Bytes of the disk that producers may still take; less than none when they have reached the reserve."""
        try:
            disk = os.statvfs(self._env.path)
        except OSError:
            return 0
        reserve = min(disk.f_blocks * disk.f_frsize // _DISK_SHARE, _MOST_OF_DISK)
        return disk.f_bavail * disk.f_frsize - reserve
