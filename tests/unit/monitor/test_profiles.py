"""Profiles: bins that stay, counts that add up, and a profiler that counts each capture once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.monitor.profiles import DAYS, HOUR, HOURS, Profiler, bins_of, combine, freeze, profile
from millstream.serve.capture import CaptureJournal, CaptureShape, CaptureShipper

SHAPE = CaptureShape("fraud", "1", "fraud", "a1", (("user_id", "int64"), ("country", "string"), ("g__sum", "float64")))


def served(first: int, count: int, hour: int) -> list[list[object]]:
    return [
        [{}, f"r{i}", "fraud", "1", "fraud", "a1", hour * HOUR, hour * HOUR + i, i / 10_000, False, None, i,
         "de" if i % 3 else "fr", float(i) if i % 10 else None]
        for i in range(first, first + count)
    ]  # fmt: skip


def test_quantile_bins_hold_equal_shares_of_their_reference() -> None:
    table = pa.table({"amount": np.random.default_rng(1).lognormal(size=10_000)})
    (row,) = profile(freeze(table), table, 0, 1).to_pylist()
    assert len(row["counts"]) == 20
    assert min(row["counts"]) >= 490 and max(row["counts"]) <= 510


def test_a_value_repeated_often_still_makes_ascending_edges() -> None:
    (bins,) = freeze(pa.table({"n": [0.0] * 95 + [1.0, 2.0, 3.0, 4.0, 5.0]}))
    assert list(bins.edges) == sorted(set(bins.edges))
    assert sum(bins.count(pa.chunked_array([[0.0, 0.0, 7.0]]))) == 3


def test_profiles_of_two_parts_add_up_to_the_profile_of_the_whole() -> None:
    generator = np.random.default_rng(2)
    numbers = pa.array(generator.normal(size=1_000), mask=generator.random(1_000) < 0.2)
    table = pa.table({"x": numbers, "c": generator.choice(["a", "b", "c"], 1_000)})
    bins = freeze(table.slice(0, 300))
    (whole, parts) = (profile(bins, table, 0, 9), [profile(bins, table.slice(a, 500), 0, 9) for a in (0, 500)])
    for one, other in zip(whole.to_pylist(), combine(parts).to_pylist(), strict=True):
        assert {**one, "mean": 0} == {**other, "mean": 0}
        assert one["mean"] == pytest.approx(other["mean"])


def test_an_unseen_word_counts_as_other_and_an_all_null_column_as_nulls() -> None:
    bins = freeze(pa.table({"c": ["a", "b"], "n": pa.nulls(2, pa.float64())}))
    rows = profile(bins, pa.table({"c": ["zz", "a", None], "n": pa.nulls(3, pa.float64())}), 0, 1).to_pylist()
    assert rows[0]["counts"] == [1, 0, 1]
    assert (rows[1]["nulls"], rows[1]["mean"]) == (3, None)


def test_a_profiler_counts_each_capture_once_across_restarts(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(5), map_gib=1)
    journal = CaptureJournal(tmp_path / "journal")
    shipper = CaptureShipper(journal, log)

    journal.append(SHAPE, served(0, 300, 7))
    shipper.step()
    assert Profiler(log, tmp_path / "profiles", "fraud").step() == 0  # not enough to freeze bins from

    journal.append(SHAPE, served(300, 300, 7))
    shipper.step()
    assert Profiler(log, tmp_path / "profiles", "fraud").step() == 600
    frozen = bins_of(Profiler(log, tmp_path / "profiles", "fraud").table())

    journal.append(SHAPE, served(600, 100, 8))
    shipper.step()
    profiler = Profiler(log, tmp_path / "profiles", "fraud")
    assert (profiler.step(), profiler.step()) == (100, 0)
    rows = [row for row in profiler.table().to_pylist() if row["column"] == "g__sum"]
    assert [(row["start"] // HOUR, row["rows"], row["nulls"]) for row in rows] == [(7, 600, 60), (8, 100, 10)]
    assert rows[1]["counts"][-1] == 90  # all beyond what the bins were frozen from
    assert bins_of(profiler.table()) == frozen
    assert {row["column"] for row in profiler.table().to_pylist()} == {"_score", "user_id", "country", "g__sum"}
    log.close()


def test_a_profile_keeps_hours_of_a_week_and_days_before_it(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(5), map_gib=1)
    journal = CaptureJournal(tmp_path / "journal")
    shipper = CaptureShipper(journal, log)
    profiler = Profiler(log, tmp_path / "profiles", "fraud")
    for hour in range(0, HOURS + 72, 12):  # twelve hours at a time, some captures in each
        rows = [row for one in range(hour, hour + 12) for row in served(hour, 50, one)]
        journal.append(SHAPE, rows)
        shipper.step()
        assert profiler.step() == 600
    rows = [row for row in profiler.table().to_pylist() if row["column"] == "g__sum"]
    spans = [(row["start"] // HOUR, (row["end"] - row["start"]) // HOUR) for row in rows]
    assert spans == [(0, 24), (24, 24), (48, 24), *((hour, 1) for hour in range(72, HOURS + 72))]
    assert [row["rows"] for row in rows] == [24 * 50] * 3 + [50] * HOURS
    assert all(sum(row["counts"]) == row["rows"] - row["nulls"] for row in rows)
    assert profiler.table().equals(Profiler(log, tmp_path / "profiles", "fraud").table())
    log.close()


def test_of_many_days_the_newest_are_kept(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", SimulatedClock(5), map_gib=1)
    journal = CaptureJournal(tmp_path / "journal")
    hours = range(0, (DAYS + HOURS + 30) * 24, 24)
    journal.append(SHAPE, [row for hour in hours for row in served(0, 2, hour)])
    CaptureShipper(journal, log).step()
    profiler = Profiler(log, tmp_path / "profiles", "fraud")
    assert profiler.step() == 2 * len(hours)
    rows = [row for row in profiler.table().to_pylist() if row["column"] == "_score"]
    assert len(rows) == DAYS + HOURS
    assert rows[0]["start"] // HOUR == hours[30]
    assert rows[-1]["start"] // HOUR == hours[-1]
    log.close()
