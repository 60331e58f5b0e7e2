"""What may happen to a simulated project: learning, groups that go and come back, requests over HTTP, flipped bits."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from tests.properties.planted import FAULTS

from millstream.errors import DiskFull, MillstreamError
from millstream.testing.simulation import flips, layers, machine, operators, producers, truth
from millstream.testing.simulation.actions import DAY, HOUR, MINUTE, SECOND, Action
from millstream.testing.simulation.acts import do
from millstream.testing.simulation.settle import settle, work
from millstream.testing.simulation.simulate import _world
from millstream.testing.simulation.world import World

EVENTS = tuple((number, 1 + number % 2, 4, 0.1 * number, "DE", True, number * SECOND) for number in range(8))
ASKS = tuple((number, 1 + number % 2, 4, 1.0, "FR", HOUR) for number in range(6))


@pytest.fixture
def world() -> Iterator[World]:
    with _world(0, Random("a test"), None) as made:
        yield made


def filled(world: World) -> World:
    producers.send(world, "events", EVENTS, True)
    world.clock.advance(2 * HOUR)
    work(world)
    return world


def test_a_model_is_trained_on_what_was_known_and_becomes_the_champion(world: World) -> None:
    filled(world)
    producers.ask(world, ASKS)
    producers.outcome(world, tuple((number, number % 2 == 0, 0) for number in range(6)))
    assert operators.train(world) == "6 examples, version 2"
    assert world.champion() == world.champions[-1] == 2
    world.clock.advance(DAY)
    producers.ask(world, ASKS)
    assert operators.train(world) == "12 examples, version 3"
    settle(world)


def test_a_group_that_goes_takes_the_champion_along_until_it_comes_back(world: World) -> None:
    filled(world)
    asked = ((1, 2, 0.5, "DE", None),)
    operators.whole(world, True)
    assert truth.score(world, asked) == "refused: ServeError"
    assert truth.score(world, asked, True) == "refused: MillstreamError"
    operators.whole(world, False)
    assert truth.score(world, asked).startswith("scored")
    settle(world)


def test_a_stream_gets_more_partitions_under_traffic(world: World) -> None:
    filled(world)
    assert [operators.grow(world, "events") for _ in range(3)] == [
        "has 3 partitions",
        "has 4 partitions",
        "has 4 partitions",
    ]
    assert operators.grow(world, "elsewhere") == "no such stream"
    producers.send(world, "events", tuple((100 + one[0], *one[1:]) for one in EVENTS), True)
    producers.burst(world, 60)
    assert {one.partition for one in world.ledger.landed["events"]} - {0, 1}
    settle(world)


def test_events_and_scores_go_over_http(world: World) -> None:
    assert producers.post(world, "events", EVENTS, True) == "acknowledged 8"
    assert truth.score(world, ((1, 2, -0.0, "DE", None), (2, None, None, None, None)), True).startswith("scored")
    assert len(world.scores) == 2
    machine.fill(world, "log")
    with pytest.raises(DiskFull):
        producers.post(world, "events", EVENTS, True)
    machine.room(world)
    with pytest.raises(MillstreamError, match="No stream is named 'event'"):
        world.process("serve").web.ask("POST", "/v1/streams/event/events", [])
    settle(world)


def test_the_power_fails_on_a_full_disk_too(world: World) -> None:
    filled(world)
    world.precarious = True
    layers.layer(world, "ingest")
    machine.fill(world, "online")
    stepped_back, _, _ = machine.lose_power(world).partition(" ")
    assert int(stepped_back) > 0
    settle(world)


def test_a_table_gets_only_rows_that_could_not_be_known_before_though_the_clock_was_set_back(world: World) -> None:
    before = world.clock.now()
    machine.jump(world, -HOUR)
    producers.table(world, [(5, -3.5, "DE", -MINUTE)])
    assert world.accounts[-1]["at"] == before - MINUTE


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_service_that_dies_while_it_answers_ends_the_request(world: World, kind: str) -> None:
    outcome = do(world, Action("post", ("events", EVENTS, True), (1, kind)))
    assert outcome.startswith("died writing log")
    assert len(world.ledger.landed["events"]) == (8 if kind == "after" else 0)
    settle(world)


@pytest.mark.parametrize("kind", ["log", "online", "journal", "warehouse"])
def test_a_flipped_bit_is_named_and_what_can_be_built_anew_is(world: World, kind: str) -> None:
    filled(world)
    layers.layer(world, "archive")
    truth.score(world, ((1, 2, 0.5, "DE", None), (2, 1, 0.5, "DE", None)))
    assert flips.flip(world, kind, 54321) != "no such file"
    settle(world)


def test_a_layer_that_is_frozen_goes_on_writing_when_others_have_been_at_work(world: World) -> None:
    producers.send(world, "events", EVENTS, True)
    seen: list[str] = []

    def go_on(actions: int) -> None:
        seen.extend(layers.layer(world, "compute") for _ in range(actions))

    world.go_on = go_on
    outcome = do(world, Action("layer", ("compute", False), (3, "between"), asleep=2))
    assert seen == ["8", "0"]
    assert "frozen meanwhile" in outcome
    assert [one.name for one in world.zombies] == ["compute"]
    settle(world)


def test_a_layer_that_is_ended_while_it_is_frozen_writes_nothing_more(world: World) -> None:
    producers.send(world, "events", EVENTS, True)
    world.go_on = lambda actions: world.kill()
    assert do(world, Action("layer", ("compute", False), (3, "between"), asleep=1)).startswith("died while it was")
    assert layers.layer(world, "compute") == "8"
    settle(world)


def test_of_two_that_ingest_at_once_one_is_refused(world: World) -> None:
    assert _two_at_once(world, 9) == ""


def test_events_count_twice_in_a_store_that_takes_a_write_from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS["the_store_takes_a_write_from_anywhere"](monkeypatch)
    said = []
    for read in range(3, 16, 3):
        with _world(0, Random("a test"), None) as world:
            said.append(_two_at_once(world, read))
    assert any(one.startswith("served is computed") for one in said)


def _two_at_once(world: World, read: int) -> str:
    """What does not hold once two have ingested the same at once, the second of them before a read of the first."""
    producers.send(world, "events", EVENTS, True)
    layers.layer(world, "compute")
    layers.layer(world, "ingest")
    producers.send(world, "events", tuple((10 + number, *event) for number, *event in EVENTS), True)
    layers.layer(world, "compute")
    do(world, Action("layer", ("ingest", False), (read, "between"), turn=Action("layer", ("ingest", False))))
    try:
        settle(world)
    except AssertionError as error:
        return str(error)
    return ""


def test_what_does_not_hold_in_the_midst_of_a_step_is_what_is_told(world: World) -> None:
    def go_on(actions: int) -> None:
        raise AssertionError("nothing holds")

    world.go_on = go_on
    with pytest.raises(AssertionError, match="nothing holds"):
        do(world, Action("layer", ("compute", False), (3, "between"), asleep=1))
