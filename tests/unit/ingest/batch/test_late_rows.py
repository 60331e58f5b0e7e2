"""Rows of a table that come later than it says: in no value, counted and shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.ingest.batch.world import DATED, DAY, HOUR, PLAIN, START, USER, dated_group

import millstream as ms
from millstream.buffer.topics import late_mark, version_marks
from millstream.computing.late_rows import Difference, LateRows
from millstream.usage.blocks import Totals
from millstream.usage.prometheus import exposition

FOLD = ms.BatchFeatureGroup("totals", entity=USER, every="24h", source=DATED, features=[ms.Count(over="7d")])


def row(credit: float, at: int) -> tuple[Any, ...]:
    return 1, "a", credit, at


@pytest.fixture
def world(make_world: Any) -> Any:
    made = make_world(FOLD)
    made.write(row(1.0, START - 2 * DAY), row(2.0, START + HOUR))
    assert made.computer.step()[0].skipped == {}
    return made


def difference(world: Any) -> Difference:
    return LateRows(world.marks).of("totals@1")


def test_what_joins_the_rows_of_an_interval_that_ran_is_counted_once(world: Any) -> None:
    world.write(row(1.0, START - 2 * DAY), row(2.0, START + HOUR), row(3.0, START - DAY), row(4.0, START - DAY))
    world.next_day()
    (ran,) = world.computer.step()
    assert (ran.skipped, ran.rows, difference(world)) == ({"late": 2}, 1, Difference(late=2))
    world.next_day()
    assert world.computer.step()[0].skipped == {}
    assert difference(world) == Difference(late=2)


def test_rows_that_are_gone_are_counted_and_what_comes_in_time_is_not(world: Any) -> None:
    world.write(row(2.0, START + HOUR), row(3.0, START + 2 * HOUR))
    world.next_day()
    assert world.computer.step()[0].skipped == {}
    assert difference(world) == Difference(gone=1)


def test_a_run_whose_worker_dies_before_it_is_noted_hides_no_row(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LateRows, "keep", lambda *_: None)
    world.next_day()
    world.computer.step()
    monkeypatch.undo()
    world.write(row(1.0, START - 2 * DAY), row(2.0, START + HOUR), row(3.0, START - DAY))
    world.next_day()
    world.computer.step()
    assert difference(world) == Difference(late=1)


def test_what_is_folded_from_the_beginning_or_again_is_not_late(world: Any) -> None:
    late = LateRows(world.marks)
    world.marks.move(late_mark("totals@1"), world.marks.read(late_mark("totals@1")), {"late": 5})
    arrivals = np.array([START - DAY, START - HOUR, START + HOUR])
    first = late.of_fold("totals@1", arrivals, 0, START)
    assert (first.since, first.to["late"]) == (Difference(), 0)
    again = late.of_fold("totals@1", arrivals, START - DAY, START)  # the log was restored from an earlier copy
    assert (again.since, again.to["late"], again.to["rows"]) == (Difference(), 5, 2)


def test_a_query_that_looks_at_its_interval_counts_them_and_another_one_takes_them_in(make_world: Any) -> None:
    query = "select user_id, changed, credit from accounts where changed >= :start and changed < :end"
    found = []
    for text in (query, query.partition(" where ")[0]):
        world = make_world(dated_group(query=text))
        for later in ([], [row(2.0, START - HOUR)], [row(2.0, START - HOUR), row(3.0, START + DAY + HOUR)]):
            world.write(row(1.0, START - 2 * HOUR), *later)
            world.computer.step()
            world.next_day()
        found.append(LateRows(world.marks).of("kyc@1"))
    assert found == [Difference(late=1), Difference()]
    assert LateRows(world.marks).of_query("kyc@1", world.computer._tables, [PLAIN], 0, START) is None


def test_status_and_metrics_show_them(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "shop", create=True)
    table = {"user_id": [1], "tier": ["a"], "credit": [1.0], "changed": [datetime(2026, 1, 1, tzinfo=UTC)]}
    pq.write_table(pa.table(table), tmp_path / "shop" / "accounts.parquet")
    project.apply(FOLD)
    project.drain()
    mark = late_mark("totals@1")
    project.parts.marks.move(mark, project.parts.marks.read(mark), {"late": 3, "gone": 1})
    (group,) = project.status()["groups"]
    assert (group["late"], group["gone"]) == (3, 1)
    text = exposition(Totals(), {}, {group["id"]: group})
    assert 'millstream_group_late_rows{group="totals@1"} 3.0' in text
    assert 'millstream_group_gone_rows{group="totals@1"} 1.0' in text
    assert mark in version_marks("totals@1")  # so that it goes when the version does
