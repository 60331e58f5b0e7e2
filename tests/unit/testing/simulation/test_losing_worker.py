"""In a simulation on an adversarial log ownership is lost at any time, and what computing writes may be in parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from millstream.buffer.topics import computing_consumer, feature_topic
from millstream.computing.batch import BatchComputer
from millstream.errors import Fenced
from millstream.store.online import shard_metas
from millstream.testing.simulation import operators, producers
from millstream.testing.simulation.actions import HOUR
from millstream.testing.simulation.losing_worker import LosingWorker
from millstream.testing.simulation.process import Adversary
from millstream.testing.simulation.settle import work
from millstream.testing.simulation.simulate import SMALL, _world
from millstream.testing.simulation.world import World

EVENTS = tuple((number, 1 + number % 2, 4, 0.1 * number, "DE", True, number * 1_000_000) for number in range(30))


@pytest.fixture
def world() -> Iterator[World]:
    with _world(0, Random("a test"), Adversary(1, largest=SMALL)) as made:
        yield made


def test_partitions_are_lost_and_come_back_under_another_epoch(world: World) -> None:
    worker = LosingWorker(world.process("witness").parts.log, ["events"], 5)
    told = [worker.assigned().get("events", {}) for _ in range(400)]
    assert {frozenset(row) for row in told} == {frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 1})}
    assert len({row[0] for row in told if 0 in row}) > 3
    assert worker.lacking


def test_who_owns_nothing_does_not_say_that_nothing_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = world.process("compute")
    process.step("compute")
    producers.send(world, "events", EVENTS, True)
    assert process.worker is not None
    monkeypatch.setattr(process.worker._worker, "assigned", dict)
    assert process.step("compute") == 1
    monkeypatch.undo()
    work(world)
    log, consumer = process.parts.log, computing_consumer(process.parts.registry.group("g").id)
    reached = enumerate(log.committed(consumer, "events"))
    assert [log.behind("events", partition, at).records for partition, at in reached] == [0, 0]


def test_a_run_that_came_apart_is_left_to_do(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.shape = replace(world.shape, queries=(("dated", None),))
    operators.apply(world)
    world.clock.advance(2 * HOUR)
    process = world.process("batch")

    def comes_apart(*_: object) -> None:
        raise Fenced("Topic: another was first.", "try again.")

    monkeypatch.setattr(BatchComputer, "_append", comes_apart)
    assert process.step("batch") > 0
    monkeypatch.undo()
    work(world)
    assert process.step("batch") == 0
    metas = shard_metas(process.parts.online, "dated@1", 2)
    assert all(meta is not None and meta.position > 0 for meta in metas)


def test_deltas_are_in_parts(world: World) -> None:
    producers.burst(world, 60)
    work(world)
    parts = world.process("witness").parts
    version = next(one for one in parts.registry.groups() if one.group.name == "g")
    log, topic = parts.log.embedded, feature_topic(version.id)
    payloads = [bytes(one) for shard in range(2) for one in log.read(topic, shard, 0, 1_000).payloads]
    assert any(one.startswith(b"MSP1") for one in payloads)
    assert max(map(len, payloads)) <= SMALL
