"""Rows of one event each are read in columns, and come out as they do one by one."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.embedded.rows import PART, record_key
from millstream.buffer.log import Batch, Encoding
from millstream.clock import SimulatedClock
from millstream.errors import CorruptLog

#: Sizes around what one row takes, and one of several rows.
sizes = st.sampled_from([0, 1, 7, 200, PART - 25, PART - 24, PART - 23, 3 * PART])
encodings: st.SearchStrategy[Encoding] = st.sampled_from(["json", "arrow", "bytes"])
batches = st.lists(st.tuples(sizes, encodings, st.sampled_from([1, 1, 1, 2, 900])), min_size=1, max_size=60)


def opened(folder: str | Path) -> EmbeddedLog:
    return EmbeddedLog(folder, SimulatedClock(7), map_gib=0.1, fsync=False)


@settings(max_examples=40, deadline=None)
@given(batches, st.integers(0, 60_000), st.integers(1, 3_000), st.integers(0, 100))
def test_a_read_gives_the_batches_from_a_position_on_until_they_hold_what_was_asked_for(
    shape: list[tuple[int, Encoding, int]], position: int, limit: int, again: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = opened(folder)
        log.create("before", 1)
        log.create("events", 2)
        begins, end = [], 0
        sent = [Batch(bytes([n % 251]) * size, kind, count) for n, (size, kind, count) in enumerate(shape)] * (
            again + 1
        )
        with log.transaction() as work:
            for number, batch in enumerate(sent):
                begins.append(end)
                end = work.append("events", 0, batch, number) + batch.count
                work.append("events", 1, batch, number)
        position %= end
        first = max(n for n, begin in enumerate(begins) if begin <= position)
        last = next(
            (n for n in range(first, len(sent)) if begins[n] + sent[n].count >= position + limit), len(sent) - 1
        )
        found = log.read("events", 0, position, limit)
        wanted = sent[first : last + 1]
        assert [(b.payload, b.encoding, b.count) for b in wanted] == list(
            zip(found.payloads, found.encodings, found.counts.tolist(), strict=True)
        )
        assert found.appended.tolist() == list(range(first, last + 1))
        assert (found.skip, found.next) == (position - begins[first], begins[last] + sent[last].count)
        assert found.positions.tolist() == list(range(position, found.next))
        log.close()


def test_an_event_a_row_costs_no_call_of_python_each(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.create("events", 1)
    with log.transaction() as work:
        for number in range(20_000):
            work.append("events", 0, Batch(b"%d" % number, "json", 1))
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        found = log.read("events", 0, 0, 20_000)
    finally:
        sys.setprofile(None)
    assert found.payloads == [b"%d" % number for number in range(20_000)]
    assert calls < 1_000
    log.close()


@pytest.mark.parametrize("other", ["another position", "another partition"])
def test_a_row_that_lies_under_the_key_of_another_one_is_named(tmp_path: Path, other: str) -> None:
    log = opened(tmp_path)
    log.create("events", 2)
    for number in range(40):
        log.append("events", 0, Batch(b"%d" % number, "json", 1))
        log.append("events", 1, Batch(b"%d" % -number, "json", 1))
    log.close()
    with lmdb.open(str(tmp_path), map_size=1 << 27) as environment, environment.begin(write=True) as rows:
        there = rows.get(record_key(0, 0, 30) if other == "another position" else record_key(0, 1, 29))
        rows.put(record_key(0, 0, 29), there)
    log = opened(tmp_path)
    assert log.read("events", 0, 0, 29).next == 29
    with pytest.raises(CorruptLog, match="topic 'events', partition 0, position 29"):
        log.read("events", 0, 0, 30)
    log.close()
