"""What can be wrong with a server is one error that says it; and what is away keeps nobody waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import redis_program

import millstream as ms
from millstream.clock import SimulatedClock
from millstream.errors import CorruptState, DiskFull, Forked, MillstreamError, ProjectError, StoreError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.store import connections
from millstream.store.deadline import with_deadline
from millstream.store.online import Ask, InMemory, ShardMeta
from millstream.store.redis.access import Access, ServerUrl
from millstream.store.redis.scripts import SCRIPTS
from millstream.store.redis.servers import Servers
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.redis import PASSWORD, RedisServer

STATES = "velocity@1"


def opened(url: str, seconds: float = 2, **access: str) -> RedisOnlineStore:
    return RedisOnlineStore(Servers(ServerUrl.of(url), Access(**access)), "refusals", seconds)


def configured(folder: Path, text: str) -> RedisOnlineStore:
    (folder / "millstream.toml").write_text(f'[online]\nkind = "redis"\n{text}')
    settings = Settings.load(folder)
    store = backend(settings, "online").open(settings, SimulatedClock(0))
    assert isinstance(store, RedisOnlineStore)
    return store


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    with RedisServer(redis_program("redis"), requirepass=PASSWORD) as server:
        yield server


@contextmanager
def saying(*replies: bytes) -> Iterator[str]:
    """The URL of a server that answers whatever it is asked with the same replies."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                client.recv(1 << 16)
                client.sendall(b"".join(replies))

    threading.Thread(target=answer, daemon=True).start()
    with listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"


def info(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


def test_a_password_comes_from_the_environment_or_a_file(
    guarded: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f'url = "redis://default@127.0.0.1:{guarded.port}/0"\n'
    monkeypatch.setenv("MILLSTREAM_REDIS_PASSWORD", PASSWORD)
    assert configured(tmp_path, url).facts({STATES: 1}) == {STATES: [None]}
    monkeypatch.delenv("MILLSTREAM_REDIS_PASSWORD")
    monkeypatch.setenv("CACHE_PASSWORD", PASSWORD)
    assert configured(tmp_path, url + 'password_env = "CACHE_PASSWORD"').facts({STATES: 1}) == {STATES: [None]}
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    assert configured(tmp_path, url + 'password_file = "secret"').facts({STATES: 1}) == {STATES: [None]}
    with pytest.raises(ProjectError, match=r"'online\.password_file' is '.*/nowhere', which cannot be read"):
        configured(tmp_path, url + 'password_file = "nowhere"')


@pytest.mark.parametrize("password", ["", "wheat"])
def test_wrong_credentials_are_said_without_showing_any(guarded: RedisServer, password: str) -> None:
    store = opened(guarded.url, password=password)
    for use in (lambda: store.facts({STATES: 1}), lambda: store.write(STATES, 0, [], ShardMeta(position=1), None)):
        with pytest.raises(StoreError, match=r"refuses: (NOAUTH|WRONGPASS)") as told:
            use()
        assert "password_env" in str(told.value.hint) and "wheat" not in str(told.value)
    assert PASSWORD not in repr(Access(password=PASSWORD))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "http://cache"', "its scheme must be one of redis, rediss, unix"),
        ('url = "redis://cache/zero"', "the number of a database"),
        ('url = "redis://"', "it names no host"),
        ('url = "redis://cache:port"', "is no URL"),
        ('url = "redis://cache?ssl=true"', "it may have no parameters"),
        ('url = "redis://ada:lovelace@cache"', "'online.url' holds a password"),
        ('prefix = "a{b}"', r"'online.prefix' is 'a\{b\}'; it must be text without"),
        ('url = "rediss://cache"\ntls_ca = "nowhere.pem"', "a certificate that .* cannot be used"),
        ("timeout = 5", "'online.timeout' is 5"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProjectError, match=said) as told:
        configured(tmp_path, text)
    assert "lovelace" not in str(told.value)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ("redis_version:5.0.3\r\n", r"is Redis 5\.0\.3; it must be 6\.2 or newer"),
        ("redis_version:7.0.1\r\nmaxmemory:5\r\nmaxmemory_policy:allkeys-lru\r\n", "throws keys away"),
        ("redis_version:7.0.1\r\nredis_mode:sentinel\r\n", "is a sentinel, and knows servers by name"),
    ],
)
def test_a_server_that_is_not_fit_is_refused(facts: str, said: str) -> None:
    with saying(info(facts) * 2, b"+OK\r\n" * len(SCRIPTS), info(facts)) as url, pytest.raises(StoreError, match=said):
        opened(url, 10).facts({STATES: 1})


def test_what_does_not_speak_the_protocol_is_said() -> None:
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url, pytest.raises(StoreError, match="does not speak Redis"):
        opened(url).facts({STATES: 1})


