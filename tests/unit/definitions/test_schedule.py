"""When something scheduled runs, by every clock there is: held to a minute-by-minute reading of the wall's clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

import millstream as ms
from millstream.clock import to_datetime, to_micros
from millstream.definitions.schedule import last_tick, next_tick, ticks
from millstream.errors import DefinitionError

CHANGES = {
    "Australia/Lord_Howe back by half an hour": ("Australia/Lord_Howe", "2024-04-06T00:00Z"),
    "Australia/Lord_Howe forward by half an hour": ("Australia/Lord_Howe", "2024-10-05T00:00Z"),
    "America/New_York back": ("America/New_York", "2021-11-06T12:00Z"),
    "America/New_York forward": ("America/New_York", "2021-03-13T12:00Z"),
    "Europe/Berlin forward": ("Europe/Berlin", "2024-03-30T00:00Z"),
    "America/Sao_Paulo leaves out midnight": ("America/Sao_Paulo", "2018-11-03T12:00Z"),
    "Pacific/Apia leaves out a day": ("Pacific/Apia", "2011-12-29T12:00Z"),
    "Pacific/Chatham back": ("Pacific/Chatham", "2024-04-06T00:00Z"),
    "Asia/Kathmandu never changes": ("Asia/Kathmandu", "2024-04-06T00:00Z"),
}
ELAPSED = ["* * * * *", "*/15 * * * *", "45 * * * *", "0 */2 * * *", "30 */3 * * *", "*/20 2 * * *", "*/30 0 * * SUN"]
MINUTE = timedelta(minutes=1)
FIXED = ["30 2 * * *", "15 1 * * *", "0 0 * * *", "0 2,3 * * *", "45 1-2 * * 6,7", "30 23 7 APR *", "30 12 30 12 *"]


@dataclass(frozen=True)
class Line:
    cron: str
    zone: str = "UTC"
    every: int | None = None


def minute_by_minute(line: str, name: str, start: datetime, end: datetime) -> list[int]:
    """Elapsed lines run whenever the clock shows them; others the first time, or when it has jumped over them."""
    sim, zone, found, at = CronSim(line, start), ZoneInfo(name), [], start
    latest = start.astimezone(zone).replace(tzinfo=None) - MINUTE

    def names(wall: datetime) -> bool:
        within = wall.minute in sim.minutes and wall.hour in sim.hours and wall.month in sim.months
        return within and sim.match_day(wall.date())

    while at <= end:
        wall = at.astimezone(zone).replace(tzinfo=None)
        passed = range(1 if line in ELAPSED else (wall - latest) // MINUTE)
        if any(names(wall - i * MINUTE) for i in passed):
            found.append(to_micros(at))
        latest, at = max(latest, wall), at + MINUTE
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_lines_of_every_kind_come_when_the_clock_on_the_wall_says(change):
    zone, begin = CHANGES[change]
    start = to_datetime(to_micros(begin))
    end = start + timedelta(days=1, hours=12)
    for line in (*ELAPSED, *FIXED):
        every_tick = minute_by_minute(line, zone, start, end)
        first, last = to_micros(start), to_micros(end)
        assert ticks(Line(line, zone), first - 1, last) == every_tick, line
        pairs = list(zip([first - 1, *every_tick], every_tick, strict=False))
        for a, b in pairs[:: 1 + len(pairs) // 3]:
            assert next_tick(Line(line, zone), a) == b, line
            assert last_tick(Line(line, zone), b) == last_tick(Line(line, zone), b + 1) == b, line
            assert a == first - 1 or last_tick(Line(line, zone), b - 1) == a, line


def test_a_run_of_the_hour_left_out_happens_when_that_is_over_and_one_of_the_hour_that_repeats_once():
    line = Line("30 2 * * *", "Europe/Berlin")
    spring = ticks(line, to_micros("2024-03-30T12:00Z"), to_micros("2024-03-31T12:00Z"))
    autumn = ticks(line, to_micros("2024-10-26T12:00Z"), to_micros("2024-10-27T12:00Z"))
    found = [to_datetime(at).isoformat() for at in (*spring, *autumn)]
    assert found == ["2024-03-31T01:00:00+00:00", "2024-10-27T00:30:00+00:00"]


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 12 31 FEB *"])
@pytest.mark.parametrize("build", [lambda line: ms.Retrain(every=line), lambda line: _group(line)])
def test_a_line_that_never_comes_is_refused_when_it_is_declared(line, build):
    with pytest.raises(DefinitionError, match="a cron line that comes"):
        build(line)


@pytest.mark.parametrize("line", ["0 0 29 2 *", "0 0 * 2 MON#5", "0 0 L * *", "0 0 31 4 MON"])
def test_a_line_that_comes_seldom_is_taken(line):
    start = to_micros("2025-03-01T00:00Z")
    found = next_tick(ms.Retrain(every=line), start)
    assert found is not None and last_tick(ms.Retrain(every=line), found) == found


@pytest.mark.parametrize("line", ["0 0 * *", "0 0 0 * * *", "61 * * * *", "a b c d e", "*/0 * * * *", "5-1 * * * *"])
def test_what_is_no_cron_line_is_refused(line):
    with pytest.raises(DefinitionError, match="cron line of five fields"):
        ms.Retrain(every=line)


def test_a_schedule_is_asked_about_the_ends_of_time():
    line = Line("0 2 * * *", "Europe/Berlin")
    assert last_tick(line, -62_135_596_800_000_000) is None
    assert next_tick(line, 253_402_300_799_000_000) is None


def _group(line):
    user = ms.Entity("user", keys={"user_id": "int64"})
    table = ms.Table("t", path="t.parquet", schema={"user_id": "int64", "x": "int64"})
    return ms.BatchFeatureGroup("g", entity=user, sources=[table], query="select user_id, x from t", every=line)
