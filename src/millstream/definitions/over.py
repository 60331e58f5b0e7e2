"""What a feature is taken over: a span of time, the newest rows, or the session that is going on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from millstream.calls import checked_class
from millstream.definitions.durations import Duration, micros, text
from millstream.definitions.frozen import freeze
from millstream.errors import DefinitionError

_ROWS = re.compile(r"(\d+) events?(?: within (\S+))?")
_LIKE_ROWS = re.compile(r"\bevents?\b|\brows?\b", re.IGNORECASE)
_MOST_ROWS = 1_000
_EXAMPLES = 'write over="1h", over="20 events", over="20 events within 24h" or over=ms.Session(gap="30m").'


@checked_class
@dataclass(frozen=True, init=False)
class Session:
    """The session that is going on: rows that follow each other by at most a gap, until as long has passed without one.

    Use it as `over=` for what a user does in one visit. Every row of the group counts for where sessions begin and end,
    whatever the aggregation's own `where`. A row that comes late may make two sessions one.

    Args:
        gap: how far apart two rows of one session are at most, such as "30m"; exactly as far is one session still.
        late: how long after it happened a row may arrive and still count, "24h" unless told; what is later is archived
            and counted. A key's state keeps its sessions for that long.

    Raises:
        DefinitionError: for a gap that is no positive duration.

    >>> Session(gap="30m").gap
    1800000000
    """

    gap: int
    late: int

    def __init__(self, *, gap: Duration, late: Duration = "24h") -> None:
        span = micros(gap, "Session", "gap")
        if span == 0:
            raise DefinitionError.expected("Session", "gap", gap, "a positive duration", 'write gap="30m".')
        freeze(self, gap=span, late=micros(late, "Session", "late"))


Over = str | timedelta | Session | None


def written(thing: str, window: Over) -> str | Session | None:
    """Return a window as it ends a column's name, checked.

    Raises `DefinitionError` for what is none.

    >>> written("Count", timedelta(hours=1)), written("Count", "20 events")
    ('1h', '20 events')
    """
    if window is None or isinstance(window, Session):
        return window
    if isinstance(window, str) and _LIKE_ROWS.search(window):
        return _written_rows(thing, window)
    if micros(window, thing, "over") == 0:
        raise DefinitionError.expected(thing, "over", window, "a positive duration", _EXAMPLES)
    return window if isinstance(window, str) else text(micros(window))


def _written_rows(thing: str, window: str) -> str:
    found = _ROWS.fullmatch(window)
    if found is None or len(found[1]) > 4 or not 1 <= int(found[1]) <= _MOST_ROWS:
        what = f"a number of events from 1 to {_MOST_ROWS:,}"
        raise DefinitionError.expected(thing, "over", window, what, _EXAMPLES)
    if found[2] is not None and micros(found[2], thing, "over") == 0:
        raise DefinitionError.expected(thing, "over", window, "a positive duration after within", _EXAMPLES)
    return window


def check_moves(thing: str, over: tuple[str | Session | None, ...], hop: int | None, delay: int) -> None:
    """Refuse what belongs to windows of time where it is given with a window of rows or a session.

    Args:
        thing: whose windows they are, for errors.
        over: the windows of an aggregation, None for all time.
        hop: its hop (µs), None where it names none.
        delay: its delay (µs), 0 where it has none.

    Raises:
        DefinitionError: for a delay with either of them, and for a hop with what has no tail that moves.
    """
    for window in over:
        rows, within = (0, None) if isinstance(window, Session) else rows_and_time(window)
        if not isinstance(window, Session) and not rows:
            continue
        what = "a session" if isinstance(window, Session) else f"over={window!r}"
        if delay:
            hint = "write ms.LastK of the column and its time, and slice it in an on-demand feature."
            raise DefinitionError.expected(thing, "delay", text(delay), f"none with {what}", hint)
        if hop is not None and within is None:
            hint = 'leave it out: only the tail of "24h" in over="20 events within 24h" moves by a hop.'
            raise DefinitionError.expected(thing, "hop", text(hop), f"none with {what}", hint)


def rows_and_time(window: str | None) -> tuple[int, int | None]:
    """Return how many rows a window holds at least, 0 for one of time, and over which time (µs), None for all.

    >>> rows_and_time("20 events within 24h"), rows_and_time("1h")
    ((20, 86400000000), (0, 3600000000))
    """
    found = _ROWS.fullmatch(window) if window else None
    if found is None:
        return 0, None if window is None else micros(window)
    return int(found[1]), None if found[2] is None else micros(found[2])


def suffix(window: str | Session) -> str:
    """Return what a window adds to a column's name.

    >>> suffix("20 events within 24h"), suffix(Session(gap="30m"))
    ('20_events_within_24h', 'session_30m')
    """
    return f"session_{text(window.gap)}" if isinstance(window, Session) else window.replace(" ", "_")
