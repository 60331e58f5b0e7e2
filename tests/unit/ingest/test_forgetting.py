"""Keys that no read needs any more leave the store, whoever writes meanwhile; what is read of it stays what it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.computing.chain import BASE, HOUR, PAYMENTS, SECOND, USER, Chain, version_of

import millstream as ms
from millstream.errors import CorruptState
from millstream.fold import decode_key, encode_key
from millstream.history.events import History
from millstream.ingest.forgetting import EVERY, PAUSE
from millstream.ingest.stream import StreamIngester
from millstream.ingest.sync import Syncer
from millstream.serve.reader import FeatureReader
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.online import EARLY, forgotten_by
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.shards import meta_of

DAY = 24 * HOUR
SPENT = ms.StreamFeatureGroup(
    "spent", entity=USER, source=PAYMENTS, features=[ms.Count(over=["1h", "24h"]), ms.LastK("device", over="24h")]
)
EVER = ms.StreamFeatureGroup("ever", entity=USER, source=PAYMENTS, features=[ms.Count(over="1h"), ms.Last("amount")])
SESSIONS = ms.StreamFeatureGroup(
    "sessions", entity=USER, source=PAYMENTS, features=[ms.Count(over=ms.Session(gap="30m", late="1h"))]
)


class World:
    """A chain whose payments are sent when the clock says, and taken in at once."""

    def __init__(self, folder: Path, group: Any = SPENT, store: Callable[[Any], Any] = lambda online: online) -> None:
        self.version = version_of(group, shards=1)
        self.chain = Chain(folder, versions=(self.version,))
        self.chain.start()
        self.clock, self.computer, self.sent = self.chain.clock, self.chain.computer(), 0
        self.chain.online = store(self.chain.online)
        self.ingester = self.chain.ingester()

    def pay(self, *users: int, ago: int = 0) -> None:
        """A payment of each user, which happened some time ago."""
        at, first = self.clock.now() - ago, self.sent
        self.sent += len(users)
        self.chain.send(
            PAYMENTS,
            [{"id": f"p{first + i}", "user_id": user, "device": "d", "amount": 1.0, "at": at} for i, user in enumerate(users)],
        )  # fmt: skip
        while self.computer.step().records:
            pass
        self.settle()
        self.clock.advance(SECOND)

    def settle(self) -> int:
        """Take in what there is, and look at all keys; how many were forgotten."""
        forgotten = 0
        while (done := self.ingester.step()).lag or done.records or done.fenced:
            forgotten += done.forgotten
        forgotten += done.forgotten
        while self.ingester.forgetting:
            self.clock.advance(PAUSE + 1)
            forgotten += self.ingester.step().forgotten
        return forgotten

    def pass_by(self, span: int) -> None:
        self.clock.advance(span)

    @property
    def users(self) -> list[int]:
        return sorted(int(decode_key(USER.keys, key)[0]) for key in self.chain.states(self.version))

    def read(self, user: int, ago: int = 0) -> tuple[Any, str | None]:
        """The count of a day as served of some time ago, and why it is not."""
        view = ms.FeatureView("view", features=[self.version.group])
        reader = FeatureReader(self.chain.online, view, {self.version.group.name: self.version}, self.clock)
        found = reader.read({"user_id": [user]}, np.array([self.clock.now() - ago]))
        (fact,) = found.facts[self.version.group.name]
        column = next(name for name in found.columns if name.endswith("24h") or name.endswith("30m"))
        return found.columns[column][0], fact.fallback


def test_keys_whose_windows_have_been_empty_for_a_day_are_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1, 2, 3)
    for hour in range(1, 60):
        world.pass_by(HOUR)
        world.pay(*([3, 4] if hour == 26 else [5]))
        # A window of a day, a day more, an hour until two looks agree, and what windows move by.
        assert world.users == sorted(([1, 2] if hour < 50 else []) + [3] + [4] * (hour >= 26) + [5])
    assert [world.read(user)[0] for user in range(1, 6)] == [0, 0, 0, 0, 25]
    world.pass_by(30 * DAY)
    world.pay(6)
    world.pass_by(EVERY)
    world.pay(6)
    assert world.users == [6]


def test_a_key_that_comes_back_is_as_if_it_had_not_been_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1, 2)
    world.pass_by(60 * HOUR)
    world.pay(2)
    world.pass_by(2 * HOUR)
    world.pay(2)
    assert world.users == [2]
    world.pay(1)
    world.pay(1, ago=50 * HOUR)  # late, and before what was forgotten by
    world.pay(1, ago=3 * HOUR)
    assert (world.read(1), world.read(2)) == ((2, None), (2, None))


def test_what_was_before_is_not_told_of_a_shard_that_has_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1)
    world.pass_by(60 * HOUR)
    world.pay(2)
    assert world.read(3, ago=50 * HOUR) == (0, None)
    world.pass_by(HOUR)
    world.pay(2)
    by = forgotten_by(meta_of(world.chain.online, "spent@1", 0))
    assert by is not None and by == BASE + 60 * HOUR + SECOND - DAY
    ago = world.clock.now() - by
    assert world.read(1, ago=ago + 6 * SECOND)[1] == EARLY
    assert world.read(1, ago=ago) == (0, None)
    assert world.read(9, ago=ago) == (0, None)


@pytest.mark.parametrize("group", [EVER, SESSIONS])
def test_a_group_that_looks_back_for_ever_keeps_every_key(tmp_path: Path, group: Any) -> None:
    world = World(tmp_path, group)
    for _ in range(4):
        world.pay(world.sent)
        world.pass_by(40 * DAY)
    assert world.users == [0, 1, 2, 3]
    assert forgotten_by(meta_of(world.chain.online, world.version.states, 0)) is None


def test_a_clock_that_is_ahead_for_a_moment_makes_nobody_forget(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1)
    world.pass_by(2 * HOUR)
    world.pay(2)
    world.pass_by(30 * DAY)
    world.pay(3)
    world.pass_by(-30 * DAY)
    world.pay(4)
    assert world.users == [1, 2, 3, 4]
    assert world.read(1) == (1, None)
    world.pass_by(2 * HOUR)
    world.pay(4)
    assert world.users == [1, 2, 3, 4]


def test_many_keys_are_looked_at_a_page_at_a_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(*range(5_000))
    world.pass_by(60 * HOUR)
    world.pay(8_000)
    world.pass_by(HOUR)
    world.chain.send(PAYMENTS, [{"id": "x", "user_id": 8_001, "device": "d", "amount": 1.0, "at": world.clock.now()}])
    world.computer.step()
    first = world.ingester.step()
    assert (first.records, first.forgotten) == (1, 0)  # what has come goes first
    assert 0 < world.ingester.step().forgotten <= 2_000
    assert world.ingester.step().forgotten == 0  # until a while has passed
    world.ingester = world.chain.ingester()  # another process goes on
    world.settle()
    world.pass_by(SECOND)
    while world.ingester.step().forgotten or world.ingester.forgetting:
        world.pass_by(SECOND)
    assert world.users == [8_000, 8_001]


class Stopped:
    """A store that stops before it forgets, while something else happens."""

    def __init__(self, online: Any) -> None:
        self._online, self.meanwhile = online, lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def forget(self, *arguments: Any) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self._online.forget(*arguments)


def test_who_wakes_after_a_key_has_come_back_removes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1, 2)
    world.pass_by(60 * HOUR)
    world.pay(3)
    successor, store = world.ingester, Stopped(world.chain.online)
    world.pass_by(HOUR)
    world.ingester = StreamIngester(world.chain.log, store, world.chain.versions, world.clock)

    def come_back() -> None:
        row = {"id": "back", "user_id": 1, "device": "d", "amount": 1.0, "at": world.clock.now()}
        world.chain.send(PAYMENTS, [row])
        world.computer.step()
        assert successor.step().written == 1

    store.meanwhile = come_back
    world.pay(3)
    assert world.users == [1, 3]
    assert world.read(1) == (1, None)


@pytest.mark.parametrize("seed", range(6))
def test_a_store_that_promises_little_forgets_the_same(tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, store=lambda online: AdversarialOnlineStore(online, seed))
    world.pay(*range(40))
    world.pass_by(60 * HOUR)
    world.pay(*range(30, 34))
    world.pass_by(HOUR)
    world.pay(*range(32, 36))
    assert world.users == list(range(30, 36))
    assert [world.read(user)[0] for user in range(28, 38)] == [0, 0, 1, 1, 2, 2, 1, 1, 0, 0]


def test_samples_of_what_is_left_agree_with_all_of_history(tmp_path: Path) -> None:
    world = World(tmp_path)
    offline = IcebergOfflineStore(tmp_path / "offline")
    history = History(world.chain.log, offline, [PAYMENTS])
    world.pay(*range(20))
    world.pass_by(60 * HOUR)
    world.pay(*range(5))
    world.pass_by(HOUR)
    world.pay(5)
    world.pay(6, 7, ago=50 * HOUR)  # too late for any window
    world.pay(8, 9, ago=20 * HOUR)
    assert world.users == [0, 1, 2, 3, 4, 5, 8, 9]
    syncer = Syncer(world.chain.log, world.chain.online, offline, history, [world.version], world.clock)
    (report,) = syncer.step()
    assert (report.compared, report.disagreeing) == (8, 0)


def test_a_state_that_cannot_be_read_is_an_error_once_and_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1, 2)
    world.pass_by(60 * HOUR)
    world.pay(3)
    key, online = encode_key(USER.keys, (1,)), world.chain.online
    meta = meta_of(online, "spent@1", 0)
    assert meta is not None
    online.write("spent@1", 0, [(key, b"no state")], meta, meta.position)
    world.pass_by(HOUR)
    with pytest.raises(CorruptState):
        world.pay(3)
    world.settle()
    assert world.users == [1, 2, 3]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_happens_what_is_read_is_what_was_paid(seed: int, adversarial: bool) -> None:
    random, paid, forgotten = Random(seed), list[tuple[int, int]](), 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), store=lambda one: AdversarialOnlineStore(one, seed) if adversarial else one)
        rival = world.chain.ingester()
        for _ in range(60):
            world.pass_by(random.choice([SECOND, HOUR, 3 * HOUR, 20 * HOUR]))
            who, ago = random.sample(range(9), random.randint(1, 3)), random.choice([0, 0, HOUR, 5 * HOUR, 20 * HOUR])
            paid += [(user, world.clock.now() - ago) for user in who]
            if random.random() < 0.3:
                world.ingester, rival = rival, world.ingester
            if random.random() < 0.2:
                world.ingester = world.chain.ingester()
            before = {*world.users, *who}
            world.pay(*who, ago=ago)
            forgotten += len(before - {*world.users})
            for user in random.sample(range(9), 3):
                at = world.clock.now()
                # Windows of a day move in hops, so one that is just beyond may count or not.
                sure = sum(u == user and at - DAY <= t < at for u, t in paid)
                most = sum(u == user and at - DAY - HOUR <= t < at for u, t in paid)
                count, fallback = world.read(user)
                assert fallback is None and sure <= count <= most
        assert forgotten
        world.computer.close()


def test_another_time_to_keep_keys_holds_for_those_that_are_there(tmp_path: Path) -> None:
    world = World(tmp_path)

    def an_hour(forget_after: int) -> list[int]:
        world.ingester = world.chain.ingester(forget_after=forget_after)
        world.pass_by(HOUR)
        world.pay(9)
        return world.users

    world.pay(1)
    world.pass_by(30 * HOUR)
    assert an_hour(2 * DAY) == an_hour(2 * DAY) == [1, 9]
    assert an_hour(HOUR) == [9]
    world.pay(2)
    world.pass_by(50 * HOUR)
    assert an_hour(9 * DAY) == an_hour(9 * DAY) == [2, 9]
    assert an_hour(2 * HOUR) == [9]
    assert world.read(2, ago=52 * HOUR)[1] == EARLY


def test_a_store_that_cannot_forget_keeps_every_key_of_one_that_could(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(1, 2)
    world.pass_by(60 * HOUR)
    world.pay(3)
    world.pass_by(HOUR)
    world.chain.send(PAYMENTS, [{"id": "x", "user_id": 3, "device": "d", "amount": 1.0, "at": world.clock.now()}])
    world.computer.step()
    assert world.ingester.step().forgotten == 0  # from here on there is something to look for
    assert forgotten_by(meta_of(world.chain.online, "spent@1", 0)) is not None

    class Keeping(AdversarialOnlineStore):
        """A store of the protocol alone."""

        forget = None  # type: ignore[assignment]

    moved = StreamIngester(world.chain.log, Keeping(world.chain.online, 1), world.chain.versions, world.clock)
    assert (moved.step().forgotten, moved.forgetting, world.users) == (0, False, [1, 2, 3])


def test_states_that_are_built_anew_half_way_leave_nothing_to_look_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(*range(5_000))
    world.pass_by(60 * HOUR)
    world.pay(8_000)
    world.pass_by(HOUR)
    world.chain.send(PAYMENTS, [{"id": "x", "user_id": 8_000, "device": "d", "amount": 1.0, "at": world.clock.now()}])
    world.computer.step()
    while not world.ingester.step().forgotten:
        world.pass_by(SECOND)
    assert world.ingester.forgetting
    world.chain.online.drop("spent@1")
    world.pass_by(SECOND)
    world.ingester.step()
    assert not world.ingester.forgetting
