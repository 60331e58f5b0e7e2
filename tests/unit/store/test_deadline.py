"""Reads of an online store that is elsewhere: one that hangs is given up in time, and others are not kept waiting."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from millstream.errors import StoreError
from millstream.store.deadline import DeadlineStore, with_deadline
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import Answer, Ask, Fact, ShardMeta
from millstream.testing.adversarial_online import AdversarialOnlineStore

ASK = Ask("velocity@1", 0, [b"a", b"b"])


class Hanging(AdversarialOnlineStore):
    """A store whose server hangs until it is let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(LmdbOnlineStore(path), seed=1)
        self.answers, self.asked = threading.Event(), 0
        self.fails: Exception | None = None

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        assert self.answers.wait(20)
        return super().facts(shards)

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        self.asked += 1
        assert self.answers.wait(20)
        if self.fails is not None:
            raise self.fails
        return super().read(asks)


@pytest.fixture
def hanging(tmp_path: Path) -> Hanging:
    return Hanging(tmp_path / "online")


def took(store: DeadlineStore) -> tuple[float, list[Answer]]:
    begun = time.monotonic()
    answers = store.read([ASK, ASK])
    return time.monotonic() - begun, answers


def test_a_read_that_hangs_is_as_one_of_shards_that_cannot_be_read(hanging: Hanging) -> None:
    store = DeadlineStore(hanging, 0.2)
    waited, answers = took(store)
    assert 0.2 <= waited < 2
    assert [answer.values for answer in answers] == [[None, None]] * 2
    assert all("has not answered within 200 ms" in str(answer.failure) for answer in answers)
    hanging.answers.set()
    assert took(store)[1][0].failure is None


def test_a_look_at_the_facts_that_hangs_is_given_up_and_keeps_no_read_waiting(hanging: Hanging) -> None:
    store = DeadlineStore(hanging, 5, at_once=1, look_seconds=0.1)
    for _ in range(6):  # more than there are places
        with pytest.raises(StoreError, match="has not answered within 100 ms"):
            store.facts({"velocity@1": 1})
    hanging.answers.set()
    assert took(store)[1][0].failure is None
    end = time.monotonic() + 10
    while store._looks.given_up:
        assert time.monotonic() < end
    assert store.facts({"velocity@1": 1}) == {"velocity@1": [None]}


def test_while_all_places_hang_the_next_one_fails_at_once_and_later_goes_on(hanging: Hanging) -> None:
    store = DeadlineStore(hanging, 0.3, at_once=3)
    with ThreadPoolExecutor(5) as callers:  # more than there are places
        waits = [future.result()[0] for future in [callers.submit(took, store) for _ in range(5)]]
    assert max(waits) < 3
    assert hanging.asked == 3
    waited, [answer, _] = took(store)
    assert waited < 0.2 and answer.failure is not None and hanging.asked == 3
    hanging.answers.set()
    end = time.monotonic() + 10
    while took(store)[1][0].failure is not None or store._reads.given_up:
        assert time.monotonic() < end


def test_what_the_store_raises_is_raised_and_what_it_answers_is_answered(hanging: Hanging) -> None:
    hanging.answers.set()
    store = DeadlineStore(hanging, 5)
    store.write("velocity@1", 0, [], ShardMeta(position=4), None)
    assert store.read([ASK])[0].meta == store.facts({"velocity@1": 1})["velocity@1"][0] == ShardMeta(position=4)
    hanging.fails = StoreError("Its server is not there.", "start it.")
    with pytest.raises(StoreError, match="Its server is not there"):
        store.read([ASK])
    hanging.fails = ConnectionResetError("reset")
    with pytest.raises(ConnectionResetError):
        store.read([ASK])


def test_a_store_that_is_local_is_read_as_it_is(tmp_path: Path) -> None:
    store = LmdbOnlineStore(tmp_path / "online")
    assert with_deadline(store, 1.0) is store
