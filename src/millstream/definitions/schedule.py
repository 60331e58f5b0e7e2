"""Schedules: every so often since the epoch, or by a cron line in a time zone, clock changes included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from millstream.definitions.durations import micros
from millstream.errors import DefinitionError

if TYPE_CHECKING:
    from cronsim import CronSim

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: About the first and the last instant (µs) that a wall's clock can show.
_FIRST, _LAST = -62_130_000_000_000_000, 253_400_000_000_000_000
#: No zone's clock has ever been put forward or back by more.
_SHIFT = timedelta(hours=26)
#: A Monday of a leap year: whatever day a line names comes within the library's 50 years from here.
_SOME_DAY = datetime(2024, 1, 1)


class Schedule(Protocol):
    """What says when something runs: a batch group, or a model's retraining."""

    @property
    def every(self) -> int | None:
        """The interval (µs) of one that counts from the epoch."""
        ...

    @property
    def cron(self) -> str | None:
        """The cron line, in place of an interval."""
        ...

    @property
    def zone(self) -> str:
        """The time zone in which the cron line is read."""
        ...


def check_every(thing: str, every: object, zone: str) -> tuple[int | None, str | None]:
    """Return a schedule as (microseconds, None) or (None, cron line).

    Args:
        thing: whose schedule it is, for errors.
        every: a duration above 0, or a cron line of five fields.
        zone: the time zone in which a cron line is read, such as "Europe/Berlin".

    Raises:
        DefinitionError: for what is neither, and for an unknown zone.
    """
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise DefinitionError.expected(thing, "zone", zone, "a time zone", 'write zone="Europe/Berlin".') from None
    if isinstance(every, str) and len(every.split()) > 1:
        return None, _checked(thing, every)
    interval = micros(every, thing, "every")  # type: ignore[arg-type]
    if interval == 0:
        raise DefinitionError.expected(thing, "every", every, "a duration above 0 or a cron line", 'write every="24h".')
    return interval, None


