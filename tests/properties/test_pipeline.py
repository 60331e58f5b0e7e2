"""The pipeline as a whole over real parts: whatever comes, however it is cut, whoever dies, one value for one moment.

Each example makes a project, sends events, and lets computing, ingestion, the archive and retention take turns at
random, with restarts, fenced workers and writes whose acknowledgement is lost. What is then read online, at any moment
on the way, is what `ms.compute` and the oracle make of the same events, bit for bit; so is a training set.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.buffer.codec.events import partition_of
from millstream.buffer.lag import records_ever
from millstream.buffer.parts import LARGEST
from millstream.buffer.topics import COMPUTING, INGESTION
from millstream.clock import SimulatedClock
from millstream.computing.stream import StreamComputer
from millstream.definitions.data_types import arrow_type, carried
from millstream.definitions.schema import element_of
from millstream.errors import Fenced
from millstream.fold import States, layout_of, pruned
from millstream.fold.oracle import oracle
from millstream.ingest.retention import trim
from millstream.ingest.stream import StreamIngester
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.shards import meta_of, pairs
from tests.properties.effort import examples
from tests.properties.worlds import (
    BASE,
    DAY,
    HOUR,
    MINUTE,
    REQUEST,
    SECOND,
    Event,
    asked_of,
    event_lists,
    group_of,
    oracle_events,
    same,
)
from tests.properties.worlds import windows as window_lists

WITHIN = HOUR
STREAM = ms.EventStream(
    "events", time="at", available="seen", deduplicate="id", within="1h", retention="2h",
    schema={"id": "string", "k": "int64", "x": "float64", "y": "float64", "s": "string", "ok": "bool", "n": "int64",
            "d": "date", "u": "uuid", "b": "bytes", "m": "decimal(38, 2)", "v": "list<float64>",
            "at": "timestamp", "seen": "timestamp"},
)  # fmt: skip
ASKS = ms.EventStream("asks", time="at", schema={"ask": "string", "k": "int64", "at": "timestamp"} | REQUEST)
OUTCOMES = ms.EventStream("outcomes", time="at", schema={"ask": "string", "y": "bool", "at": "timestamp"})
FUTURE = 5 * MINUTE
WIDEST = 6
"""As many partitions as the stream gets at most, of three at first."""

few = settings(
    max_examples=examples(30), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip
fewer = settings(few, max_examples=examples(10))
seeds = st.integers(0, 1_000)
SMALL = 2_500
"""Bytes of a record, so that those of a few events are in parts; a table of one event has nearly as many."""
turns = st.sampled_from(
    ["compute", "compute", "ingest", "ingest", "archive", "restart", "fence", "lose", "tear", "trim", "read", "grow"]
)
torn_turns = turns | st.just("ahead")


@dataclass(frozen=True)
class Sent:
    """An event under an id; the same id again is the same event again."""

    id: str
    event: Event


@st.composite
def deliveries(draw: Any) -> list[Sent]:
    """Events in order of arrival, some of them sent again soon or long after."""
    events = draw(event_lists(30))
    sent = [Sent(f"e{n}", event) for n, event in enumerate(events)]
    for _ in range(draw(st.integers(0, 6)) if events else 0):
        again = draw(st.sampled_from(sent))
        later = again.event.arrival + draw(st.sampled_from([0, 1, MINUTE, WITHIN, WITHIN + 1, DAY]))
        event = again.event
        sent.append(Sent(again.id, replace(event, arrival=later)))
    return sorted(sent, key=lambda one: one.event.arrival)


def counted(sent: list[Sent]) -> list[Event]:
    """The events that count: not those too far ahead, nor those whose id came before within the hour."""
    last: dict[str, int] = {}
    kept = []
    for one in sent:
        event = one.event
        if event.time - event.arrival > FUTURE:
            continue
        if not (one.id in last and event.arrival - last[one.id] <= WITHIN):
            kept.append(event)
        last[one.id] = event.arrival
    return kept


class Interrupted:
    """A log on which another worker is faster: it does its step before the first transaction of this one begins."""

    def __init__(self, log: Any, other: Any) -> None:
        self._log, self._other = log, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        other, self._other = self._other, None
        if other is not None:
            other.step()
        with self._log.transaction() as work:
            yield work


class Killed(Exception):
    """The process died."""


class Torn:
    """A log that keeps the deltas of a transaction and loses the rest of it: data without its offset."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        yield self
        raise Killed

    def append(self, topic: str, *batch: Any) -> None:
        if topic.startswith("features."):
            self._log.append(topic, *batch)

    def commit(self, *_: Any) -> None:
        pass