def test_a_full_server_takes_no_more_and_keeps_what_it_has() -> None:
    with RedisServer(redis_program("redis"), maxmemory="5mb", **{"maxmemory-policy": "noeviction"}) as server:
        store = opened(server.url)
        store.write(STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        many = [(b"%d" % number, bytes(1 << 10)) for number in range(9_000)]
        with pytest.raises(DiskFull, match="OOM") as told:
            store.write(STATES, 0, many, ShardMeta(position=2), 1)
        assert "maxmemory" in str(told.value.hint)
        [answer] = store.read([Ask(STATES, 0, [b"a"])])
        assert answer.values == [b"1"] and answer.meta == ShardMeta(position=1, pending=ShardMeta(position=2))
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert store.write(STATES, 0, [], ShardMeta(position=2), 1) in ((), [])
        assert store.examine(STATES, 0) > 100


def test_a_server_that_is_away_is_said_at_once_and_found_again() -> None:
    with RedisServer(redis_program("valkey")) as server:
        store = opened(server.url)
        store.write(STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        server.kill()
        for _ in range(connections.FAILURES + 2):
            [answer] = store.read([Ask(STATES, 0, [b"a"])])
            assert "cannot be reached" in str(answer.failure) and answer.values == [None]
        with pytest.raises(StoreError, match="cannot be reached"):
            store.facts({STATES: 1})
        server.start()
        end = time.monotonic() + 20
        while store.read([Ask(STATES, 0, [b"a"])])[0].values != [b"1"]:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_server_that_hangs_keeps_few_waiting_and_nobody_longer_than_said() -> None:
    with RedisServer(redis_program("valkey")) as server:
        store = opened(server.url, 5)
        served = with_deadline(store, 0.2)
        assert isinstance(served, RedisOnlineStore) and served.read([Ask(STATES, 0)])[0].failure is None
        server.freeze()
        waited = []
        for _ in range(connections.FAILURES + 5):
            begun = time.monotonic()
            [answer] = served.read([Ask(STATES, 0, [b"a"])])
            waited.append(time.monotonic() - begun)
            assert answer.failure is not None
        assert max(waited) < 1.5
        assert sorted(waited)[4] < 0.1
        server.thaw()
        end = time.monotonic() + 20
        while served.read([Ask(STATES, 0)])[0].failure is not None:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_server_that_forgot_the_scripts_is_given_them_again(redis_server: RedisServer) -> None:
    store = opened(redis_server.url)
    store.drop(STATES)
    store.write(STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    redis_server.ask("SCRIPT", "FLUSH")
    many = [(b"%d" % number, b"2") for number in range(3_000)]
    assert store.write(STATES, 0, many, ShardMeta(position=2), 1) == []
    assert store.examine(STATES, 0) == 3_001


def test_what_was_changed_under_us_is_damage_and_is_noted_until_the_states_are_dropped(
    redis_server: RedisServer,
) -> None:
    store = opened(redis_server.url)
    store.drop(STATES)
    keys = [b"a", b"b"]
    store.write(STATES, 0, [(key, b"1") for key in keys], ShardMeta(position=1), None)
    place = "refusals:velocity@1/0"
    redis_server.ask("HSET", place, "kb", redis_server.ask("HGET", place, "ka"))  # as an answer that is another's
    [answer] = store.read([Ask(STATES, 0, keys)])
    assert isinstance(answer.failure, CorruptState) and "key b'b'" in str(answer.failure)
    with pytest.raises(CorruptState):
        store.examine(STATES, 0)
    assert store.damaged() == [STATES] and store.states() == [STATES]
    store.drop(STATES)
    assert store.damaged() == [] and store.states() == []
    store.write(STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    redis_server.ask("HDEL", place, "m")
    assert isinstance(store.read([Ask(STATES, 0, keys)])[0].failure, CorruptState)
    store.drop(STATES)
    redis_server.ask("SET", place, "theirs")
    with pytest.raises(StoreError, match="WRONGTYPE") as told:
        store.write(STATES, 0, [], ShardMeta(position=1), None)
    assert "prefix" in str(told.value.hint)
    redis_server.ask("DEL", place)


def test_memory_is_told_by_shard(redis_server: RedisServer) -> None:
    store = opened(redis_server.url)
    store.drop(STATES)
    assert isinstance(store, InMemory) and store.memory(STATES, 0).keys == 0
    store.write(STATES, 0, [(b"%d" % key, bytes(100)) for key in range(900)], ShardMeta(position=1), None)
    found = store.memory(STATES, 0)
    assert found.keys == 900 and 100 < found.size / found.keys < 300


def test_a_scan_goes_on_from_its_beginning_after_a_restart() -> None:
    with RedisServer(redis_program("valkey"), appendfsync="always") as server:
        store = opened(server.url)
        store.write(STATES, 0, [(b"%d" % key, bytes(99)) for key in range(990)], ShardMeta(position=1), None)
        page = store.scan(STATES, 0, None, 50)
        seen = {key for key, _ in page.items}
        server.kill()
        server.start()
        while page.cursor is not None:
            try:
                page = store.scan(STATES, 0, page.cursor, 50)
            except MillstreamError:
                time.sleep(0.05)
                continue
            seen |= {key for key, _ in page.items}
        assert len(seen) == 990


def test_a_store_is_not_carried_across_a_fork(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(redis_server.url)
    store.facts({STATES: 1})
    monkeypatch.setattr("millstream.store.redis.servers.forks", lambda: 99)
    with pytest.raises(Forked, match="was opened before this process was forked"):
        store.facts({STATES: 1})


def test_a_project_says_what_is_wrong_with_its_server(tmp_path: Path) -> None:
    (tmp_path / "millstream.toml").write_text('[online]\nkind = "redis"\nurl = "redis://127.0.0.1:1/0"')
    user = ms.Entity("user", keys={"user_id": "int64"})
    visits = ms.EventStream("visits", time="at", schema={"user_id": "int64", "at": "timestamp"})
    pace = ms.StreamFeatureGroup("pace", entity=user, source=visits, features=[ms.Count(over="1h")])
    view = ms.FeatureView("pace", features=[pace])
    with ms.Project(tmp_path) as project:
        project.apply(view)
        project.send(visits, [{"user_id": 1, "at": project.clock.now()}])
        with pytest.raises(StoreError, match=r"Online store 'redis://127\.0\.0\.1:1' cannot be reached"):
            project.drain()
        with pytest.raises(StoreError):
            project.features(view, [{"user_id": 1}])
