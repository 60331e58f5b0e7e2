"""What every source must do: subclass `SourceConformance` and say how to make yours, and how to put events into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import msgspec
import pytest

from millstream.errors import SourceBusy
from millstream.sources.source import Events, Source
from millstream.testing.deviations import Declared

T = TypeVar("T")
TRIES = 200
"""Reads that may give nothing before what is there counts as not given."""


class World(Protocol):
    """A source with the outside that writes to it."""

    def open(self) -> Source:
        """Open the source anew, as another process would."""
        ...

    def put(self, place: int, events: list[bytes]) -> None:
        """Write events, objects of JSON, to the end of one of two shards, 0 or 1, which is made by the first."""
        ...

    def expire(self, place: int) -> None:
        """Let the oldest event of a shard, or some of the oldest, be kept no longer; they stay fewer than all."""
        ...


def patiently(ask: Callable[[], T]) -> T:
    """Ask a source until it is not throttled."""
    for _ in range(TRIES):
        try:
            return ask()
        except SourceBusy:
            pass
    raise AssertionError(f"the source is throttled {TRIES} times in a row")


def reads(source: Source, shard: str, position: str | None, limit: int, until: str | None = None) -> Iterator[Events]:
    """All reads of a shard from a position on that give something, up to its end or another position.

    Args:
        source: the source.
        shard: the shard's name.
        position: where to begin; None for the shard's beginning.
        limit: about how many events one read may give.
        until: where to stop; the shard's end unless given.
    """
    silent = 0
    while silent < TRIES:
        found = patiently(lambda at=position: source.read(shard, at, limit, until))  # type: ignore[misc]
        silent = 0 if len(found) else silent + 1
        position = found.next
        yield found
        if found.closed or (until is not None and position == until) or not source.behind(shard, position).records:
            return
    raise AssertionError(f"shard '{shard}' has events and gives none")


def numbers(found: Events) -> list[int]:
    """The numbers of the events of a read."""
    lines = [line for payload in found.payloads if payload is not None for line in payload.split(b"\n")]
    return [msgspec.json.decode(line)["n"] for line in lines]


def all_numbers(source: Source, shard: str, position: str | None = None, limit: int = 3) -> list[int]:
    """The numbers of the events of a shard from a position on, in the order in which they come.

    Args:
        source: the source.
        shard: the shard's name.
        position: where to begin; the shard's beginning unless given.
        limit: about how many events one read may give.
    """
    return [number for found in reads(source, shard, position, limit) for number in numbers(found)]


def some(first: int, count: int) -> list[bytes]:
    """Events that have numbers from `first` on."""
    return [msgspec.json.encode({"n": number}) for number in range(first, first + count)]


def names(source: Source) -> list[str]:
    """The shards there are, however often one is missing from a list."""
    return sorted({shard.name for _ in range(20) for shard in patiently(lambda: source.shards({}))})


class SourceConformance(Declared):
    """Every test of the protocol of a source; events hold their number, from 0 on in shard 0, from 100 on in shard 1."""

    @pytest.fixture
    def world(self) -> World:
        """The source, with nothing in it; override it."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, world: World) -> Iterator[Source]:
        """The source with five events in shard 0 and three in shard 1."""
        world.put(0, some(0, 5))
        world.put(1, some(100, 3))
        source = world.open()
        yield source
        source.close()

    def test_every_event_comes_once_in_the_order_of_its_shard(self, source: Source) -> None:
        found = [all_numbers(source, shard) for shard in names(source)]
        assert sorted(found) == [[0, 1, 2, 3, 4], [100, 101, 102]]

    def test_every_column_has_a_value_for_each_payload(self, source: Source) -> None:
        for shard in names(source):
            for found in reads(source, shard, None, 2):
                columns = (found.encodings, found.counts, found.stamps, found.keys)
                assert {len(column) for column in columns} == {len(found.payloads)}

    def test_another_process_goes_on_from_every_position(self, source: Source, world: World) -> None:
        for shard in names(source):
            whole = all_numbers(source, shard)
            before = 0
            for found in reads(source, shard, None, 1):
                before += len(found)
                again = world.open()
                assert all_numbers(again, shard, found.next) == whole[before:]
                again.close()

    def test_a_position_that_is_read_again_gives_the_same(self, source: Source) -> None:
        shard = names(source)[0]
        position = patiently(lambda: source.read(shard, None, 1)).next
        assert all_numbers(source, shard, position, 1) == all_numbers(source, shard, position, 9)

    def test_what_came_up_to_a_position_comes_again_whatever_has_come_since(self, source: Source, world: World) -> None:
        for place, shard in enumerate(names(source)):
            first = list(reads(source, shard, None, 2))
            world.put(place, some(50, 7))
            until = first[-1].next
            assert until is not None
            again = list(reads(source, shard, None, 100, until))
            assert [n for one in again for n in numbers(one)] == [n for one in first for n in numbers(one)]
            assert again[-1].next == until

    def test_reading_goes_on_at_the_end_when_more_has_come(self, source: Source, world: World) -> None:
        ends = {shard: list(reads(source, shard, None, 9))[-1].next for shard in names(source)}
        assert [n for shard, end in ends.items() for n in numbers(next(reads(source, shard, end, 9)))] == []
        world.put(0, some(5, 2))
        found = [number for shard, position in ends.items() for number in all_numbers(source, shard, position)]
        assert found == [5, 6]

    def test_a_new_shard_is_listed_and_read_from_its_beginning(self, world: World) -> None:
        world.put(0, some(0, 2))
        source = world.open()
        before = names(source)
        world.put(1, some(100, 2))
        found = [all_numbers(source, shard) for shard in names(source)]
        assert before == [] or [0, 1] in [all_numbers(source, shard) for shard in before]
        assert [100, 101] in found
        source.close()

    def test_shards_keep_their_names(self, source: Source, world: World) -> None:
        before = names(source)
        world.put(0, some(5, 1))
        again = world.open()
        assert len(set(before)) == len(before)
        assert names(again) == names(source) == before
        again.close()

    def test_who_has_read_all_is_nothing_behind_and_nobody_else_is(self, source: Source) -> None:
        for shard in names(source):
            assert source.behind(shard, None).records > 0
            assert source.behind(shard, list(reads(source, shard, None, 9))[-1].next).records == 0

    def test_what_has_expired_is_said_and_what_is_kept_comes(self, source: Source, world: World) -> None:
        first = {shard: next(one for one in reads(source, shard, None, 1) if len(one)) for shard in names(source)}
        shard, begun = next((name, one) for name, one in first.items() if numbers(one)[0] == 0)
        world.put(0, some(5, 4))
        world.expire(0)
        found = list(reads(source, shard, begun.next, 3))
        came = [number for one in found for number in numbers(one)]
        missing = set(range(numbers(begun)[-1] + 1, 9)) - set(came)
        assert came == sorted(came) and came[-1] == 8
        assert bool(missing) == any(one.lost for one in found)

    def test_who_begins_at_the_beginning_has_lost_nothing(self, source: Source, world: World) -> None:
        world.expire(0)
        assert [one.lost for shard in names(source) for one in reads(source, shard, None, 3) if one.lost] == []

    def test_it_is_closed_as_often_as_one_likes(self, world: World) -> None:
        world.put(0, some(0, 1))
        source = world.open()
        source.close()
        source.close()
