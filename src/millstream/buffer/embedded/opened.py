"""The environment that an embedded log is kept in, as whoever works on its rows opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from millstream.buffer.embedded.environment import open_environment
from millstream.buffer.embedded.rows import Damaged
from millstream.clock import Clock
from millstream.errors import CorruptLog

if TYPE_CHECKING:
    import lmdb

AT_ONCE = 500
"""Rows removed in one write: others wait for milliseconds, and a page holds what has become free."""


class OpenLog:
    """A log's rows, in one LMDB environment that all processes of a machine share.

    Args:
        path: the log's folder; made if it is missing.
        clock: what appends are stamped with.
        map_gib: most it may grow to, in GiB.
        fsync: whether an acknowledgement waits for the disk.
    """

    def __init__(self, path: Path, clock: Clock, map_gib: float, *, fsync: bool) -> None:
        self._clock, self._env = clock, open_environment(path, map_gib, durable=fsync)
        self._open = True

    def close(self) -> None:
        """Let go of the log; what was acknowledged is on disk already. A second call does nothing."""
        if self._open:
            self._open = False
            self._env.close()

    @contextmanager
    def _begin(self, write: bool = False, *, wait: bool = True) -> Iterator[lmdb.Transaction]:
        """Open a transaction of the environment; what is damaged is named."""
        try:
            with self._env.begin(write, wait=wait) as rows:
                yield rows
        except Damaged as error:
            raise CorruptLog.at(self._env.path / "data.mdb", str(error)) from None

    def _settle(self) -> None:
        """Return when all that was committed before is durable."""
        with self._begin() as rows:
            seen = rows.id()
        self._env.settle(seen)
