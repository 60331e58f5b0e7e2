"""What every offline store must do. Subclass it, give it a `factory` fixture, and pytest runs the rest."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa
import pytest

from millstream.errors import Fenced, NotFound, StoreError
from millstream.store.offline import BatchReads, OfflineStore, Snapshot
from millstream.testing.processes import PROCESSES

EVENTS = "events.payments"
POSITIONS = "millstream.positions"
Factory = Callable[[], OfflineStore]


def _numbers(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def _read(store: OfflineStore, table: str = EVENTS, snapshot: int | None = None) -> list[int]:
    return sorted(store.scan(table, snapshot=snapshot)["n"].to_pylist())


class OfflineStoreConformance:
    """The contract of `OfflineStore`, as tests.

    Override `factory`: a fixture that returns a picklable callable, which opens one and the same store, at first empty,
    in this process or another.
    """

    @pytest.fixture
    def factory(self) -> Factory:
        """How to open the store under test."""
        raise NotImplementedError("override the fixture `factory`")

    @pytest.fixture
    def store(self, factory: Factory) -> OfflineStore:
        """The store, opened here."""
        return factory()

    def test_nothing_is_there_at_first(self, store: OfflineStore) -> None:
        assert store.tables() == []
        assert store.snapshot(EVENTS) is None
        store.drop(EVENTS)
        with pytest.raises(NotFound):
            store.scan(EVENTS)

    def test_rows_come_back_as_they_went_in(self, store: OfflineStore) -> None:
        rows = pa.table(
            {
                "text": pa.array(["a", None, "ü"], pa.string()),
                "number": pa.array([1.5, None, -0.0], pa.float64()),
                "flag": pa.array([True, None, False], pa.bool_()),
                "at": pa.array([1, None, 1_700_000_000_123_456], pa.timestamp("us", tz="UTC")),
                "key": pa.array([b"\0", None, b"\xff"], pa.binary()),
                "_partition": pa.array([0, 1, 2], pa.int32()),
                "_position": pa.array([0, 2**62, -1], pa.int64()),
            }
        )
        store.append(EVENTS, rows)
        found = store.scan(EVENTS)
        assert found.schema.equals(rows.schema, check_metadata=False)
        assert found.to_pylist() == rows.to_pylist()
        assert store.scan(EVENTS, columns=["key", "text"]).to_pylist() == rows.select(["key", "text"]).to_pylist()
        chosen = store.scan(EVENTS, columns=["text"], where=[("_position", ">=", 0), ("_partition", "<", 2)])
        assert chosen["text"].to_pylist() == ["a", None]
        assert chosen.schema.field("text").type == pa.string()

    def test_unknown_columns_snapshots_and_filters_are_errors(self, store: OfflineStore) -> None:
        store.append(EVENTS, _numbers(1))
        with pytest.raises(NotFound, match="amont"):
            store.scan(EVENTS, columns=["amont"])
        with pytest.raises(NotFound, match="12345"):
            store.scan(EVENTS, snapshot=12345)
        for wrong in [("n", ">>>", 1), ("n", "=", "one"), ("n", "in", ["one"]), ("n", "<", None)]:
            with pytest.raises(StoreError, match="'n'"):
                store.scan(EVENTS, where=[wrong])
        with pytest.raises(NotFound, match="amont"):
            store.scan(EVENTS, where=[("amont", ">", 1)])

    def test_rows_are_chosen_by_column_comparison_and_value(self, store: OfflineStore) -> None:
        at = pa.array([0, 10, 20, None], pa.timestamp("us", tz="UTC"))
        store.append(EVENTS, pa.table({"n": [1, 2, 3, 4], "name": ["select", "it's", None, "d"], "at": at}))

        def found(*where: tuple[str, str, Any]) -> list[int]:
            rows = store.scan(EVENTS, ["n"], where)["n"].to_pylist()
            if isinstance(store, BatchReads):
                pieces = store.batches(EVENTS, ["n"], where)
                assert sorted(n for piece in pieces for n in piece["n"].to_pylist()) == sorted(rows)
            return sorted(rows)

        assert found(("n", "=", 2)) == [2]
        assert found(("n", "in", [1, 3, 9]), ("n", ">", 1)) == [3]
        assert found(("n", "in", [])) == []
        assert found(("n", "in", list(range(3, 1000)))) == [3, 4]
        assert found(("name", "=", "it's")) == [2]
        assert found(("name", "in", ["select", 'a "b"'])) == [1]
        assert found(("name", "<=", "it's")) == [2, 4]
        assert found(("at", ">=", 10)) == [2, 3]
        assert found(("at", ">=", 0), ("at", "<", 20)) == [1, 2]
        assert found() == [1, 2, 3, 4]

    def test_rows_are_read_some_at_a_time(self, store: OfflineStore) -> None:
        if not isinstance(store, BatchReads):
            pytest.skip("it reads whole tables alone")
        first = store.append(EVENTS, pa.table({"n": [1, 2], "name": ["a", "b"]}))
        for number in range(3, 9):
            store.append(EVENTS, pa.table({"n": [number], "name": [str(number)], "later": [True]}))
        pieces = list(store.batches(EVENTS, ["name", "n"], [("n", ">", 2)]))
        assert max(piece.num_rows for piece in pieces) < 6
        assert {piece.schema for piece in pieces} == {pa.schema({"name": pa.string(), "n": pa.int64()})}
        assert sorted(row["n"] for piece in pieces for row in piece.to_pylist()) == [3, 4, 5, 6, 7, 8]
        assert [piece["n"].to_pylist() for piece in store.batches(EVENTS, snapshot=first.id)] == [[1, 2]]
        assert list(store.batches(EVENTS, where=[("n", ">", 100)])) == []
        with pytest.raises(NotFound):
            next(store.batches(EVENTS, ["m"]))
        with pytest.raises(NotFound):
            next(store.batches("events.others"))

    def test_properties_are_of_the_commit_and_later_ones_replace_what_they_name(self, store: OfflineStore) -> None:
        first = store.append(EVENTS, _numbers(1), {POSITIONS: "[1]", "millstream.group": "x"})
        assert first == store.snapshot(EVENTS) == Snapshot(first.id, {POSITIONS: "[1]", "millstream.group": "x"})
        second = store.append(EVENTS, _numbers(2), {POSITIONS: "[2]"})
        assert second.id != first.id
        assert store.snapshot(EVENTS) == second == Snapshot(second.id, {POSITIONS: "[2]", "millstream.group": "x"})
        store.append(EVENTS, _numbers(3))
        kept = store.snapshot(EVENTS)
        assert kept is not None and kept.properties == {POSITIONS: "[2]", "millstream.group": "x"}

    def test_positions_can_move_without_rows(self, store: OfflineStore) -> None:
        store.append(EVENTS, _numbers(1), {POSITIONS: "[1]"})
        moved = store.append(EVENTS, _numbers(), {POSITIONS: "[9]"})
        assert store.snapshot(EVENTS) == moved
        assert moved.properties == {POSITIONS: "[9]"}
        assert _read(store) == [1]

    def test_a_property_of_another_name_is_refused(self, store: OfflineStore) -> None:
        with pytest.raises(StoreError, match="positions"):
            store.append(EVENTS, _numbers(1), {"positions": "1"})
        assert store.snapshot(EVENTS) is None

    def test_columns_may_come_later_and_be_left_out(self, store: OfflineStore) -> None:
        store.append(EVENTS, pa.table({"n": [1], "unused": pa.nulls(1)}))
        store.append(EVENTS, pa.table({"tier": ["gold"], "n": [2]}))
        store.append(EVENTS, pa.table({"tier": pa.array(["silver"]).dictionary_encode()}))
        store.append(EVENTS, pa.table({"n": [4], "tier": pa.nulls(1)}))
        rows = store.scan(EVENTS, columns=["n", "tier"]).to_pylist()
        assert sorted(rows, key=str) == sorted(
            [
                {"n": 1, "tier": None},
                {"n": 2, "tier": "gold"},
                {"n": None, "tier": "silver"},
                {"n": 4, "tier": None},
            ],
            key=str,
        )

    @pytest.mark.parametrize("wrong", [pa.array(["1"]), pa.array([1.5]), pa.array([True])])
    def test_a_column_of_another_type_is_refused_and_nothing_is_written(
        self, store: OfflineStore, wrong: pa.Array
    ) -> None:
        before = store.append(EVENTS, _numbers(1), {POSITIONS: "[1]"})
        with pytest.raises(StoreError, match="'n'"):
            store.append(EVENTS, pa.table({"n": wrong}), {POSITIONS: "[2]"})
        assert store.snapshot(EVENTS) == before
        assert _read(store) == [1]

    def test_an_append_repeated_after_an_unknown_outcome_is_fenced(self, store: OfflineStore) -> None:
        first = store.append(EVENTS, _numbers(1), {POSITIONS: "[1]"}, expected=None)
        with pytest.raises(Fenced):
            store.append(EVENTS, _numbers(1), {POSITIONS: "[1]"}, expected=None)
        second = store.append(EVENTS, _numbers(2), {POSITIONS: "[2]"}, expected=first.id)
        with pytest.raises(Fenced):
            store.append(EVENTS, _numbers(2), {POSITIONS: "[2]"}, expected=first.id)
        assert store.snapshot(EVENTS) == second
        assert _read(store) == [1, 2]

    def test_a_snapshot_reads_the_same_after_later_commits(self, store: OfflineStore) -> None:
        first = store.append(EVENTS, _numbers(1))
        store.append(EVENTS, pa.table({"n": [2], "later": [1.0]}))
        assert _read(store, snapshot=first.id) == [1]
        assert _read(store) == [1, 2]

    def test_tables_are_apart_and_keep_their_names(self, store: OfflineStore) -> None:
        names = ["batch.kyc@2", "captures.fraud_v2", "events.payments", "features.velocity@12"]
        for number, table in enumerate(names):
            store.append(table, _numbers(number))
        assert store.tables() == names
        assert [_read(store, table) for table in names] == [[0], [1], [2], [3]]
        with pytest.raises(StoreError):
            store.append("payments", _numbers(1))

    def test_a_dropped_table_is_gone_and_can_begin_anew(self, store: OfflineStore) -> None:
        before = store.append(EVENTS, _numbers(1), {POSITIONS: "[1]"})
        store.drop(EVENTS)
        assert store.tables() == []
        assert store.snapshot(EVENTS) is None
        with pytest.raises(Fenced):
            store.append(EVENTS, _numbers(2), expected=before.id)
        anew = store.append(EVENTS, pa.table({"n": ["text"]}), expected=None)
        assert anew.properties == {}
        assert store.scan(EVENTS)["n"].to_pylist() == ["text"]

    def test_two_processes_append_and_every_row_is_there_once(self, store: OfflineStore, factory: Factory) -> None:
        each = 8
        children = [PROCESSES.Process(target=_append_many, args=(factory, k * each, each)) for k in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        assert _read(store) == list(range(2 * each))

    def test_two_processes_that_race_append_each_position_once(self, store: OfflineStore, factory: Factory) -> None:
        rounds = 12
        store.append(EVENTS, _numbers(), {POSITIONS: "0"})
        children = [PROCESSES.Process(target=_append_in_turn, args=(factory, rounds)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        assert _read(store) == list(range(rounds))

    @pytest.mark.parametrize("delay", [0.02, 0.1, 0.25])
    def test_a_killed_writer_leaves_rows_and_positions_of_the_same_commits(
        self, factory: Factory, delay: float
    ) -> None:
        here, there = PROCESSES.Pipe(duplex=False)
        child = PROCESSES.Process(target=_append_for_ever, args=(factory, there))
        child.start()
        there.close()
        acknowledged = here.recv()
        threading.Event().wait(delay)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        try:
            while True:
                acknowledged = here.recv()
        except EOFError:
            pass
        store = factory()
        newest = store.snapshot(EVENTS)
        assert newest is not None
        position = int(newest.properties[POSITIONS])
        assert acknowledged <= position <= acknowledged + 1
        assert _read(store) == list(range(position))
        store.append(EVENTS, _numbers(position), {POSITIONS: str(position + 1)}, expected=newest.id)
        assert _read(store) == list(range(position + 1))


def _append_many(factory: Factory, first: int, count: int) -> None:
    store = factory()
    for number in range(first, first + count):
        store.append(EVENTS, _numbers(number))


def _append_in_turn(factory: Factory, rounds: int) -> None:
    """Appends each number below `rounds`, beside another process that does the same, as the archive does."""
    store = factory()
    while True:
        found = store.snapshot(EVENTS)
        assert found is not None
        position = int(found.properties[POSITIONS])
        if position >= rounds:
            return
        try:
            store.append(EVENTS, _numbers(position), {POSITIONS: str(position + 1)}, expected=found.id)
        except Fenced:
            continue


def _append_for_ever(factory: Factory, pipe: Connection) -> None:
    store = factory()
    newest: int | None = None
    position = 0
    while True:
        newest = store.append(EVENTS, _numbers(position), {POSITIONS: str(position + 1)}, expected=newest).id
        position += 1
        pipe.send(position)
