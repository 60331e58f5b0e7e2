"""Whenever and whatever is asked online, the answer is what `ms.compute` gives, or says that it is none."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.serve.reader import FeatureReader
from millstream.serve.request import RequestSchema
from millstream.store.online import EARLY
from tests.properties.effort import examples

NOON = to_micros("2026-03-01T12:00:00Z")
SECOND = 1_000_000
user = ms.Entity("user", keys={"user_id": "int64"})
shop = ms.Entity("shop", keys={"shop": "string"})
COLUMNS = {
    "id": "int64",
    "user_id": "int64",
    "buyer": "int64",
    "shop": "string",
    "amount": "float64",
    "at": "timestamp",
}


def declared(delay: int, deduplicate: bool) -> tuple[ms.EventStream, ms.FeatureView]:
    stream = ms.EventStream(
        "orders", time="at", schema=COLUMNS, delay=timedelta(seconds=delay), deduplicate="id" if deduplicate else None,
        partitions=2,
    )  # fmt: skip
    features = [
        ms.Count(over=["1m", "1h"]), ms.Sum("amount", over="5m"), ms.Last("amount"), ms.TimeSince(), ms.Count(name="ever"),
        ms.Max("amount", over="10m", delay="1m"), ms.Last("shop"),
    ]  # fmt: skip
    groups = [
        ms.StreamFeatureGroup("by_user", entity=user, source=stream, features=features, where="amount > 1"),
        ms.StreamFeatureGroup("bought", entity=user, source=stream, features=features, keys={"user_id": "buyer"}),
        ms.StreamFeatureGroup("by_shop", entity=shop, source=stream, features=features[:2], derive={"name": "upper(shop)"},
                              keys={"shop": "name"}),
    ]  # fmt: skip
    return stream, ms.FeatureView("all", features=groups)


INSTANTS = st.one_of(st.integers(-120, 0), st.integers(-5000, 0), st.integers(-60, -40)).map(
    lambda s: NOON + s * SECOND
)
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "A"]), st.integers(0, 4), INSTANTS), max_size=30
)  # fmt: skip
ASKED = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["A", "B", "c"]), INSTANTS, st.integers(-1, 1)), min_size=1, max_size=8
)


@settings(max_examples=examples(12), deadline=None)
@given(events=EVENTS, asked=ASKED, delay=st.sampled_from([0, 7200]), deduplicate=st.booleans(), synced=st.booleans())
def test_an_online_answer_is_what_was_so_or_says_that_it_is_none(
    events: list[Any], asked: list[Any], delay: int, deduplicate: bool, synced: bool
) -> None:
    stream, view = declared(delay, deduplicate)
    rows = [
        {"id": number % 11, "user_id": one, "buyer": 2 - one, "shop": place, "amount": float(amount), "at": at}
        for number, (one, place, amount, at) in enumerate(events)
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / ".millstream"
        data.mkdir()
        FileClock(data / "clock.json").set(NOON + 10_800 * SECOND, rate=0.0)
        project = ms.Project(folder, create=True)
        project.apply(view)
        for row in rows:  # in one partition each, so that repeats are told alike
            project.load(stream, [row])
        project.drain()
        project.backfill()
        if synced:
            project.sync()
        keys = [{"user_id": one, "shop": place, "at": at + nudge} for one, place, at, nudge in asked]
        found = project.features(view, keys).to_pylist()
        events = (
            project.parts.histories.events().read(stream).drop_columns(["rest", "_partition", "_position", "_appended"])
        )
        plain = ms.EventStream("orders", time="at", schema=COLUMNS, delay=timedelta(seconds=delay))
        wanted = ms.compute(declared(delay, False)[1], {plain: events.drop_columns(["_arrival"])}, keys)
        assert found == wanted.select(list(found[0])).to_pylist()
        if delay:
            return  # what serving answers goes by the events' own times, for it is live events that are stamped late
        reader = FeatureReader(project.parts.online, view, project.parts.served.versions(), project.parts.clock)
        given = RequestSchema(view).parse(keys, 0)
        read = reader.read(given.values, given.at)
        for name, facts in read.facts.items():
            columns = [column for column in read.columns if column.startswith(f"{name}__")]
            for place, fact in enumerate(facts):
                values = {column: shown(read.columns[column][place]) for column in columns}
                told = {column: shown(wanted[column][place].as_py()) for column in columns}
                assert values == (dict.fromkeys(columns) if fact.fallback else told)
                assert fact.fallback in (None, EARLY)
                assert not any(value < 0 for column, value in values.items() if "since" in column and value is not None)


def shown(value: Any) -> Any:
    """A value as a number or text, None for null."""
    return None if value is None or value != value else float(value) if isinstance(value, int | np.floating) else value
