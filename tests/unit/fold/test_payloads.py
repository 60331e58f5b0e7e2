"""What is kept of the events of each value apart: merged in any order to the same bits, and taken out of history again."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from millstream.fold import entries, lanes
from millstream.fold.entry_inputs import EntryInput
from millstream.fold.entry_layout import Bag, Part, row_of
from millstream.fold.entry_payloads import payload_of, payload_trees, put_payload
from millstream.fold.fixed_point import from_sortable, sum_of
from millstream.fold.lane_plans import Slot
from millstream.fold.lifting import LaneInput

SUM = Slot("sum", "x", None, lanes.ADD, 3, 1, other="c")
LEAST = Slot("extreme", "x", None, lanes.LEAST, 1, 4, other="c")
LAST = Slot("dated", "x", None, lanes.GREATEST, 2, 5, other="c")
BAG = Bag(entries.BOUNDED, 256, (Part("value"),), "c", "int64", None, other="x", payload=(SUM, LEAST, LAST))
ROW = row_of(BAG, 0)
LANES = 1 + BAG.width

Rows = list[tuple[int, int | None, float | None]]


def events(seed: int, many: int = 60) -> Rows:
    """Times, categories and numbers, some of which are not there."""
    draw = random.Random(seed)
    return [
        (draw.randrange(20), draw.choice([None, *range(6)]), draw.choice([None, -0.0, 1e-9, draw.uniform(-1e6, 1e6)]))
        for _ in range(many)
    ]


def lifted(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """One row of entries for each event, and their times."""
    columns = {
        "c": pa.chunked_array([pa.array([c for _, c, _ in rows], pa.int64())]),
        "x": pa.chunked_array([pa.array([x for _, _, x in rows], pa.float64())]),
    }
    there = np.array([x is not None for _, _, x in rows])
    payload = [LaneInput(slot, slot.expression, None, slot.other, columns, len(rows)) for slot in BAG.payload]
    times = np.array([time for time, _, _ in rows], np.int64)
    out = np.empty((len(rows), LANES), np.int64)
    EntryInput(BAG, [columns["c"]], there, payload).lift(times, None, out, 0)
    return out, times


def gathered(found: np.ndarray, places: list[int]) -> np.ndarray:
    out = np.empty(len(places) * LANES + entries.GROWTH, np.int64)
    return out[: entries.gather(ROW, found, np.array(places, np.int64), out, 0)].copy()


def said(bag: np.ndarray) -> dict[int, tuple[int, float, float, float]]:
    """By category: how many events, the sum, the least and the last."""
    result = {}
    for at in range(1, len(bag), BAG.width):
        key, count, *sums = bag[at : at + 5].tolist()
        result[key] = (count, sum_of(*sums), from_sortable(bag[at + 5]), from_sortable(bag[at + 7]))
    return result


def by_hand(rows: Rows) -> dict[int, tuple[int, float, float, float]]:
    groups = defaultdict(list)
    for time, c, x in rows:
        if c is not None and x is not None:
            groups[c].append((time, x + 0.0))
    return {
        c: (len(all_), sum(round(x * 2**64) for _, x in all_) / 2**64, min(x for _, x in all_), max(all_)[1])
        for c, all_ in groups.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_entries_keep_what_is_merged_of_the_events_of_each_key(seed: int) -> None:
    rows = events(seed)
    found, _ = lifted(rows)
    assert {key: pytest.approx(value) for key, value in by_hand(rows).items()} == said(
        gathered(found, list(range(len(rows))))
    )


@pytest.mark.parametrize("seed", range(5))
def test_bags_with_payloads_merge_in_any_order_and_grouping_to_the_same_bits(seed: int) -> None:
    found, _ = lifted(events(seed))
    draw, places = random.Random(seed), list(range(len(found)))
    whole = gathered(found, places)
    for _ in range(10):
        draw.shuffle(places)
        cuts = sorted(draw.sample(range(1, len(places)), 3))
        parts = [gathered(found, places[a:b]) for a, b in zip([0, *cuts], [*cuts, len(places)], strict=True)]
        while len(parts) > 1:
            draw.shuffle(parts)
            left, right = parts.pop(), parts.pop()
            out = np.empty(len(left) + len(right) + entries.GROWTH, np.int64)
            parts.append(out[: entries.union(ROW, left, 0, right, 0, out, 0)].copy())
        np.testing.assert_array_equal(parts[0], whole)


@pytest.mark.parametrize("seed", range(5))
def test_an_event_that_leaves_a_tree_leaves_nothing_behind(seed: int) -> None:
    rows = events(seed)
    found, _ = lifted(rows)
    of = np.array([-1 if c is None or x is None else c for _, c, x in rows], np.int64)
    begins, sizes, nodes, held = payload_trees(ROW, of, 7)
    draw, inside = random.Random(seed), set[int]()
    for _ in range(300):
        event = draw.randrange(len(rows))
        if of[event] < 0:
            continue
        inside ^= {event}
        put_payload(ROW, begins[of[event]], nodes[event], held, found[event], 3, event in inside)
        out = np.empty(6, np.int64)
        payload_of(ROW, begins[of[event]], sizes[of[event]], held, out, 0)
        mine = [one for one in sorted(inside) if of[one] == of[event]]
        if mine:
            np.testing.assert_array_equal(out, gathered(found, mine)[3:])
        else:
            np.testing.assert_array_equal(out, [0, 0, 0, lanes.EMPTY_LEAST, *[lanes.EMPTY_GREATEST] * 2])
    payload_of(ROW, begins[6], sizes[6], held, out, 0)
    np.testing.assert_array_equal(out, [0, 0, 0, lanes.EMPTY_LEAST, *[lanes.EMPTY_GREATEST] * 2])
