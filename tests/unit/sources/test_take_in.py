"""A foreign source is taken in exactly once, whoever dies and whatever the source and the log do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.buffer.codec.events import decode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.reading import through
from millstream.buffer.topics import INTAKE
from millstream.clock import SimulatedClock
from millstream.errors import DiskFull, Fenced, SourceBusy, SourceError
from millstream.sources.checkpoint import load
from millstream.sources.placing import placed
from millstream.sources.source import NO_STAMP, Events
from millstream.sources.take_in import FORGOTTEN_AFTER, TakeIn
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.adversarial_source import AdversarialSource
from millstream.testing.worker_suite import shared_among

CLICKS = ms.EventStream(
    "clicks", time="at", partition_by="k", schema={"k": "int64", "n": "int64", "at": "timestamp"}, partitions=3
)
UNKEYED = ms.EventStream("clicks", time="at", schema={"k": "int64", "n": "int64", "at": "timestamp"}, partitions=3)
UNKEYED_ONE = ms.EventStream("clicks", time="at", schema={"k": "int64", "n": "int64", "at": "timestamp"}, partitions=1)
NOW = 1_800_000_000_000_000


def event(k: int, n: int) -> bytes:
    return msgspec.json.encode({"k": k, "n": n, "at": "2027-01-15T00:00:00Z"})


class Time:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def log(tmp_path: Path, clock: SimulatedClock) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log", clock, map_gib=1, fsync=False)
    log.create("clicks", 3)
    yield log
    log.close()


def calm(**shards: int) -> AdversarialSource:
    """A source that gives what it has, with so many events in each shard."""
    source = AdversarialSource(0, patience=0)
    number = 0
    for shard, count in shards.items():
        for _ in range(count):
            source.put(shard, event(number, number))
            number += 1
    return source


def taking(log: Any, source: Any, stream: ms.EventStream = CLICKS, **options: Any) -> TakeIn:
    return TakeIn(log, stream, source, SimulatedClock(NOW), seconds=Time(), **options)


def to_the_end(take: TakeIn, steps: int = 400) -> None:
    silent = 0
    for _ in range(steps):
        silent = 0 if take.step().more else silent + 1
        if silent > 8:
            return
    raise AssertionError("it never ends")


def everything(log: Any) -> list[list[bytes]]:
    """The events of each partition, in their order."""
    found: list[list[bytes]] = []
    for partition, (first, end) in enumerate(log.ends("clicks")):
        read = [one for records in through(log, "clicks", partition, first, end) for one in records.payloads]
        found.append([line for payload in read for line in payload.split(b"\n")])
    return found


def numbers(log: Any) -> list[int]:
    return sorted(msgspec.json.decode(line)["n"] for lines in everything(log) for line in lines)


class Killed(Exception):
    """The process died."""


class Mortal:
    """A log whose user dies before or after one of its durable writes."""

    def __init__(self, log: Any, at: int) -> None:
        self._log, self.left = log, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *given: Any) -> int:
        with self._write():
            return self._log.append(*given)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._write(), self._log.transaction() as work:
            yield work

    @contextmanager
    def _write(self) -> Iterator[None]:
        self.left -= 1
        if self.left == 0:
            raise Killed
        yield
        self.left -= 1
        if self.left == 0:
            raise Killed


def test_what_is_taken_in_is_where_send_would_have_put_it(tmp_path: Path, log: EmbeddedLog):
    rows = [{"k": n % 7, "n": n, "at": "2027-01-15T00:00:00Z"} for n in range(40)]
    source = AdversarialSource(1)
    for row in rows:
        source.put("a", msgspec.json.encode(row))
    to_the_end(taking(log, source))
    with ms.Project(tmp_path / "sent", create=True) as project:
        project.apply(CLICKS)
        project.send("clicks", rows)
        assert everything(log) == everything(project.parts.log)


@pytest.mark.parametrize("kind", ["embedded", "gaps", "torn"])
@pytest.mark.parametrize("seed", range(12))
def test_every_event_is_there_once_and_in_order_whoever_dies(log: EmbeddedLog, kind: str, seed: int):
    chance = Random(seed)
    kept: Any = log if kind == "embedded" else AdversarialLog(log, seed, atomic=kind == "gaps")
    source = AdversarialSource(seed)
    owners = {k: "a" for k in range(6)}
    take, sent = taking(kept, source, most=5), 0
    for _ in range(60):
        for _ in range(chance.randint(0, 3)):
            k = chance.randrange(6)
            source.put(owners[k], event(k, sent))
            sent += 1
        open_ = sorted(set(owners.values()))
        if chance.random() < 0.1:
            shard = chance.choice(open_)
            source.held.setdefault(shard, type(next(iter(source.held.values()), None) or _shard())())
            children = source.split(shard)
            owners = {k: children[k % 2] if owner == shard else owner for k, owner in owners.items()}
        elif chance.random() < 0.1 and len(open_) > 1:
            first, second = chance.sample(open_, 2)
            if {first, second} <= source.held.keys():
                child = source.merge(first, second)
                owners = {k: child if owner in (first, second) else owner for k, owner in owners.items()}
        if chance.random() < 0.3:
            take = taking(Mortal(kept, chance.randint(1, 8)), source, most=5)
        try:
            take.step()
        except Killed:
            take = taking(kept, source, most=5)
    to_the_end(taking(kept, source, most=50))
    assert numbers(kept) == list(range(sent))
    for lines in everything(kept):
        for k in range(6):
            of_key = [row["n"] for row in map(msgspec.json.decode, lines) if row["k"] == k]
            assert of_key == sorted(of_key)


def _shard() -> Any:
    from millstream.testing.adversarial_source import ForeignShard

    return ForeignShard()


def test_of_two_that_take_the_same_source_in_one_is_fenced(log: EmbeddedLog):
    source = calm(a=4)
    first, second = taking(log, source, most=1), taking(log, source, most=1)
    assert first.step().records == 1
    assert second.step().records == 1
    with pytest.raises(Fenced):
        first.step()
    to_the_end(first)
    assert numbers(log) == [0, 1, 2, 3]


def test_a_second_process_is_noticed_on_a_log_that_is_not_atomic(log: EmbeddedLog):
    kept = AdversarialLog(log, 3, atomic=False)
    source = calm(a=4)
    first, second = taking(kept, source, most=1), taking(kept, source, most=1)
    first.step()
    second.step()
    with pytest.raises(Fenced):
        first.step()
    to_the_end(second)
    assert numbers(kept) == [0, 1, 2, 3]


@pytest.mark.parametrize("written", range(1, 6))
def test_one_that_was_stopped_on_a_log_that_is_not_atomic_appends_nothing_once_others_have_gone_on(
    log: EmbeddedLog, written: int
):
    kept = AdversarialLog(log, 3, atomic=False)
    source = calm(a=9)
    others = []

    class Stopped:
        """A log whose user stands still before one of its appends, while another goes on."""

        left = written

        def __getattr__(self, name: str) -> Any:
            return getattr(kept, name)

        def ends(self, topic: str) -> Any:
            self.left -= topic == "intake.clicks"
            if self.left == 0 and not others:
                others.append(taking(kept, source, most=9))
                to_the_end(others[0])
            return kept.ends(topic)

    stopped = taking(Stopped(), source, most=9)
    with suppress(Fenced):
        stopped.step()
    to_the_end(taking(kept, source))
    assert numbers(kept) == list(range(9))


def test_of_two_processes_each_takes_in_a_source_of_its_own(log: EmbeddedLog):
    log.create("views", 1)
    views = ms.EventStream("views", time="at", schema={"k": "int64", "n": "int64", "at": "timestamp"})
    sources = {"clicks": calm(a=3), "views": calm(a=4)}
    for stream in sources:
        log.create(f"intake.{stream}", 1)
    with (
        closing(log.worker(INTAKE, ["intake.clicks", "intake.views"])) as one,
        closing(log.worker(INTAKE, ["intake.clicks", "intake.views"])) as other,
    ):
        takings = {
            number: [
                taking(log, sources[stream.name], stream, worker=worker) for stream in (CLICKS, views)
            ]
            for number, worker in enumerate((one, other))
        }  # fmt: skip
        shared_among([one, other], {"intake.clicks": 1, "intake.views": 1})
        taken = [[take.step().records for take in some] for some in takings.values()]
        assert sorted(taken) == sorted([[0, 4], [3, 0]])
        assert [[take.owned for take in some].count(True) for some in takings.values()] == [1, 1]
        one.close()
        for source in sources.values():
            source.put("a", event(1, 99))
        shared_among([other], {"intake.clicks": 1, "intake.views": 1})
        assert [take.step().records for take in takings[1]] == [1, 1]
    assert len(numbers(log)) == 4


@pytest.mark.parametrize("atomic", [True, False])
def test_a_checkpoint_of_very_many_shards_is_written_in_parts_and_read_whole(
    tmp_path: Path, clock: SimulatedClock, atomic: bool
):
    log = EmbeddedLog(tmp_path / "log", clock, map_gib=1, fsync=False, largest=2_000)
    log.create("clicks", 1)
    kept: Any = log if atomic else AdversarialLog(log, 5, atomic=False, largest=2_000)
    source = calm(**{f"a_file_with_a_name_of_some_length_{n}": 1 for n in range(300)})
    take = taking(kept, source, UNKEYED_ONE, most=150)
    to_the_end(take)
    for n in range(120):  # so that one record says all there is
        source.put(f"a_file_with_a_name_of_some_length_{n}", event(0, 300 + n))
        take.step()
    [(first, _)] = log.ends("intake.clicks")
    assert first > 0
    assert len(load(kept, "clicks").shards) == 300
    to_the_end(taking(kept, source, UNKEYED_ONE))
    assert numbers(kept) == list(range(420))
    log.close()


def test_children_wait_until_each_of_their_parents_is_read_to_its_end(log: EmbeddedLog):
    source = calm(a=2, b=2)
    child = source.merge("a", "b")
    source.put(child, event(0, 9))
    take = taking(log, source, UNKEYED, most=1)
    seen = []
    for _ in range(12):
        before = numbers(log)
        take.step()
        seen += [n for n in numbers(log) if n not in before]
    assert seen[-1] == 9 and sorted(seen) == [0, 1, 2, 3, 9]


def test_a_parent_that_nobody_keeps_any_more_holds_up_nobody(log: EmbeddedLog):
    source = calm(a=1)
    left, _ = source.split("a")
    source.put(left, event(0, 5))
    source.held["a"].listed = False
    to_the_end(taking(log, source))
    assert numbers(log) == [5]


def test_a_shard_that_is_not_listed_any_more_is_read_to_its_end(log: EmbeddedLog):
    source = calm(a=3)
    take = taking(log, source, most=1)
    take.step()
    source.held["a"].listed = False
    source.held["a"].closed = True
    to_the_end(take)
    assert numbers(log) == [0, 1, 2]


def test_what_the_source_kept_no_longer_is_told_and_remembered(log: EmbeddedLog):
    source = calm(a=6)
    taking(log, source, most=1).step()
    source.expire("a", 4)
    take = taking(log, source)
    [loss] = take.step().losses
    assert (loss.shard, loss.what, loss.at) == ("a", "Shard 'a': 3 events are not kept any more.", NOW)
    assert taking(log, source).losses == (1, [loss])
    assert numbers(log) == [0, 4, 5]


@pytest.mark.parametrize("at", range(1, 15))
def test_events_that_expire_in_the_midst_of_a_torn_write_are_told_and_the_others_are_there_once(
    log: EmbeddedLog, at: int
):
    kept = AdversarialLog(log, at, atomic=False)
    source = AdversarialSource(0, patience=0)
    for n in range(6):
        source.put("a", event(4, n), stamp=NOW - n)  # a batch of its own for each
    with suppress(Killed):
        taking(Mortal(kept, at), source).step()
    before = numbers(kept)
    source.expire("a", 2)
    take = taking(kept, source)
    had_begun = take._known().intent is not None
    to_the_end(take)
    missing = {0, 1} - set(before)
    assert numbers(kept) == sorted({*before, 2, 3, 4, 5})
    assert bool(take.losses[0]) == (had_begun and bool(missing))


def test_a_source_that_is_throttled_is_asked_ever_more_seldom(log: EmbeddedLog):
    class Throttled(AdversarialSource):
        asked = 0

        def read(self, *_: Any) -> Events:
            self.asked += 1
            raise SourceBusy("The source is throttled.")

    source = Throttled(0, patience=0)
    source.put("a", event(0, 0))
    passed = Time()
    take = TakeIn(log, CLICKS, source, SimulatedClock(NOW), seconds=passed)
    for _ in range(100):
        assert take.step().records == 0
    assert 5 < source.asked < 30


def test_one_shard_that_fails_does_not_keep_back_the_others(log: EmbeddedLog):
    class Failing(AdversarialSource):
        def read(self, shard: str, *rest: Any) -> Events:
            if shard == "a":
                raise OSError("the wire is cut")
            return super().read(shard, *rest)

    source = Failing(0, patience=0)
    source.put("a", event(0, 0))
    source.put("b", event(1, 1))
    take = taking(log, source)
    with pytest.raises(SourceError, match="Stream 'clicks': its source failed: OSError: the wire is cut"):
        take.step()
    assert numbers(log) == [1]


def test_an_event_arrives_when_its_source_took_it_and_never_later_than_now(log: EmbeddedLog):
    source = AdversarialSource(0, patience=0)
    for n, stamp in enumerate([NOW - 50, NOW - 50, NOW - 70, NO_STAMP, NOW + 10_000_000]):
        source.put("a", event(4, n), stamp=stamp)
    to_the_end(taking(log, source))
    [partition] = [at for at, (_, end) in enumerate(log.ends("clicks")) if end]
    table = decode(CLICKS, [log.read("clicks", partition, 0, 100)]).table
    assert table["_arrival"].to_pylist() == [NOW - 50, NOW - 50, NOW - 70, NOW, NOW]


def test_what_does_not_parse_becomes_a_dead_letter_as_it_is(log: EmbeddedLog):
    pretty = msgspec.json.format(event(1, 1))
    source = AdversarialSource(0, patience=0)
    for payload in (b"no JSON", b"", None, b"two\nlines", pretty, event(2, 2)):
        source.put("a", payload)
    to_the_end(taking(log, source))
    found = [decode(CLICKS, [log.read("clicks", at, 0, 100)]) for at in range(3)]
    assert sorted(n for one in found for n in one.table["n"].to_pylist()) == [1, 2]
    assert sorted(letter.payload for one in found for letter in one.dead) == ["", "no JSON", "null", "two\nlines"]


@pytest.mark.parametrize("atomic", [True, False])
def test_an_event_that_is_larger_than_the_log_takes_becomes_a_dead_letter_and_keeps_back_no_other(
    log: EmbeddedLog, atomic: bool
):
    small = AdversarialLog(log, 0, patience=0, atomic=atomic, torn=0.0, largest=4_000)
    source = AdversarialSource(0, patience=0)
    for n in range(300):
        source.put("a", event(n, n))
    source.put("a", b'{"k": 1, "n": 7, "text": "' + b"x" * 9_000 + b'"}')
    source.put("a", event(300, 300))
    to_the_end(taking(small, source))
    read = [one for at, ends in enumerate(small.ends("clicks")) for one in through(small, "clicks", at, *ends)]
    assert all(len(payload) <= 4_000 for records in read for payload in records.payloads)
    found = [decode(CLICKS, [records]) for records in read]
    assert sorted(n for one in found for n in one.table["n"].to_pylist()) == list(range(301))
    [letter] = [letter for one in found for letter in one.dead]
    assert "cut: 9,028 bytes; the log takes 4,000" in letter.payload


def test_a_frame_is_cut_and_a_row_of_it_that_is_too_large_becomes_a_dead_letter(log: EmbeddedLog):
    table = pa.table({"n": list(range(200)), "text": ["x" * (20_000 if n == 77 else 50) for n in range(200)]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    given = Events([sink.getvalue().to_pybytes()], ["arrow"], np.array([200]), np.array([NO_STAMP]), [None], "1")
    appends = placed(UNKEYED, "a", given, 1, NOW, 5_000)
    assert all(len(one.batch.payload) <= 5_000 for one in appends) and sum(one.batch.count for one in appends) == 200
    assert [b"the log takes 5,000" in one.batch.payload for one in appends].count(True) == 1


def test_arrow_payloads_are_divided_like_frames(log: EmbeddedLog):
    table = pa.table({"k": list(range(20)), "n": list(range(20)), "at": ["2027-01-15"] * 20})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    class Arrow(AdversarialSource):
        def read(self, shard: str, position: str | None, limit: int, until: str | None = None) -> Events:
            found = super().read(shard, position, limit, until)
            return Events(
                found.payloads, ["arrow"] * len(found), found.counts * 20, found.stamps, found.keys, found.next
            )

    source = Arrow(0, patience=0)
    source.put("a", sink.getvalue().to_pybytes())
    to_the_end(taking(log, source))
    tables = [decode(CLICKS, [log.read("clicks", at, 0, 100)]).table for at in range(3)]
    assert sorted(n for one in tables for n in one["n"].to_pylist()) == list(range(20))
    assert sum(len(one) > 0 for one in tables) > 1


def test_without_a_column_to_part_by_the_source_s_keys_keep_their_order(log: EmbeddedLog):
    source = AdversarialSource(0, patience=0)
    for n in range(30):
        source.put("a", event(0, n), key=b"ab"[n % 2 : n % 2 + 1])
    to_the_end(taking(log, source, UNKEYED))
    places = [[msgspec.json.decode(line)["n"] for line in lines] for lines in everything(log)]
    assert sorted(map(len, places)) == [0, 15, 15]
    assert all(one == sorted(one) for one in places)


def test_checkpoints_take_little_room_however_many_there_were(log: EmbeddedLog):
    source = calm(a=350)
    take = taking(log, source, most=1)
    to_the_end(take, 500)
    [(first, _)] = log.ends("intake.clicks")
    assert first > 0
    source.put("a", event(0, 350))
    to_the_end(taking(log, source))
    assert numbers(log) == list(range(351))


def test_a_shard_that_is_missing_from_a_list_for_a_while_is_not_read_again(log: EmbeddedLog):
    source = calm(a=2)
    source.held["a"].closed = True
    passed = Time()
    take = TakeIn(log, CLICKS, source, SimulatedClock(NOW), seconds=passed)
    to_the_end(take)
    source.held["a"].listed = False
    take.step()
    source.held["a"].listed = True
    to_the_end(take)
    assert numbers(log) == [0, 1]
    source.held["a"].listed = False
    take.step()
    passed.now += FORGOTTEN_AFTER
    take.step()
    assert source.held.keys() == {"a"} and not take._known().shards


def test_a_full_log_takes_nothing_in_and_leaves_its_reserve_to_those_who_consume(log: EmbeddedLog):
    class Full:
        full = True

        def __getattr__(self, name: str) -> Any:
            return getattr(log, name)

        def filled(self) -> float:
            return 1.0 if self.full else 0.5

    kept = Full()
    take = taking(kept, calm(a=3))
    with pytest.raises(DiskFull):
        take.step()
    assert numbers(log) == []
    kept.full = False
    to_the_end(take)
    assert numbers(log) == [0, 1, 2]


def test_lag_is_what_the_source_has_and_we_have_not(log: EmbeddedLog):
    source = AdversarialSource(0, patience=0)
    for n in range(3):
        source.put("a", event(0, n), stamp=NOW - 10 + n)
    take = taking(log, source)
    assert take.lag() == (3, NOW - 10)
    to_the_end(take)
    assert take.lag() == (0, None)
