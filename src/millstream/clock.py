"""The project's clock: the only place where Millstream asks what time it is.

Instants are int64 microseconds since the epoch, UTC. Everything that needs the time is given a clock, so a test, a demo
or a resumed simulation decides what "now" means for all layers at once.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from millstream.errors import MillstreamError, shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What the layers ask of a clock."""

    def now(self) -> int:
        """Return the current instant in microseconds since the epoch, UTC; called wherever something is stamped."""
        ...


class SystemClock:
    """The machine's clock.

    Example:
        >>> from millstream.clock import SystemClock
        >>> SystemClock().now() > 1_600_000_000_000_000
        True
    """

    def now(self) -> int:
        """Return the machine's time in microseconds since the epoch, UTC."""
        return time.time_ns() // 1_000


class SimulatedClock:
    """A clock that stands still until it is told to move; for tests and simulations within one process.

    Args:
        start: the first instant: microseconds, a datetime or ISO-8601 text.

    Example:
        >>> from millstream.clock import SimulatedClock
        >>> clock = SimulatedClock("2024-01-01T00:00:00Z")
        >>> clock.advance(1_000_000)
        >>> clock.now()
        1704067201000000
    """

    def __init__(self, start: int | str | datetime | np.datetime64 = 0) -> None:
        self._now = to_micros(start)

    def now(self) -> int:
        """Return the simulated instant in microseconds since the epoch, UTC."""
        return self._now

    def advance(self, micros: int) -> None:
        """Move the clock on by so many microseconds."""
        self._now += micros

    def set(self, instant: int | str | datetime | np.datetime64) -> None:
        """Move the clock to an instant."""
        self._now = to_micros(instant)


class FileClock:
    """A simulated clock kept in a file, so that all processes of a project share it and a later run can resume it.

    The file holds the simulated instant `at`, the real instant `real` at which it was written, and `rate`: how many
    simulated seconds pass in a real one (0: it stands still, 1: it runs on from `at`).

    Args:
        path: the file; made by the first `set`.
        real: the clock that real time is read from.

    Example:
        >>> import tempfile, pathlib
        >>> from millstream.clock import FileClock
        >>> clock = FileClock(pathlib.Path(tempfile.mkdtemp()) / "clock.json")
        >>> clock.set("2013-07-01T00:00:00Z")
        >>> clock.advance(60_000_000)
        >>> clock.now()
        1372636860000000
    """

    def __init__(self, path: Path, real: Clock | None = None) -> None:
        self._path = Path(path)
        self._real = real or SystemClock()
        self._seen: tuple[int, int] | None = None
        self._state = (0, 0, 0.0)  # at, real, rate; replaced as one, for threads share the clock

    def now(self) -> int:
        """Return the simulated instant in microseconds since the epoch, UTC."""
        self._refresh()
        at, real, rate = self._state
        return at if rate == 0.0 else at + int((self._real.now() - real) * rate)

    def set(self, instant: int | str | datetime | np.datetime64, *, rate: float | None = None) -> None:
        """Move the clock to an instant, for all processes; `rate` stays as it is unless given."""
        self._refresh()
        state = {
            "at": to_micros(instant),
            "real": self._real.now(),
            "rate": self._state[2] if rate is None else float(rate),
        }
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(state), encoding="utf-8")
        os.replace(fresh, self._path)
        self._seen = None

    def advance(self, micros: int) -> None:
        """Move the clock on by so many microseconds, for all processes."""
        self.set(self.now() + micros)

    def run(self, rate: float = 1.0) -> None:
        """Let the clock run on from where it is; a rate of 0 stops it."""
        self.set(self.now(), rate=rate)

    def _refresh(self) -> None:
        """Read the file again when another process has replaced it (a replaced file is another inode)."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return
        seen = (stat.st_ino, stat.st_mtime_ns)
        if seen == self._seen:
            return
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            self._state = (int(state["at"]), int(state["real"]), float(state["rate"]))
        except (ValueError, KeyError, TypeError) as error:
            raise MillstreamError(
                f"Clock file '{self._path}' does not hold a simulated clock ({error}).",
                'remove it, or write {"at": microseconds, "real": microseconds, "rate": 0}.',
            ) from error
        self._seen = seen


def project_clock(data: Path) -> Clock:
    """Return the clock of a project: the simulated one kept in its data folder if there is one, else the machine's."""
    path = Path(data) / "clock.json"
    return FileClock(path) if path.exists() else SystemClock()


def to_micros(instant: int | str | date | datetime | np.datetime64) -> int:
    """Turn an instant of any accepted form into microseconds since the epoch.

    Args:
        instant: microseconds, an aware datetime, a naive one (taken as UTC), a date, ISO-8601 text or a datetime64.

    Returns:
        int: microseconds since the epoch, UTC.

    Raises:
        MillstreamError: when it is none of these, or is not a time.

    Example:
        >>> from millstream.clock import to_micros
        >>> to_micros("2024-01-01T01:00:00+01:00")
        1704067200000000
    """
    if isinstance(instant, np.datetime64) and not np.isnat(instant):
        return int(instant.astype("datetime64[us]").astype(np.int64))
    if isinstance(instant, int | np.integer) and not isinstance(instant, bool):
        return int(instant)
    if isinstance(instant, str):
        try:
            return to_micros(datetime.fromisoformat(instant))
        except ValueError as error:
            raise _not_an_instant(instant) from error
    if isinstance(instant, datetime) and instant == instant:  # pandas' NaT is a datetime that is not itself
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MICROSECOND
    if isinstance(instant, date) and instant == instant:
        return to_micros(datetime(instant.year, instant.month, instant.day, tzinfo=UTC))
    raise _not_an_instant(instant)


def to_datetime(micros: int) -> datetime:
    """Turn microseconds since the epoch into an aware UTC datetime.

    Example:
        >>> from millstream.clock import to_datetime
        >>> to_datetime(1704067200000000).isoformat()
        '2024-01-01T00:00:00+00:00'
    """
    return _EPOCH + timedelta(microseconds=int(micros))


def _not_an_instant(given: object) -> MillstreamError:
    return MillstreamError(
        f"{shown(given)} is not an instant: expected ISO-8601 text, a datetime, a datetime64 or whole microseconds.",
        "write it as '2024-01-31T12:00:00Z'; without a zone it is taken as UTC.",
    )
