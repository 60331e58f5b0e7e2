"""Keys with more different values than a feature tells apart are counted, however many looks that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.properties.worlds import BASE, ENTITY, MINUTE, STREAM, Event, prepared

import millstream as ms
from millstream.clock import SimulatedClock, to_micros
from millstream.errors import StoreError
from millstream.fold import States, fold, layout_of, value
from millstream.fold.bounds import beyond_bounds
from millstream.serve.bounds import KeysBeyond

USER = ms.Entity("user", keys={"user_id": "int64"})
PAID = ms.EventStream("paid", time="at", schema={"user_id": "int64", "shop": "int64", "at": "timestamp"})
NOON = to_micros("2026-01-01T12:00:00Z")
SHOPS = ms.StreamFeatureGroup("shops", entity=USER, source=PAID, features=[
    ms.TopK("shop", categories=2, over="1h"), ms.Count(over="1h")])  # fmt: skip
PACE = ms.StreamFeatureGroup("pace", entity=USER, source=PAID, features=[ms.Count(over="1h")])


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """Users 0 to 9, of whom each third one was in three shops."""
    found = ms.Project(tmp_path / "p", create=True)
    found.parts.clock = SimulatedClock(NOON)
    found.apply(ms.FeatureView("v", features=[SHOPS, PACE]))
    found.send("paid", [
        {"user_id": user, "shop": shop, "at": NOON - MINUTE} for user in range(10) for shop in range(2 + (user % 3 == 0))
    ])  # fmt: skip
    found.drain()
    yield found
    found.close()


def told(project: ms.Project) -> dict[str, Any]:
    """By group versions, how many keys are beyond their bounds, and of how many."""
    return {one["id"]: (one["beyond_bounds"], one["of_keys"]) for one in project.status()["groups"]}


def test_status_says_how_many_keys_are_beyond(project: ms.Project) -> None:
    assert told(project) == {"shops@1": (4, 10), "pace@1": (None, None)}
    project.parts.clock.set(NOON + 2 * 60 * MINUTE)
    assert told(project)["shops@1"] == (0, 10)


def test_a_look_goes_on_where_the_one_before_ended(project: ms.Project) -> None:
    parts = project.parts
    versions = parts.registry.groups()
    counting = KeysBeyond(parts.online, parts.clock, most=3, rest=0.0)
    looks = [counting.look(versions)["shops@1"] for _ in range(12)]
    assert looks[0][1] <= 3
    assert (4, 10) in looks
    after = looks[looks.index((4, 10)) :]
    assert set(after) == {(4, 10)}  # what was found in all holds until it is found again
    resting = KeysBeyond(parts.online, parts.clock)
    assert resting.look(versions) == {"shops@1": (4, 10)}
    project.send("paid", [{"user_id": 1, "shop": shop, "at": NOON - 1} for shop in range(7, 10)])
    project.drain()
    assert resting.look(versions) == {"shops@1": (4, 10)}


def test_a_store_that_cannot_be_read_is_no_error(project: ms.Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(project.parts.online, "scan", fails)
    assert told(project)["shops@1"] == (None, None)


@pytest.mark.parametrize(
    "over", ["1m", "1h", None, "3 events", "9 events", ms.Session(gap="30s"), ms.Session(gap="1h")]
)
@pytest.mark.parametrize("column", ["s", "n"])
def test_what_is_beyond_is_what_is_null(column: str, over: Any) -> None:
    group = ms.StreamFeatureGroup("g", entity=ENTITY, source=STREAM, features=[
        ms.TopK(column, categories=3, over=over), ms.DistinctCount(column, over=over)])  # fmt: skip
    layout = layout_of(group)
    events = [
        Event(k, BASE + i * MINUTE, BASE + i * MINUTE, 1.0, 1.0, "abcdef"[i % (k + 2)], True, i % (k + 2))
        for k in range(3)
        for i in range(8)
    ]
    states = fold(layout, prepared(group, events))
    for later in (1, 5 * MINUTE, 90 * MINUTE):
        at = np.full(len(states), BASE + 7 * MINUTE + later, np.int64)
        found = value(layout, states, at).columns
        lists, counts = (found[name] for name in layout.columns)
        assert beyond_bounds(layout, states, at).tolist() == (counts > 3).tolist()
        assert [one is None for one in lists.tolist()] == (counts > 3).tolist()
    assert beyond_bounds(layout, States.from_bytes([b""]), np.array([BASE])).tolist() == [False]
