"""Durations: `timedelta`, or a string such as "30d"; microseconds inside."""

from __future__ import annotations

import re
from datetime import timedelta

from millstream.errors import DefinitionError

Duration = str | timedelta

UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_WRITTEN = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")
_LONGEST = 200 * 365 * UNITS["d"]


def micros(duration: Duration, thing: str = "Duration", argument: str = "duration") -> int:
    """Return a duration as int64 microseconds.

    Args:
        duration: a `timedelta`, or a string: a whole number and one of us, ms, s, m, h, d, w.
        thing: whose duration it is, for errors.
        argument: the argument that it was given as, for errors.

    Raises:
        DefinitionError: for anything else (a bare number does not say its unit), for a negative duration and for one
            beyond 200 years.

    >>> micros("5m"), micros(timedelta(seconds=1))
    (300000000, 1000000)
    """
    value = _read(duration)
    if value is None or not 0 <= value <= _LONGEST:
        hint = 'write a whole number and a unit, such as "30s", "5m", "24h" or "30d".'
        if isinstance(duration, int) and not isinstance(duration, bool):
            hint = f"a bare number does not say its unit; {hint}"
        raise DefinitionError.expected(thing, argument, duration, "a duration", hint)
    return value


def _read(duration: object) -> int | None:
    if isinstance(duration, timedelta) and duration == duration:  # pandas' NaT is not itself
        return duration // timedelta(microseconds=1)
    written = _WRITTEN.fullmatch(duration) if isinstance(duration, str) else None
    return int(written[1]) * UNITS[written[2]] if written and len(written[1]) < 20 else None


def text(duration: int) -> str:
    """Return microseconds in their longest whole unit; weeks are written in days.

    >>> text(300_000_000), text(604_800_000_000), text(0)
    ('5m', '7d', '0s')
    """
    if duration == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms"):
        if duration % UNITS[unit] == 0:
            return f"{duration // UNITS[unit]}{unit}"
    return f"{duration}us"
