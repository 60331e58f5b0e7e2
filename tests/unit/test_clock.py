"""The project's clock."""

import json
import os
import time
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from millstream.clock import FileClock, SimulatedClock, SystemClock, project_clock, to_datetime, to_micros
from millstream.errors import MillstreamError

NEW_YEAR = 1_704_067_200_000_000


@pytest.mark.parametrize(
    "given",
    [
        NEW_YEAR,
        "2024-01-01T00:00:00Z",
        "2024-01-01T02:00:00+02:00",
        "2024-01-01",
        datetime(2024, 1, 1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2023, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))),
        date(2024, 1, 1),
        np.datetime64("2024-01-01"),
        np.datetime64("2024-01-01T00:00:00.000000000"),
        np.int64(NEW_YEAR),
    ],
)
def test_an_instant_in_any_form_is_the_same_microsecond(given):
    assert to_micros(given) == NEW_YEAR


def test_pandas_instants_are_instants_and_its_absent_one_is_not():
    pandas = pytest.importorskip("pandas")
    assert to_micros(pandas.Timestamp("2024-01-01", tz="UTC")) == NEW_YEAR
    with pytest.raises(MillstreamError):
        to_micros(pandas.NaT)


@pytest.mark.parametrize("given", ["yesterday", True, None, 1.5, np.datetime64("NaT"), "2024-13-01"])
def test_what_is_no_instant_is_refused_with_a_hint(given):
    with pytest.raises(MillstreamError, match="is not an instant") as caught:
        to_micros(given)
    assert caught.value.hint


def test_microseconds_are_exact_before_the_epoch_and_far_after():
    for micros in (-1, 0, 1, 4_102_444_800_000_001):
        assert to_micros(to_datetime(micros)) == micros


def test_the_system_clock_is_the_machines():
    clock = SystemClock()
    before = time.time_ns() // 1_000
    assert before <= clock.now() <= before + 1_000_000


def test_a_simulated_clock_moves_only_when_told():
    clock = SimulatedClock(10)
    assert clock.now() == clock.now() == 10
    clock.advance(5)
    assert clock.now() == 15
    clock.set("2024-01-01")
    assert clock.now() == NEW_YEAR


def test_processes_share_a_clock_kept_in_a_file(tmp_path: Path):
    one, other = FileClock(tmp_path / "clock.json"), FileClock(tmp_path / "clock.json")
    one.set(NEW_YEAR)
    assert other.now() == NEW_YEAR
    other.advance(60)
    assert one.now() == NEW_YEAR + 60
    assert os.listdir(tmp_path) == ["clock.json"]


def test_a_clock_in_a_file_runs_on_at_its_rate_and_stops(tmp_path: Path):
    real = SimulatedClock(0)
    clock = FileClock(tmp_path / "clock.json", real)
    clock.set(NEW_YEAR, rate=60)
    real.advance(1_000_000)
    assert clock.now() == NEW_YEAR + 60_000_000
    clock.run(0)
    real.advance(1_000_000)
    assert clock.now() == NEW_YEAR + 60_000_000
    clock.run()
    real.advance(7)
    assert FileClock(tmp_path / "clock.json", real).now() == NEW_YEAR + 60_000_007


def test_a_project_has_the_simulated_clock_it_keeps_else_the_machines(tmp_path: Path):
    assert isinstance(project_clock(tmp_path), SystemClock)
    FileClock(tmp_path / "clock.json").set(NEW_YEAR)
    assert project_clock(tmp_path).now() == NEW_YEAR


@pytest.mark.parametrize("content", ["", "{", json.dumps({"at": "x", "real": 0, "rate": 0}), "[]"])
def test_a_damaged_clock_file_is_one_clear_error(tmp_path: Path, content: str):
    (tmp_path / "clock.json").write_text(content)
    with pytest.raises(MillstreamError, match="does not hold a simulated clock"):
        project_clock(tmp_path).now()