class Losing:
    """An online store whose first write is done, but the process dies before it learns so."""

    def __init__(self, online: Any) -> None:
        self._online = online

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def write(self, *arguments: Any) -> None:
        self._online.write(*arguments)
        raise Killed


@dataclass
class Pipeline:
    """A project on a simulated clock, and its workers."""

    folder: Path
    group: Any
    micro_batch: int
    seed: int | None = None  # of an adversarial log and store; without one the embedded ones are used as they are
    atomic: bool = True  # whether its transactions are
    project: ms.Project = field(init=False)
    landed: list[Sent] = field(default_factory=list)  # what was sent, under an id that names its partition too
    reads: list[tuple[int, int, dict[str, np.ndarray]]] = field(default_factory=list)
    wrong: int = 0

    def __post_init__(self) -> None:
        (self.folder / "millstream.toml").write_text("partitions = 3\nshards = 2\nlog_gib = 0.5\n")
        self.project = ms.Project(self.folder)
        self.clock = SimulatedClock(BASE - 60 * DAY)
        self.project.parts.clock = self.clock
        if self.seed is not None:
            self.project.parts.__dict__["log"] = AdversarialLog(
                self.project.parts.log,
                self.seed,
                atomic=self.atomic,
                largest=SMALL if self.seed % 3 else LARGEST,
                widest=WIDEST,
            )
            self.project.parts.__dict__["online"] = AdversarialOnlineStore(self.project.parts.online, self.seed)
        self.view = ms.FeatureView("view", request=REQUEST, features=[self.group])
        label = ms.Label(OUTCOMES, "y", on="ask", absent=False, after="1h")
        kinds = self.group.schema_of_features
        single = [self.group[name] for name in kinds if not element_of(kinds[name])]
        learnt = ms.FeatureView("learnt", request=REQUEST, features=single)
        self.project.apply(self.view, ms.Model("model", view=learnt, examples=ASKS, label=label))
        self.begin()

    def begin(self) -> None:
        """Workers that know nothing but what is stored."""
        parts = self.project.parts
        shared = None if self.seed is None else parts.log.worker(COMPUTING, ["events"])  # whose ownership is lost
        self.computer = self.another(worker=shared)
        shards = None if self.seed is None else parts.log.worker(INGESTION, ["features.g@1"])
        self.ingester, self.archiver = parts.layers.ingester(shards), parts.layers.archiver()
        self.shards = shards

    def close(self) -> None:
        """Give up what is owned."""
        self.computer.close()
        if self.shards is not None:
            self.shards.close()

    def another(self, log: Any = None, micro_batch: int | None = None, worker: Any = None) -> StreamComputer:
        parts = self.project.parts
        return StreamComputer(
            log or parts.log, parts.registry.streams(), parts.registry.groups(), parts.clock,
            data=parts.settings.data, micro_batch=micro_batch or self.micro_batch, worker=worker,
        )  # fmt: skip

    def send(self, sent: list[Sent], as_table: bool, spoilt: bool) -> None:
        """Append events that arrive at one instant, with one among them that fits no schema."""
        self.clock.set(max(self.clock.now(), sent[0].event.arrival))
        width = self.project.parts.log.topics()["events"]
        for one in sent:
            ((partition, _),) = partition_of(STREAM, [{"id": one.id}], width)
            self.landed.append(Sent(f"{one.id}/{partition}", one.event))
        rows = [
            {"id": one.id, "k": one.event.k, "x": one.event.x, "y": one.event.y, "s": one.event.s,
             "ok": one.event.ok, "n": one.event.n, "d": one.event.d, "u": one.event.u, "b": one.event.b, "m": one.event.m,
             "v": one.event.v, "at": one.event.time, "seen": one.event.arrival}
            for one in sent
        ]  # fmt: skip
        if as_table or any(float("inf") in (row["x"], row["y"]) for row in rows):
            columns = [pa.array([row[name] for row in rows], arrow_type(STREAM.schema[name])) for name in rows[0]]
            self.project.send("events", pa.table(columns, list(rows[0])))
        else:
            bad: list[Any] = [{**rows[0], "k": "one"}, {**rows[0], "at": None}] if spoilt else []
            self.wrong += len(bad)
            self.project.send("events", [*rows, *bad])

    def turn(self, what: str) -> None:
        """Let one worker do one thing."""
        parts = self.project.parts
        if what == "compute":
            self.computer.step()
        elif what == "ingest":
            self.ingester.step()
        elif what == "archive":
            self.archiver.step()
        elif what == "restart":
            self.close()
            self.begin()
        elif what == "fence":
            with self.another() as first, self.another(Interrupted(parts.log, first)) as second:
                second.step()
        elif what == "tear":
            with suppress(Killed), self.another(Torn(parts.log), self.micro_batch // 2 + 1) as worker:
                worker.step()
        elif what == "lose":
            with suppress(Killed):
                StreamIngester(
                    parts.log,
                    Losing(parts.online),
                    parts.registry.groups(),
                    parts.clock,
                    events=parts.histories.events(),
                ).step()
        elif what == "trim":
            trim(parts)
        elif what == "grow":
            parts.log.grow("events", min(WIDEST, parts.log.topics()["events"] + 1))
        elif what == "ahead":
            self.commit_ahead()

    def commit_ahead(self) -> None:
        """An offset without its data: whoever computes has committed more than is there."""
        log = self.project.parts.log.embedded
        ends = enumerate(self.project.parts.log.ends("events"))
        known = log.committed("compute/g@1", "events")
        with log.transaction() as work:
            for partition, (_, end) in ends:
                work.commit("compute/g@1", "events", partition, known[partition], end)

    def drain(self) -> None:
        """Compute and ingest until nothing is left."""
        whole = self.project.parts.layers.ingester()
        with self.another() as alone:
            for _ in range(1_000):
                computed = self.computer.step() + alone.step()
                ingested = self.ingester.step() + whole.step()
                left = computed.fenced or computed.lag or ingested.fenced or ingested.lag
                if not (left or computed.records or ingested.records):
                    return
        raise AssertionError("the buffer is empty in the end")

    def read(self, at: int) -> dict[str, np.ndarray]:
        """The group's features of the three keys, as serving reads them."""
        found = self.project.features("view", [{"k": k, **asked_of(k)} for k in range(3)], at)
        return {name.removeprefix("g__"): carried(found[name]) for name in found.column_names}

    def states(self) -> list[tuple[bytes, bytes]]:
        """Everything the online store holds."""
        return [pair for shard in range(2) for pair in pairs(self.project.parts.online, "g@1", shard)]

    def dead(self) -> int:
        """How many dead letters there are; an atomic log has each once."""
        found = self.project.dead_letters("events").num_rows
        assert not self.atomic or found == records_ever(self.project.parts.log, "dead.events")
        return found


def history(sent: list[Sent]) -> pa.Table:
    """What was sent, as a data frame."""
    rows = [one for one in sent if one.event.time - one.event.arrival <= FUTURE]
    instant = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "id": pa.array([one.id for one in rows], pa.string()),
            "k": pa.array([one.event.k for one in rows], pa.int64()),
            "x": pa.array([one.event.x for one in rows], pa.float64()),
            "y": pa.array([one.event.y for one in rows], pa.float64()),
            "s": pa.array([one.event.s for one in rows], pa.string()),
            "ok": pa.array([one.event.ok for one in rows], pa.bool_()),
            "n": pa.array([one.event.n for one in rows], pa.int64()),
            "d": pa.array([one.event.d for one in rows], pa.date32()),
            "u": pa.array([one.event.u for one in rows], pa.uuid()),
            "b": pa.array([one.event.b for one in rows], pa.binary()),
            "m": pa.array([one.event.m for one in rows], pa.decimal128(38, 2)),
            "v": pa.array([one.event.v for one in rows], pa.list_(pa.float64())),
            "at": pa.array([one.event.time for one in rows], instant),
            "seen": pa.array([one.event.arrival for one in rows], instant),
        }
    )


