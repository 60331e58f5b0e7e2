"""Whatever happens to a project, what it served is recomputed to the bit, and training sees what serving saw.

Each example is a project on a clock that the test moves. Events come late, early, repeated and without keys, tables
grow, requests are scored at moments now and then, definitions change, models are exchanged, the log is archived and
trimmed, the process starts again. In the end every served value is verified, every difference from training explained,
the two stores agree, what is read is what `ms.compute` makes of the same events, and a training set can be made again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.clock import FileClock
from millstream.errors import NotFound
from millstream.ingest.retention import trim
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.shards import meta_of
from millstream.testing.simulation.declared import ACCOUNTS, Declared, changed, parts_of
from millstream.train import trial
from millstream.train.stored_history import Stored
from millstream.train.training_set import TrainingSet, training_set
from tests.properties.declarations import changes, declared
from tests.properties.effort import examples
from tests.properties.parts import in_parts
from tests.properties.worlds import BASE, DAY, HOUR, MINUTE, SECOND

FUTURE = 5 * MINUTE
INSTANT = pa.timestamp("us", "UTC")
few = settings(
    max_examples=examples(6), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)  # fmt: skip

keys = st.sampled_from([0, 1, 2, 3, None])
amounts = st.sampled_from([None, 0.1, 0.2, 1.0, -3.5, 1e9 + 0.01, 12.34])
texts = st.sampled_from([None, "DE", "FR", "é", ""])
lates = st.sampled_from([0, 0, 0, 1, SECOND, 4 * SECOND, MINUTE, 20 * MINUTE, 3 * HOUR, -SECOND, -4 * MINUTE, -HOUR])
flags = st.sampled_from([True, True, False, None])
gaps = st.sampled_from([1, SECOND, 3 * SECOND, MINUTE, 4 * MINUTE, 10 * MINUTE, HOUR, DAY])
moments = st.sampled_from([None, None, None, 0, -1, -4 * SECOND, -MINUTE, -HOUR, SECOND, 2 * MINUTE])
event = st.tuples(st.integers(0, 15), keys, keys, amounts, texts, flags, lates)
events = st.tuples(
    st.just("send"), st.sampled_from(["events", "events", "more"]), st.lists(event, min_size=1, max_size=6)
)
row = st.tuples(keys, amounts, texts, st.sampled_from([-9 * MINUTE, -MINUTE, 0, 2 * MINUTE, HOUR]))
request = st.tuples(keys, keys, amounts, texts, moments)
steps = st.one_of(
    events, events,
    st.tuples(st.just("table"), st.lists(row, min_size=1, max_size=3)),
    st.tuples(st.just("advance"), gaps), st.tuples(st.just("advance"), gaps),
    st.tuples(st.just("score"), st.lists(request, min_size=1, max_size=4)),
    st.tuples(st.just("score"), st.lists(request, min_size=1, max_size=4)),
    st.sampled_from([("compute",), ("ingest",), ("drain",), ("drain",), ("batch",), ("sync",), ("trim",), ("reopen",),
                     ("ask",), ("backfill",), ("anew",), ("deploy",), ("rollback",), ("check",)]),
    st.tuples(st.just("burst"), st.integers(50, 90)),
    st.tuples(st.just("write"), st.lists(row, min_size=1, max_size=2)),
    st.tuples(st.just("change"), changes()),
)  # fmt: skip


def fitted(view: ms.FeatureView) -> tuple[lightgbm.Booster, dict[str, list[str]]]:
    """A small model that reads every column."""
    rng = np.random.default_rng(3)
    drawn = lightgbm.Dataset(rng.random((60, len(view.inputs))), rng.integers(0, 2, 60), feature_name=list(view.inputs))
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1, "min_data": 2}, drawn, 1)
    trial.trust("lightgbm", booster.model_to_string())  # trying a model out takes a process and a second
    return booster, {name: ["DE", "FR", "yes"] for name, kind in view.inputs.items() if kind == "string"}


@dataclass
class World:
    """A project, what was sent to it, and how it is declared now."""

    folder: Path
    shape: Declared
    adversary: int | None = None  # what an adversarial log and store draw from
    sent: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"events": [], "more": []})
    accounts: list[dict[str, Any]] = field(default_factory=list)
    asks: int = 0
    written: bool = False

    def __post_init__(self) -> None:
        data = self.folder / ".millstream"
        data.mkdir()
        (self.folder / "millstream.toml").write_text("partitions = 2\nshards = 2\nlog_gib = 0.2\nfsync = false\n")
        self.clock = FileClock(data / "clock.json")
        self.clock.set(BASE, rate=0.0)
        self.table([(1, 1.0, "DE", -MINUTE)])
        self.open()
        self.project.apply(self.shape.model)
        self.project.drain()
        self.project.backfill()
        self.deploy()
        self.traffic()

    def open(self) -> None:
        """A process that knows nothing but what is stored."""
        self.project = ms.Project(self.folder)
        if self.adversary is not None:
            self.project.parts.__dict__["log"] = AdversarialLog(self.project.parts.log, self.adversary)
            self.project.parts.__dict__["online"] = AdversarialOnlineStore(self.project.parts.online, self.adversary)

    def run(self, step: tuple[Any, ...]) -> None:
        """Do one thing."""
        getattr(self, step[0])(*step[1:])

    def send(self, stream: str, drawn: list[tuple[Any, ...]]) -> None:
        """Events that arrive now; an id says what else an event holds, so that a repeat is the same event again."""
        now, rows = self.clock.now(), []
        known = {row["id"]: row for row in self.sent[stream]}
        for number, k, other, x, s, ok, late in drawn:
            fresh = {"id": f"e{number}", "k": k, "other": other, "x": x, "s": s, "ok": ok, "at": now - late}
            rows.append({**known.setdefault(fresh["id"], fresh), "seen": now})
        self.sent[stream] += rows
        if stream in {one.name for one in self.project.parts.registry.streams()}:
            self.project.send(stream, rows)

    def burst(self, size: int) -> None:
        """More events of one key within three seconds than its state keeps apart."""
        self.send("events", [(100 + i, 1, 2, 0.1 * i, "DE", True, i * 40_000) for i in range(size)])

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        """Rows given to a query's group by hand, after which `ms.compute` cannot know what it holds."""
        if "dated" in {one.name for one in self.shape.groups}:
            now = self.clock.now()
            self.project.write("dated", [{"k": k, "x": x, "s": s, "at": now + late} for k, x, s, late in rows])
            self.written = True

    def table(self, rows: list[tuple[Any, ...]]) -> None:
        """Rows that could not be known before: ten minutes after their time is after the last run."""
        now = self.clock.now()
        self.accounts += [{"k": k, "x": x, "s": s, "at": now + late} for k, x, s, late in rows]
        kinds = {"k": pa.int64(), "x": pa.float64(), "s": pa.string(), "at": INSTANT}
        written = {name: pa.array([one[name] for one in self.accounts], kind) for name, kind in kinds.items()}
        pq.write_table(pa.table(written), self.folder / ACCOUNTS.path)

    def advance(self, gap: int) -> None:
        self.clock.advance(gap)

    def score(self, drawn: list[tuple[Any, ...]]) -> None:
        """Requests; their moment is now unless they say."""
        now = self.clock.now()
        rows = [
            {"k": k, "other": other, "amount": amount, "note": note, **({} if at is None else {"at": now + at})}
            for k, other, amount, note, at in drawn
        ]
        self.project.score("model", rows)

    def ask(self) -> None:
        """Examples, and a label for every other one."""
        now = self.clock.now()
        asked = [{"ask": f"a{self.asks + i}", "k": i % 4, "other": i % 3, "amount": 1.0, "note": "DE", "at": now - i}
                 for i in range(6)]  # fmt: skip
        self.asks += len(asked)
        self.project.send("asks", asked)
        self.project.send(
            "outcomes", [{"ask": one["ask"], "y": i % 4 == 0, "at": now} for i, one in enumerate(asked[::2])]
        )

    def compute(self) -> None:
        self.project.parts.layers.computer().step()

    def ingest(self) -> None:
        parts = self.project.parts
        parts.layers.ingester().step()
        parts.layers.batch_ingester().step()

    def batch(self) -> None:
        self.project.parts.layers.batch_computer().step()

    def drain(self) -> None:
        self.project.drain()

    def sync(self) -> None:
        self.project.sync()

    def trim(self) -> None:
        self.project.sync()
        trim(self.project.parts)

    def reopen(self) -> None:
        self.project.close()
        self.open()

    def backfill(self) -> None:
        self.project.backfill()

    def anew(self) -> None:
        """Throw the states of a group away and fold history again."""
        self.project.backfill("g")

    def traffic(self) -> None:
        """A row, events that come twice, and requests at moments before and after the last run."""
        self.table([(1, self.clock.now() / DAY, "FR", -9 * MINUTE)])
        self.advance(11 * MINUTE)
        self.send("events", [(200 + self.clock.now() // MINUTE % 9, k, 1, 2.5, "DE", True, SECOND) for k in (1, 1, 2)])
        self.drain()
        self.score([(k, 1, 1.0, "DE", at) for k in (1, 2) for at in (None, -8 * MINUTE, -19 * MINUTE)])

    def change(self, change: dict[str, Any]) -> None:
        """What is declared changes under traffic."""
        self.traffic()
        self.shape = changed(self.shape, change)
        self.project.apply(self.shape.model, allow_breaking=True)
        self.traffic()

    def deploy(self) -> None:
        """A model of what the view reads now, once the versions that are read have it."""
        view, versions = self.project.parts.registry.model("model").view, self.project.parts.served.versions()
        if all(c.feature in versions[r.group.name].schema for r in view.groups for c in r.columns):
            booster, dictionaries = fitted(view)
            self.project.register("model", booster, dictionaries=dictionaries)
            self.project.deploy("model")

    def rollback(self) -> None:
        try:
            self.project.rollback("model")
        except NotFound:
            return

    def check(self) -> None:
        """What was served is what history gives, and training sees the same."""
        verified, compared = self.project.verify(), self.project.parity("model")
        assert verified.mismatches == 0, verified.shown
        assert compared.unexplained == 0, compared.shown
        for _ in range(2):
            assert [one.gv for one in self.project.parts.layers.syncer().step() if one.disagreeing] == []


lives = st.lists(steps, min_size=3, max_size=16)
#: Events of a day apart in one micro-batch: what a delta has let go of, a state must not be read as if it told it.
BACKLOG = [("burst", 52), ("advance", DAY), ("advance", MINUTE), ("advance", SECOND), ("change", {"extra": False})]
PLAIN = Declared(
    (("1m", "0s", None), ("24h", "0s", None)), None, "x * 2", False, False, False, (), False, True, 2, False
)


def test_what_a_delta_has_let_go_of_is_not_told_by_a_state() -> None:
    check_life(PLAIN, BACKLOG)


@in_parts(5, few, declared, lives)
def test_what_was_served_is_recomputed_whatever_has_happened_since(shape: Declared, drawn: list[Any]) -> None:
    check_life(shape, drawn)


@in_parts(2, settings(few, max_examples=examples(5)), declared, lives, st.integers(0, 1_000))
def test_all_of_that_holds_on_a_log_with_gaps_that_shows_late_what_it_has(
    shape: Declared, drawn: list[Any], seed: int
) -> None:
    check_life(shape, drawn, seed)


def check_life(shape: Declared, drawn: list[Any], adversary: int | None = None) -> None:
    """What holds at the end of the life of a project."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), shape, adversary)
        for step in drawn:
            world.run(step)
        world.check()
        world.drain()
        world.backfill()
        check_reads(world)
        check_events(world)
        check_training(world)
        world.check()
        world.project.close()


def check_reads(world: World) -> None:
    """What is read now is what `ms.compute` makes of what was sent."""
    parts, now = world.project.parts, world.clock.now()
    asked = [{"k": k, "other": 3 - k, "at": now} for k in range(4)]
    read = world.project.features("view", asked, now)
    for one in parts.registry.view("view").groups:
        version = parts.served.versions()[one.group.name]
        if any((meta := meta_of(parts.online, version.id, shard)) is None or not meta.backfilled for shard in range(2)):
            continue
        if (
            one.group.name == "spent"
            or getattr(version.group, "ttl", None)
            or (one.group.name == "dated" and world.written)
        ):
            continue  # a run that is late confirms later, and runs of the past are made by backfill alone
        rows = [{"k": row[one.keys[0][1]], "note": None, "at": now} for row in asked]
        wanted = ms.compute(noted(version.group), known(world, version.group), rows)
        for column in one.columns:
            if column.default is None and column.feature in version.schema:
                whole = wanted[f"{one.group.name}__{column.feature}"].to_pylist()
                assert read[column.column].to_pylist() == parts_of(whole, column), column


def noted(group: Any) -> ms.FeatureView:
    """A group read by requests that say what its probes look up."""
    return ms.FeatureView("noted", request={"note": "string"}, features=[group])


def known(world: World, group: Any, before: int | None = None, delay: int = 0) -> dict[str, Any]:
    """The sources of a group as data frames: what could be known before an instant, seen `delay` after it arrived."""
    found: dict[str, Any] = {}
    for source in group.sources:
        if source.name == "accounts":
            found[source.name] = world.accounts
            continue
        rows = [one for one in world.sent[source.name] if one["at"] - one["seen"] <= FUTURE]
        if before is not None:
            rows = [one for one in rows if one["seen"] + delay <= before]
        table = pa.Table.from_pylist([{**one, "seen": one["seen"] + delay} for one in rows], schema=_SENT)
        found[source.name] = table
    return found


_SENT = pa.schema({"id": pa.string(), "k": pa.int64(), "other": pa.int64(), "x": pa.float64(), "s": pa.string(),
                   "ok": pa.bool_(), "at": INSTANT, "seen": INSTANT})  # fmt: skip


def check_events(world: World) -> None:
    """A count that was read at its own moment has as many events behind it."""
    captures = world.project.parts.histories.captures("model")
    if not captures.num_rows:
        return
    whole = captures.filter(
        pc.and_(pc.equal(captures["_at"], captures["_received_at"]), pc.invert(captures["_degraded"]))
    )
    for capture in whole.slice(0, 2).to_pylist():
        for name in ("g__ok0", "theirs__g__n0", "fold__count_10m"):
            name = next((one for one in capture if one.startswith(name)), name)
            if capture.get(name) is not None:
                told = world.project.explain(capture["_request_id"], name)
                assert told.events is not None
                assert told.events.num_rows == capture[name], (name, capture)


def check_training(world: World) -> None:
    """A training set loses no example, uses nothing that was known later, and can be made again from its pins."""
    world.ask()
    world.advance(2 * HOUR)
    world.drain()
    drawn = world.project.training_set("model")
    assert drawn.table.num_rows == world.asks
    for one in drawn.table.slice(max(0, world.asks - 2)).to_pylist():
        check_row(world, drawn, one)
    world.send("events", [(90 + i, i, 0, 5.0, "DE", True, HOUR + i) for i in range(4)])
    world.ask()
    world.table([(1, 9.0, "FR", 0)])
    world.advance(HOUR)
    world.drain()
    world.sync()
    parts = world.project.parts
    versions = {one.group.name: one for one in parts.registry.groups() if one.id in drawn.pins.versions.values()}
    past = Stored(
        parts.histories.events(), parts.offline, versions, scheduled=parts.histories.scheduled(), pins=drawn.pins
    )
    again = training_set(parts.registry.model("model"), past, now=drawn.now)
    assert again.table.equals(drawn.table)


def check_row(world: World, drawn: TrainingSet, one: dict[str, Any]) -> None:
    """A row of a training set holds what `ms.compute` makes of what could be known at its instant."""
    parts = world.project.parts
    for read in parts.registry.view("view").groups:
        version = parts.served.versions()[read.group.name]
        if read.group.name in ("g", "o"):
            past = known(world, version.group, one["_at"], drawn.pins.delays[version.id])
            asked = {"k": one[read.keys[0][1]], "note": one["note"], "at": one["_at"]}
            wanted = ms.compute(noted(version.group), past, [asked]).to_pylist()[0]
            for column in read.columns:
                if column.default is None:
                    whole = [wanted[f"{read.group.name}__{column.feature}"]]
                    assert [one[column.column]] == parts_of(whole, column), column
