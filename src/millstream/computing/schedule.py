"""When a batch group runs: every so often since the epoch, or by a cron line in its zone, clock changes included."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from millstream.clock import to_datetime, to_micros
from millstream.definitions.durations import UNITS
from millstream.definitions.feature_group import BatchFeatureGroup

# How far back to look for the last run: most lines run daily, none more seldom than every eight years (29 February).
_BACK = [UNITS["d"] * days for days in (2, 40, 400, 8 * 366 + 2)]
# A zone's clock never changes by as much, so looking this much further on both sides misses no run.
_MARGIN = timedelta(hours=26)


def ticks(group: BatchFeatureGroup, after: int, upto: int) -> list[int]:
    """The scheduled instants in `(after, upto]` (µs), ascending; each ends one interval and begins the next.

    A duration counts from the epoch. A cron line is read in the group's zone. Where clocks go forward, a run scheduled
    within the hour that is left out happens an hour later by the clock, at the same distance from midnight; where they
    go back, a run happens once, the first time. Lines whose hour begins with `*` follow elapsed time instead: they
    leave out what does not exist and run in both of the two equal hours.

    >>> from millstream import BatchFeatureGroup, Entity, Table
    >>> rows = Table("rows", path="rows.parquet", schema={"id": "int64", "x": "int64"})
    >>> group = BatchFeatureGroup("g", entity=Entity("id", keys={"id": "int64"}), sources=[rows],
    ...     query="select id, x from rows", every="30 2 * * *", zone="Europe/Berlin")
    >>> start, end = to_micros("2024-03-30T12:00Z"), to_micros("2024-04-01T12:00Z")
    >>> [to_datetime(tick).isoformat() for tick in ticks(group, start, end)]
    ['2024-03-31T01:30:00+00:00', '2024-04-01T00:30:00+00:00']
    """
    if group.cron is None:
        every = group.every or 1
        return list(range((after // every + 1) * every, upto + 1, every))
    found = {tick for tick in _cron(group.cron, ZoneInfo(group.zone), after, upto) if after < tick <= upto}
    return sorted(found)


def last_tick(group: BatchFeatureGroup, at: int) -> int | None:
    """The newest scheduled instant not after `at` (µs), or None for a cron line that never runs."""
    if group.cron is None:
        every = group.every or 1
        return at // every * every
    for span in _BACK:
        found = ticks(group, max(at - span, 0), at)
        if found:
            return found[-1]
    return None


def _cron(line: str, zone: ZoneInfo, after: int, upto: int) -> list[int]:
    """Instants a cron line names around a span: it is read by the clock on the wall, whose readings are then dated."""
    from croniter import CroniterBadDateError, croniter

    elapsed = line.split()[1].startswith("*")
    wall = to_datetime(after).astimezone(zone).replace(tzinfo=None) - _MARGIN
    last = to_datetime(upto).astimezone(zone).replace(tzinfo=None) + _MARGIN
    found: list[int] = []
    with suppress(CroniterBadDateError):  # "0 0 30 2 *": there is no such day
        for reading in croniter(line, wall, ret_type=datetime):
            if reading > last:
                break
            found += _instants(reading, zone, elapsed)
    return found


def _instants(reading: datetime, zone: ZoneInfo, elapsed: bool) -> list[int]:
    """The instants at which a wall clock shows a reading: one or two; for none, the one that stands in for it."""
    first, second = (to_micros(reading.replace(tzinfo=zone, fold=fold).astimezone(UTC)) for fold in (0, 1))
    if first == second:
        return [first]
    if first < second:
        return [first, second] if elapsed else [first]
    return [] if elapsed else [first]