def arrivals(sent: list[Sent]) -> Iterator[list[Sent]]:
    """What arrives at one instant, instant by instant."""
    for one in sorted({one.event.arrival for one in sent}):
        yield [some for some in sent if some.event.arrival == one]


def pure(view: Any, sent: list[Sent], asks: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """What `ms.compute` makes of it for (key, instant) pairs."""
    found = ms.compute(view, {"events": history(sent)}, [{"k": k, "at": at, **asked_of(k)} for k, at in asks])
    return {name.removeprefix("g__"): carried(found[name]) for name in found.column_names if name.startswith("g__")}


def bits(column: np.ndarray) -> list[Any]:
    """Values that are equal exactly when they are the same bits; all nulls are one."""
    if column.dtype == object:  # texts, or whole numbers of which one of the column is beyond what a float64 holds
        small = [isinstance(value, int | float) and abs(value) <= 2**53 for value in column.tolist()]
        return [
            np.float64(value).tobytes() if fits else value for value, fits in zip(column.tolist(), small, strict=True)
        ]
    return [None if value != value else np.float64(value).tobytes() for value in column.tolist()]


def run(pipe: Pipeline, sent: list[Sent], data: Any) -> None:
    """Send everything, with random turns of the workers in between; note what is read on the way."""
    moments = list(arrivals(sent))
    following = [moment[0].event.arrival for moment in moments[1:]]
    for place, moment in enumerate(moments):
        pipe.send(moment, data.draw(st.booleans()), data.draw(st.booleans()))
        for what in data.draw(st.lists(turns if pipe.atomic else torn_turns, max_size=3)):
            pipe.turn(what)
            if what == "read":
                room = following[place] - 1 - pipe.clock.now() if place < len(following) else 40 * DAY
                pipe.drain()
                at = pipe.clock.now() + data.draw(st.integers(0, max(0, room)))
                pipe.reads.append((at, at, pipe.read(at)))
    pipe.drain()


gaps = st.sampled_from([0, 1, SECOND, 5 * SECOND, MINUTE, 7 * MINUTE, HOUR, DAY, 8 * DAY, 31 * DAY])
groups = st.builds(
    lambda windows, filtered, values: group_of(windows, filtered, STREAM, values),
    window_lists, st.booleans(), st.booleans(),
)  # fmt: skip


replays = st.tuples(
    groups, deliveries(), st.integers(1, 20), st.lists(gaps, min_size=1, max_size=3), st.integers(0, 5 * SECOND)
)


@few
@given(replays, st.data())
def test_what_is_read_online_is_compute_and_the_oracle_and_a_replay_changes_nothing(drawn: Any, data: Any) -> None:
    check_online(*drawn, data)


@fewer
@given(replays, st.data(), seeds)
def test_what_is_read_online_is_right_on_a_log_with_gaps_and_a_store_that_writes_in_pieces(
    drawn: Any, data: Any, seed: int
) -> None:
    check_online(*drawn, data, seed)


@fewer
@given(replays, st.data(), seeds)
def test_what_is_read_online_is_right_on_a_log_whose_transactions_come_apart(drawn: Any, data: Any, seed: int) -> None:
    check_online(*drawn, data, seed, atomic=False)


def check_online(
    group: Any,
    sent: list[Sent],
    micro_batch: int,
    later: list[int],
    before: int,
    data: Any,
    seed: int | None = None,
    *,
    atomic: bool = True,
) -> None:
    """What is read online, while everything goes on and at the end, and again from a replay."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Pipeline(Path(folder), group, micro_batch, seed, atomic)
        run(pipe, sent, data)
        end = max((one.event.arrival for one in sent), default=BASE)
        pipe.reads += [(at, max(at, end), pipe.read(at)) for at in [end - before, *(end + gap for gap in later)]]
        check_reads(pipe, pipe.landed, group)
        early = sum(one.event.time - one.event.arrival > FUTURE for one in sent)
        assert pipe.dead() == pipe.wrong + early
        check_replay(pipe)
        pipe.close()
        pipe.project.close()


def check_reads(pipe: Pipeline, sent: list[Sent], group: Any) -> None:
    """Hold every read to both; `compute` knows what had arrived by then, a store may have applied what came later."""
    events = counted(sent)
    frame = pure(pipe.view, sent, [(k, at) for at, _, _ in pipe.reads for k in range(3)])
    for row, (at, upto, read) in enumerate(pipe.reads):
        for k in range(3):
            known = [event for event in events if event.arrival <= upto]
            assert same(read, k, oracle(group.columns, oracle_events(known, k), at, upto, asked_of(k))) == [], (k, at)
            if upto == at:
                wanted = {name: bits(column)[3 * row + k] for name, column in frame.items()}
                assert {name: bits(read[name])[k] for name in frame} == wanted, (k, at)


def check_states(pipe: Pipeline, before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> None:
    """The same keys have the same bytes, once both sides are pruned by the newer arrival that either knows.

    What a write corroborates depends on how many deltas it takes, so that a replay may prune earlier or later: `Syncer`
    compares in the same way.
    """
    assert [key for key, _ in after] == [key for key, _ in before]
    both = [States.from_bytes([state for _, state in some]) for some in (before, after)]
    newest = np.maximum(*(states.newest for states in both))
    left, right = (pruned(layout_of(pipe.group), states, newest).to_bytes() for states in both)
    assert left == right


def check_replay(pipe: Pipeline) -> None:
    """Ingestion from the first delta into an emptied store, and computing that another worker has done: no change."""
    parts = pipe.project.parts
    before, ends = pipe.states(), parts.log.ends("features.g@1")
    metas = [meta_of(parts.online, "g@1", shard) for shard in range(2)]
    parts.online.drop("g@1")
    again = parts.layers.ingester()
    while again.step().lag:
        pass
    check_states(pipe, before, pipe.states())
    for shard, old in enumerate(metas):
        new = meta_of(parts.online, "g@1", shard)
        assert (old and old.applied) == (new and new.applied)
        assert not pipe.atomic or (old and old.position) == (new and new.position)  # on another, more may come late
    if not pipe.atomic:
        return
    at = parts.log.committed("compute/g@1", "events")
    try:
        with parts.log.transaction() as work:
            work.commit("compute/g@1", "events", 0, (at[0] or 0) + 1, 0)
        raise AssertionError("a worker that was overtaken must be refused")
    except Fenced:
        pass
    with pipe.another() as idle:
        assert idle.step().records == 0
    assert parts.log.ends("features.g@1") == ends


asked = st.tuples(groups, deliveries(), st.lists(st.tuples(st.integers(0, 29), gaps), max_size=4))


@few
@given(asked, st.data())
def test_a_training_set_is_compute_on_what_was_served_by_then(drawn: Any, data: Any) -> None:
    check_training_set(*drawn, data)


@fewer
@given(asked, st.data(), seeds)
def test_a_training_set_is_right_on_a_log_with_gaps_that_shows_late_what_it_has(
    drawn: Any, data: Any, seed: int
) -> None:
    check_training_set(*drawn, data, seed)


@fewer
@given(asked, st.data(), seeds)
def test_a_training_set_is_right_on_a_log_whose_transactions_come_apart(drawn: Any, data: Any, seed: int) -> None:
    check_training_set(*drawn, data, seed, atomic=False)


def check_training_set(
    group: Any,
    sent: list[Sent],
    asks: list[tuple[int, int]],
    data: Any,
    seed: int | None = None,
    *,
    atomic: bool = True,
) -> None:
    """Each row of a training set, whatever is archived and trimmed by then."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Pipeline(Path(folder), group, 20, seed, atomic)
        moments = [one.event.arrival for one in sent] or [BASE]
        run(pipe, sent, data)
        instants = [moments[n % len(moments)] + gap for n, gap in asks] + [moments[-1], moments[-1] + MINUTE]
        examples = [
            {"ask": f"a{at}-{k}", "k": k, "at": at, **asked_of(k)} for at in sorted(set(instants)) for k in range(4)
        ]
        pipe.clock.set(max(pipe.clock.now(), moments[-1] + 40 * DAY))
        pipe.project.send("asks", examples)
        for what in data.draw(st.lists(st.sampled_from(["compute", "archive", "trim", "archive"]), max_size=4)):
            pipe.turn(what)
        found = pipe.project.training_set("model").table.sort_by([("_at", "ascending"), ("k", "ascending")])
        wanted = sorted((row["at"], row["k"]) for row in examples)
        assert list(zip(found["_at"].to_pylist(), found["k"].to_pylist(), strict=True)) == wanted
        delay = pipe.project.parts.served.delay(pipe.project.parts.registry.group("g"))
        for place, (at, k) in enumerate(wanted):
            served = [one for one in pipe.landed if one.event.arrival + delay <= at]
            frame = pure(pipe.view, served, [(k, at)])
            trained = {name: f"g__{name}" for name in frame if f"g__{name}" in found.column_names}
            assert {name: bits(carried(found[column]))[place] for name, column in trained.items()} == {
                name: bits(frame[name])[0] for name in trained
            }
        pipe.close()
        pipe.project.close()
