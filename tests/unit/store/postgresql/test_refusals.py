"""What can be wrong with a server is one error that says it; and what is away keeps nobody waiting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from millstream.clock import SimulatedClock
from millstream.errors import CorruptState, Forked, ProjectError, StoreError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.store import connections
from millstream.store.deadline import with_deadline
from millstream.store.online import Ask, ShardMeta, pages
from millstream.store.postgresql import server as servers
from millstream.store.postgresql.access import Access
from millstream.store.postgresql.server import Server
from millstream.store.postgresql.store import PostgresqlOnlineStore
from millstream.testing.servers.postgresql import PASSWORD, USER, PostgreSQL

STATES = "velocity@1"


def opened(url: str, seconds: float = 5, password: str = PASSWORD) -> PostgresqlOnlineStore:
    return PostgresqlOnlineStore(Server(Access.of(url, password), "refusals", seconds), seconds)


def configured(folder: Path, text: str) -> PostgresqlOnlineStore:
    (folder / "millstream.toml").write_text(f'name = "bakery"\n[online]\nkind = "postgresql"\n{text}')
    settings = Settings.load(folder)
    store = backend(settings, "online").open(settings, SimulatedClock(0))
    assert isinstance(store, PostgresqlOnlineStore)
    return store


@pytest.fixture(scope="module")
def url(postgresql: PostgreSQL) -> str:
    return postgresql.database(USER)


@pytest.fixture
def store(url: str) -> PostgresqlOnlineStore:
    store = opened(url)
    store.drop(STATES)
    return store


def write(store: PostgresqlOnlineStore) -> None:
    store.write(STATES, 0, [(b"a", b"1")], ShardMeta(position=1), None)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_password_comes_from_the_environment_a_file_or_libpq(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = f'url = "{url}"\n'
    for variable, text in (
        ("MILLSTREAM_POSTGRESQL_PASSWORD", given),
        ("STATES_PASSWORD", given + 'password_env = "STATES_PASSWORD"'),
        ("PGPASSWORD", given),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, PASSWORD)
            assert configured(tmp_path, text).facts({STATES: 1}) == {STATES: [None]}
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    write(configured(tmp_path, given + 'password_file = "secret"'))
    assert configured(tmp_path, given + 'password_file = "secret"\nschema = "other"').states() == []
    assert configured(tmp_path, given + 'password_file = "secret"\nschema = "millstream_bakery"').states() == [STATES]
    with pytest.raises(ProjectError, match=r"'online\.password_file' is '.*/nowhere', which cannot be read"):
        configured(tmp_path, given + 'password_file = "nowhere"')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "mysql://db"', "its scheme must be one of postgresql, postgres"),
        ('url = "postgresql://db/x?sslmod=require"', "cannot be read as a URL"),
        ('url = "postgresql://ada:lovelace@db/x"', "'online.url' holds a password"),
        (f'schema = "{"s" * 64}"', "is longer than 63 bytes"),
        ("timeout = 5", "'online.timeout' is 5"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProjectError, match=said) as told:
        configured(tmp_path, text)
    assert "lovelace" not in str(told.value)


def test_who_is_not_let_in_is_told_so_without_showing_any_password(url: str) -> None:
    wrong = opened(url, password="wheat@7")
    for use in (lambda: wrong.facts({STATES: 1}), lambda: write(wrong)):
        with pytest.raises(StoreError, match="password authentication failed for user") as told:
            use()
        assert "password_env" in str(told.value.hint) and "wheat" not in str(told.value)
    assert PASSWORD not in repr(Access.of(url, PASSWORD))
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        opened(url.rpartition("/")[0] + "/nowhere").facts({STATES: 1})
    with pytest.raises(StoreError, match=r"host 'nowhere\.invalid'"):
        opened("postgresql://nowhere.invalid/x").facts({STATES: 1})


def test_the_first_of_several_servers_that_takes_writes_is_asked(url: str, postgresql: PostgreSQL) -> None:
    several = url.replace("127.0.0.1", "127.0.0.1:1,nowhere.invalid:1,127.0.0.1")
    assert opened(several + "?target_session_attrs=read-write").facts({STATES: 1}) == {STATES: [None]}
    postgresql.execute(f"alter database {url.rpartition('/')[2]} set default_transaction_read_only = on")
    try:
        with pytest.raises(StoreError, match="read-only transaction") as told:
            write(opened(url))
        assert "target_session_attrs" in str(told.value.hint)
    finally:
        postgresql.execute(f"alter database {url.rpartition('/')[2]} reset default_transaction_read_only")


def test_a_user_who_may_not_make_a_schema_is_told_what_to_do(postgresql: PostgreSQL) -> None:
    url, name = postgresql.database("guest"), "guest"
    postgresql.execute(f"create role {name} login password '{PASSWORD}'")
    store = opened(url)
    assert store.facts({STATES: 1}) == {STATES: [None]} and store.states() == store.damaged() == []
    with pytest.raises(StoreError, match=r"permission denied for database .* \(42501\)") as told:
        write(store)
    assert "schema" in str(told.value.hint)
    postgresql.execute(f"create schema refusals authorization {name}", url.rpartition("/")[2])
    write(store)
    assert store.states() == [STATES]


def test_a_server_that_is_too_old_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "OLDEST", 99)
    with pytest.raises(StoreError, match=r"is PostgreSQL \d+; it must be"):
        opened(url).facts({STATES: 1})


def test_a_server_that_is_away_is_said_at_once_and_found_again(
    store: PostgresqlOnlineStore, postgresql: PostgreSQL
) -> None:
    write(store)
    postgresql.stop()
    try:
        for _ in range(connections.FAILURES + 2):
            with pytest.raises(StoreError, match="cannot be reached"):
                store.read([Ask(STATES, 0, [b"a"])])
    finally:
        postgresql.start()

    def found() -> bool:
        try:
            return store.read([Ask(STATES, 0, [b"a"])])[0].values == [b"1"]
        except StoreError:
            return False

    until(found)


def test_a_server_that_hangs_keeps_few_waiting_and_nobody_longer_than_said(
    store: PostgresqlOnlineStore, postgresql: PostgreSQL
) -> None:
    write(store)
    served = with_deadline(store, 0.2)
    assert isinstance(served, PostgresqlOnlineStore) and served.read([Ask(STATES, 0)])[0].failure is None
    waited = []
    with postgresql.standing_still():
        for _ in range(connections.FAILURES + 5):
            begun = time.monotonic()
            with pytest.raises(StoreError, match="cannot be reached"):
                served.read([Ask(STATES, 0, [b"a"])])
            waited.append(time.monotonic() - begun)
    assert max(waited) < 1.5
    assert sorted(waited)[4] < 0.1

    def found() -> bool:
        try:
            return served.read([Ask(STATES, 0, [b"a"])])[0].values == [b"1"]
        except StoreError:
            return False

    until(found)


def test_what_was_changed_under_us_is_damage_and_is_noted_until_the_states_are_dropped(
    store: PostgresqlOnlineStore, postgresql: PostgreSQL, url: str
) -> None:
    store.write(STATES, 0, [(b"a", b"1"), (b"b", b"1")], ShardMeta(position=1), None)
    database = url.rpartition("/")[2]
    postgresql.execute("update refusals.held set record = (select record from refusals.held where key = 'a')", database)
    [answer] = store.read([Ask(STATES, 0, [b"a", b"b"])])
    assert isinstance(answer.failure, CorruptState) and "key b'b'" in str(answer.failure)
    with pytest.raises(CorruptState):
        store.examine(STATES, 0)
    assert store.damaged() == [STATES]
    store.drop(STATES)
    assert store.damaged() == [] and store.states() == []
    write(store)
    postgresql.execute("update refusals.shards set meta = '1'", database)
    with pytest.raises(CorruptState, match="what it has applied"):
        store.examine(STATES, 0)
    postgresql.execute("alter table refusals.held rename column record to recorded", database)
    with pytest.raises(StoreError, match=r"column .*record.* does not exist") as told:
        opened(url).read([Ask(STATES, 0, [b"a"])])
    assert "another program" in str(told.value.hint)
    postgresql.execute("alter table refusals.held rename column recorded to record", database)


def test_many_keys_and_long_ones_are_copied_scanned_read_and_dropped(
    store: PostgresqlOnlineStore, postgresql: PostgreSQL, url: str
) -> None:
    """By the index, though plans were made when there was nothing to look up in."""
    rng, database = random.Random(1), url.rpartition("/")[2]
    write(store)
    assert store.read([Ask(STATES, 0, [b"a"])])[0].values == [b"1"]
    many = [(rng.randbytes(rng.choice([8, 40, 1_000, 1_001, 9_000])), rng.randbytes(99)) for _ in range(7_000)]
    store.load(STATES, 0, many, ShardMeta(position=-5), 1)
    store.load(STATES, 0, [*many[:9], many[3], (b"a", b"2")], ShardMeta(position=-4), -5)
    [answer] = store.read([Ask(STATES, 0, [key for key, _ in many])])
    assert answer.values == [value for _, value in many] and answer.meta == ShardMeta(position=-4)
    assert sorted(pair for page in pages(store, STATES, 0, None, 999) for pair in page.items) == sorted(
        [*many, (b"a", b"2")]
    )
    assert store.examine(STATES, 0) == 7_001
    store.drop(STATES)
    assert postgresql.execute("select count(*) from refusals.held", database) == [(0,)]
    assert postgresql.execute("select count(*) from refusals.dropped", database) == [(0,)]
    read = "select seq_tup_read < 20000 from pg_stat_user_tables where relname = 'held' and schemaname = 'refusals'"
    assert postgresql.execute(read, database) == [(True,)]


def test_a_store_is_not_carried_across_a_fork(store: PostgresqlOnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.facts({STATES: 1})
    monkeypatch.setattr(servers, "forks", lambda: 99)
    with pytest.raises(Forked, match="was opened before this process was forked"):
        store.facts({STATES: 1})
