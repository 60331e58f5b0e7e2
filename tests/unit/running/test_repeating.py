"""What is done now and then beside a layer: nobody waits for it, and what it has to say is not lost."""

import threading

import pytest

from millstream.errors import StoreError
from millstream.running.repeating import Beside, Every


def all_of(beside: Beside, count: int) -> list[object]:
    """What was done, once it is so much."""
    found: list[object] = []
    while len(found) < count:
        found += beside.done()
    return found


def test_nobody_waits_for_what_is_done_beside() -> None:
    going_on = threading.Event()
    beside = Beside("test", [Every(3600, lambda: going_on.wait(30)), Every(3600, lambda: "second")])
    assert beside.done() == []
    going_on.set()
    assert all_of(beside, 2) == [True, "second"]
    beside.close(5)


def test_what_fails_beside_is_raised_once_and_the_others_go_on() -> None:
    def fail() -> None:
        raise StoreError("The disk is away.")

    beside = Beside("test", [Every(3600, fail), Every(0, lambda: 1)])
    with pytest.raises(StoreError, match="away"):
        all_of(beside, 10_000)
    assert all_of(beside, 2) == [1, 1]
    beside.close(5)


def test_what_has_been_told_to_stop_begins_nothing_more() -> None:
    beside = Beside("test", [Every(0, lambda: 1)])
    all_of(beside, 1)
    beside.close(5)
    beside.done()
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert beside.done() == []