def ticks(schedule: Schedule, after: int, upto: int) -> list[int]:
    """The scheduled instants in `(after, upto]`, ascending; each ends one interval and begins the next.

    A duration counts from the epoch. A cron line is read in its zone, by the rules of Debian's cron: where clocks go
    forward, a run within the time that is left out happens at once when it is over; where they go back, a run happens
    once, the first time. Lines whose minute or hour begins with `*` follow elapsed time instead: they leave out what
    does not exist, and run again in the hour that comes twice.

    Args:
        schedule: a batch group, or anything else that says when it runs.
        after: the instant (µs) after which they are.
        upto: the last instant (µs) that may be one.

    >>> from millstream import BatchFeatureGroup, Entity, Table
    >>> rows = Table("rows", path="rows.parquet", schema={"id": "int64", "x": "int64"})
    >>> group = BatchFeatureGroup("g", entity=Entity("id", keys={"id": "int64"}), sources=[rows],
    ...     query="select id, x from rows", every="30 2 * * *", zone="Europe/Berlin")
    >>> start, end = datetime(2024, 3, 30, 12, tzinfo=UTC), datetime(2024, 4, 1, 12, tzinfo=UTC)
    >>> [str(_instant(tick)) for tick in ticks(group, _micros(start), _micros(end))]
    ['2024-03-31 01:00:00+00:00', '2024-04-01 00:30:00+00:00']
    """
    if schedule.cron is None:
        every = schedule.every or 1
        return list(range((after // every + 1) * every, upto + 1, every))
    zone, found = ZoneInfo(schedule.zone), set[int]()
    first, last = _walls(after, zone)[0], _walls(upto, zone)[1]
    for reading, instants in _readings(schedule.cron, zone, first):
        if reading > last:
            break
        found.update(tick for tick in instants if after < tick <= upto)
    return sorted(found)


def last_tick(schedule: Schedule, at: int) -> int | None:
    """The newest scheduled instant not after `at` (µs), or None for a cron line that had none by then."""
    if schedule.cron is None:
        every = schedule.every or 1
        return at // every * every
    zone = ZoneInfo(schedule.zone)
    newest: int | None = None
    for reading, instants in _readings(schedule.cron, zone, _walls(at, zone)[1], backwards=True):
        if newest is not None and reading < _walls(newest, zone)[0]:
            break
        newest = max((tick for tick in (*instants, newest) if tick is not None and tick <= at), default=newest)
    return newest


def next_tick(schedule: Schedule, after: int) -> int | None:
    """The first scheduled instant after `after` (µs), or None for a cron line that has no more."""
    if schedule.cron is None:
        every = schedule.every or 1
        return (after // every + 1) * every
    zone = ZoneInfo(schedule.zone)
    first: int | None = None
    for reading, instants in _readings(schedule.cron, zone, _walls(after, zone)[0]):
        if first is not None and reading > _walls(first, zone)[1]:
            break
        first = min((tick for tick in (*instants, first) if tick is not None and tick > after), default=first)
    return first


def _checked(thing: str, line: str) -> str:
    """A cron line with single blanks, if it has five fields and ever comes."""
    from cronsim import CronSimError

    fields = line.split()
    if len(fields) != 5:
        raise DefinitionError.expected(thing, "every", line, "a cron line of five fields", 'write "0 2 * * *".')
    try:
        next(_cron(line, _SOME_DAY))
    except CronSimError as error:
        said = str(error).lower().replace("bad ", "wrong in the ")
        if fields[2] and _parses(fields):
            raise _never(thing, line) from None
        wanted = f"a cron line of five fields ({said})"
        raise DefinitionError.expected(thing, "every", line, wanted, 'write "0 2 * * *".') from None
    except (StopIteration, OverflowError):
        raise _never(thing, line) from None
    return " ".join(fields)


def _parses(fields: list[str]) -> bool:
    """Whether a line is written well, so that only its days do not exist."""
    from cronsim import CronSimError

    try:
        _cron(" ".join([*fields[:3], "*", *fields[4:]]), _SOME_DAY)
        _cron(" ".join([*fields[:4], "1"]), _SOME_DAY)
    except CronSimError:
        return False
    return True


def _never(thing: str, line: str) -> DefinitionError:
    return DefinitionError.expected(thing, "every", line, "a cron line that comes", "its day is in none of its months.")


def _cron(line: str, start: datetime, *, backwards: bool = False) -> CronSim:
    from cronsim import CronSim

    return CronSim(line, start, reverse=backwards)


def _readings(
    line: str, zone: ZoneInfo, start: datetime, *, backwards: bool = False
) -> Iterator[tuple[datetime, list[int]]]:
    """What the clock on the wall shows when a line is due, from `start` on, and the instants of it.

    The library is given the wall's clock without its zone: with one it loses runs where clocks change by half an hour,
    and never returns where they leave out midnight.
    """
    minute, hour, *_ = line.split()
    elapsed = minute.startswith("*") or hour.startswith("*")
    with suppress(OverflowError, StopIteration):  # the years end
        for reading in _cron(line, start, backwards=backwards):
            yield reading, _instants(reading, zone, elapsed)


def _instants(reading: datetime, zone: ZoneInfo, elapsed: bool) -> list[int]:
    """The instants at which the wall's clock shows a reading: one, or two; or what stands in for one it leaves out."""
    first, second = (_micros(reading.replace(tzinfo=zone, fold=fold)) for fold in (0, 1))
    if first == second:
        return [first]
    if first < second:
        return [first, second] if elapsed else [first]
    return [] if elapsed else [_when_it_changed(second, first, zone)]


def _when_it_changed(before: int, after: int, zone: ZoneInfo) -> int:
    """The first instant (µs) in `(before, after]` at which a zone's clock differs from how it went before it."""
    offset = _instant(before).astimezone(zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if _instant(middle).astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after


def _walls(at: int, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The earliest and the latest that the wall's clock may show at what is due beside an instant (µs)."""
    here = _instant(min(max(at, _FIRST), _LAST)).astimezone(zone)
    offsets = {(here + way * _SHIFT).astimezone(UTC).astimezone(zone).utcoffset() for way in (-1, 0, 1)}
    shift = _SHIFT if len(offsets) > 1 else timedelta()
    wall = here.replace(tzinfo=None)
    return wall - shift, wall + shift + timedelta(seconds=1)


def _instant(at: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at)


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
