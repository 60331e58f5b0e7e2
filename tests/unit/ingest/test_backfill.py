"""Backfill: the history before the markers, the deltas after them, and nothing between lost or twice."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.computing.chain import (
    ACTIVITY,
    BASE,
    LOGINS,
    PARTITIONS,
    PAYMENTS,
    USER,
    VELOCITY,
    Chain,
    LogHistory,
    expected_states,
    in_right_shard,
    payments,
    version_of,
)

import millstream as ms
from millstream.buffer.codec.events import dead_letters
from millstream.definitions.group_version import GroupVersion
from millstream.errors import Fenced, StoreError
from millstream.ingest.backfill import caught_up, fold_history, go_live
from millstream.testing.shards import meta_of


class Registry:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []
        self.live: list[str] = []

    def set_state(self, gv: str, state: str) -> None:
        self.states.append((gv, state))

    def go_live(self, gv: str) -> bool:
        self.live.append(gv)
        return True


def run(chain: Chain, version: GroupVersion, history: Any = None, **options: Any) -> Any:
    history, options = history or LogHistory(chain.log), {"rows": 20, "held": 0, **options}
    return fold_history(version, history, chain.online, chain.log, chain.marks, Registry(), chain.clock, **options)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 80), st.integers(0, 60), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 99), st.booleans()
)
def test_history_and_deltas_meet_exactly(before: int, after: int, kills: list[int], seed: int, union: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    version = version_of(ACTIVITY if union else VELOCITY)
    chain = Chain(folder, streams=(PAYMENTS, LOGINS), versions=(version,))

    def send(n: int, first: int) -> None:
        if n:
            chain.send(PAYMENTS, payments(n, seed, first=first))
            chain.send(LOGINS, [{k: v for k, v in row.items() if k != "id"} for row in payments(n // 2, seed + 1)])

    send(before, 0)
    chain.start("end")
    send(after, before)
    with chain.computer(micro_batch=30) as computer:
        for chunks in kills:
            with suppress(KeyboardInterrupt):
                run(chain, version, LogHistory(chain.log, killed_at=chunks))
            computer.step()
            chain.ingester().step()
    run(chain, version)
    chain.drain()
    assert chain.states(version) == expected_states(chain, version)
    assert in_right_shard(chain, version)
    shutil.rmtree(folder)


def test_a_backfill_says_what_it_did_and_how_far_it_is(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, [row for row in payments(50) if row["id"] in {f"p{i}" for i in range(50)}])
    chain.start("end")
    seen: list[tuple[int, int]] = []
    done = run(chain, chain.versions[0], progress=lambda now, all_: seen.append((now, all_)))
    assert done.events == seen[-1][0] == len(set(range(50)) & {int(r["id"][1:]) for r in payments(50)})
    assert [now for now, _ in seen] == [20, 40, done.events]
    assert {total for _, total in seen} == {50}
    assert run(chain, chain.versions[0]).events == 0


def test_nothing_before_the_markers_needs_no_backfill(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("end")
    assert run(chain, chain.versions[0]).events == 0
    assert meta_of(chain.online, "velocity@1", 0) is None


def test_ingestion_waits_for_the_last_shard(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(60))
    chain.start("end")
    with pytest.raises(KeyboardInterrupt):
        run(chain, chain.versions[0], LogHistory(chain.log, killed_at=2))
    assert chain.ingester().step().waiting == ("velocity@1",)


class Dies:
    """A store whose process dies at the given write."""

    def __init__(self, online: Any, at: int) -> None:
        self._online, self._left = online, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def write(self, *arguments: Any) -> None:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        self._online.write(*arguments)


def test_death_at_any_write_is_made_good(tmp_path: Path) -> None:
    for at in range(20):
        chain = Chain(tmp_path / str(at))
        chain.send(PAYMENTS, payments(60))
        chain.start("end")
        chain.send(PAYMENTS, payments(30, first=60))
        chain.computer().step()
        online, chain.online = chain.online, Dies(chain.online, at)
        try:
            run(chain, chain.versions[0])
        except KeyboardInterrupt:
            pass
        else:
            assert at > 8
            return
        chain.online = online
        chain.ingester().step()
        run(chain, chain.versions[0])
        chain.drain()
        assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])
    raise AssertionError("the backfill never ended")


class Counted:
    """A store that counts the writes of states to each shard."""

    def __init__(self, online: Any) -> None:
        self._online, self.writes = online, Counter[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def write(self, gv: str, shard: int, items: Any, *more: Any) -> None:
        self.writes[shard] += bool(items)
        self._online.write(gv, shard, items, *more)


@pytest.mark.parametrize(("held", "most"), [(64 << 20, 1), (10_000, 9), (0, 30)])
def test_the_states_of_many_chunks_are_written_at_once(tmp_path: Path, held: int, most: int) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    chain.send(PAYMENTS, payments(600))
    chain.start("end")
    online, chain.online = chain.online, Counted(chain.online)
    run(chain, version, held=held)
    writes, chain.online = chain.online.writes, online
    assert max(writes.values()) <= most
    assert most == 1 or max(writes.values()) > most // 3
    assert chain.states(version) == expected_states(chain, version)


@pytest.mark.parametrize("second_dies", [False, True])
def test_a_second_backfill_stops_the_first(tmp_path: Path, second_dies: bool) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(60))
    chain.start("end")

    class Overtaken(LogHistory):
        def chunks(self, stream: Any, upto: Any, rows: int) -> Any:
            for number, chunk in enumerate(super().chunks(stream, upto, rows)):
                if number == 1:
                    with suppress(KeyboardInterrupt):
                        run(chain, chain.versions[0], LogHistory(chain.log, 1 if second_dies else None))
                yield chunk

    with pytest.raises(Fenced):
        run(chain, chain.versions[0], Overtaken(chain.log))
    run(chain, chain.versions[0])
    chain.drain()
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_a_lost_store_is_built_anew_where_the_buffer_is_trimmed(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("zero")
    for number in range(3):
        chain.send(PAYMENTS, payments(30, number, first=30 * number))
        chain.drain()
    for shard in range(2):
        chain.log.trim("features.velocity@1", shard, 3)
    chain.online.drop("velocity@1")
    chain.send(PAYMENTS, payments(30, 3, first=90))
    assert chain.ingester().step().waiting == ("velocity@1",)
    run(chain, chain.versions[0])
    chain.drain()
    assert chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


def test_a_complete_version_can_be_built_anew_beside_itself(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    beside = replace(version, build=2)
    chain.send(PAYMENTS, payments(60))
    chain.start("end")
    run(chain, version)
    chain.drain()
    whole = chain.states(version)
    chain.send(PAYMENTS, payments(20, first=60))
    assert run(chain, beside, anew=True).events > 0
    assert chain.states(version) == whole
    chain.send(PAYMENTS, payments(20, first=80))
    with chain.computer() as computer:
        computer.step()
    both = chain.ingester(beside=[beside])
    while both.step().records:
        pass
    assert caught_up(beside, version, chain.online, chain.log)
    assert chain.states(beside) == chain.states(version) == expected_states(chain, version)
    assert meta_of(chain.online, "velocity@1.2", 0).epoch == 2


def test_ingestion_leaves_a_build_alone_until_its_history_is_in(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    beside = replace(version, build=2)
    chain.start("zero")
    chain.send(PAYMENTS, payments(60))
    chain.drain()
    assert chain.ingester(beside=[beside]).step().lag == 0
    assert meta_of(chain.online, beside.states, 0) is None
    with pytest.raises(KeyboardInterrupt):
        run(chain, beside, LogHistory(chain.log, killed_at=1), anew=True)
    assert not caught_up(beside, version, chain.online, chain.log)
    assert run(chain, beside, anew=True).events > 0
    assert caught_up(beside, version, chain.online, chain.log)
    assert chain.states(beside) == chain.states(version) == expected_states(chain, version)


def test_a_build_whose_next_deltas_are_gone_is_begun_again(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    beside = replace(version, build=2)
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    run(chain, beside, anew=True)
    chain.send(PAYMENTS, payments(60, first=30))
    chain.drain()
    for shard, (_, following) in enumerate(chain.log.ends("features.velocity@1")):
        chain.log.trim("features.velocity@1", shard, following)
    assert run(chain, beside, anew=True).events > 0
    assert chain.states(beside) == chain.states(version) == expected_states(chain, version)


def test_a_version_becomes_the_default_once_the_buffer_is_drained(tmp_path: Path) -> None:
    chain, registry = Chain(tmp_path), Registry()
    version = chain.versions[0]
    chain.send(PAYMENTS, payments(60))
    chain.start("end")
    chain.send(PAYMENTS, payments(30, first=60))
    assert not go_live(version, chain.online, chain.log, chain.marks, registry)
    fold_history(version, LogHistory(chain.log), chain.online, chain.log, chain.marks, registry, chain.clock)
    assert not go_live(version, chain.online, chain.log, chain.marks, registry)
    chain.drain()
    chain.send(PAYMENTS, payments(5, first=90))
    assert go_live(version, chain.online, chain.log, chain.marks, registry)
    assert registry.states == [("velocity@1", "backfilling")]
    assert registry.live == ["velocity@1"]


def test_a_version_of_an_empty_stream_becomes_the_default(tmp_path: Path) -> None:
    chain, registry = Chain(tmp_path), Registry()
    chain.start("end")
    chain.drain()
    assert go_live(chain.versions[0], chain.online, chain.log, chain.marks, registry)


def test_rows_that_fail_are_dead_letters_once_though_the_backfill_is_repeated(tmp_path: Path) -> None:
    strict = ms.StreamFeatureGroup(
        "strict", entity=USER, source=PAYMENTS, derive={"n": "cast(device as bigint)"}, features=[ms.Max("n")]
    )
    chain = Chain(tmp_path, versions=(version_of(strict),))
    rows = [{"id": f"{i}", "user_id": i, "device": "x" if i % 9 == 0 else "7", "at": BASE} for i in range(90)]
    chain.send(PAYMENTS, rows)
    chain.start("end")
    with pytest.raises(KeyboardInterrupt):
        run(chain, chain.versions[0], LogHistory(chain.log, killed_at=3))
    assert run(chain, chain.versions[0]).dead == 10
    records = [chain.log.read("dead.payments", p, 0, 1000) for p in range(PARTITIONS)]
    letters = dead_letters(records)
    assert len({(letter.partition, letter.position) for letter in letters}) == len(letters) == 10
    assert all(letter.reason.startswith("strict@1: ") for letter in letters)


def test_letters_of_an_attempt_that_died_before_it_marked_them_are_written_once(tmp_path: Path) -> None:
    strict = ms.StreamFeatureGroup(
        "strict", entity=USER, source=PAYMENTS, derive={"n": "cast(device as bigint)"}, features=[ms.Max("n")]
    )
    chain = Chain(tmp_path, versions=(version_of(strict),))
    version = chain.versions[0]
    rows = [{"id": f"{i}", "user_id": i, "device": "x" if i % 9 == 0 else "7", "at": BASE} for i in range(120)]
    chain.send(PAYMENTS, rows[:90])
    chain.start("end")
    chain.send(PAYMENTS, rows[90:])
    chain.drain()
    marks, died = chain.marks, 0

    class Dies:
        """Marks whose process dies before it moves those of letters, the second time."""

        left = 1

        def read(self, mark: str) -> dict[str, int]:
            return marks.read(mark)

        def move(self, mark: str, known: Any, to: Any) -> None:
            if mark.startswith("letters/"):
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            marks.move(mark, known, to)

    while died < 20:
        chain.marks = Dies()
        try:
            run(chain, version)
            break
        except KeyboardInterrupt:
            died += 1
    assert 1 < died < 20
    run(chain, replace(version, build=2), anew=True)
    letters = [one for p in range(PARTITIONS) for one in dead_letters([chain.log.read("dead.payments", p, 0, 1000)])]
    assert len({(letter.partition, letter.position) for letter in letters}) == len(letters) == 14


def test_a_version_that_has_not_started_is_an_error(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    with pytest.raises(StoreError, match="no start markers"):
        run(chain, chain.versions[0])
