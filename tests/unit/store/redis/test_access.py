"""Connections that are encrypted, and users who may do what the docs say and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.certificates import Certificates, lacking
from tests.conftest import absent, redis_program

from millstream.clock import SimulatedClock
from millstream.errors import StoreError
from millstream.project.backends import backend
from millstream.settings import Settings
from millstream.store.online import ShardMeta, pages
from millstream.store.redis.store import RedisOnlineStore
from millstream.testing.servers.ports import free_port
from millstream.testing.servers.redis import PASSWORD, RedisServer

STATES, MANY = "velocity@1", [(b"%d" % number, b"1") for number in range(3_000)]
#: What docs/redis.md says that a user needs.
RIGHTS = ["reset", "on", f">{PASSWORD}", "~millstream:bakery*", "+@all", "-@admin", "-@dangerous", "+info"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    remedy = lacking()
    if remedy is not None:
        absent("OpenSSL", remedy)
    return Certificates.made(tmp_path_factory.mktemp("certificates"), "baker")


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[RedisServer]:
    """A server that lets in by certificate and password, and encrypted on a port of its own."""
    certificate, key = certificates.of("server")
    tls = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": certificates.ca}
    settings = {name: str(path) for name, path in tls.items()}
    with RedisServer(redis_program("redis"), requirepass=PASSWORD, **settings) as server:
        assert server.ask("ACL", "SETUSER", "baker", *RIGHTS) == b"OK"
        yield server


@pytest.fixture(scope="module")
def encrypted(server: RedisServer) -> int:
    port = free_port()
    assert server.ask("CONFIG", "SET", "tls-port", str(port)) == b"OK"
    return port


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_REDIS_PASSWORD", PASSWORD)


def configured(folder: Path, url: str, **settings: object) -> RedisOnlineStore:
    lines = ['name = "bakery"', "[online]", 'kind = "redis"', f'url = "{url}"', 'timeout = "2s"']
    lines += [f'{name} = "{value}"' for name, value in settings.items()]
    (folder / "millstream.toml").write_text("\n".join(lines))
    found = Settings.load(folder)
    store = backend(found, "online").open(found, SimulatedClock(0))
    assert isinstance(store, RedisOnlineStore)
    return store


def live(store: RedisOnlineStore) -> None:
    """Everything that is done with a store."""
    store.drop(STATES)
    store.write(STATES, 0, MANY[:9], ShardMeta(position=1), None)
    assert store.write(STATES, 0, MANY, ShardMeta(position=2), 1) == []
    store.load(STATES, 0, MANY[:9], ShardMeta(position=-3), 2)
    assert len({pair for page in pages(store, STATES, 0) for pair in page.items}) == len(MANY)
    assert store.examine(STATES, 0) == store.memory(STATES, 0).keys == len(MANY)
    assert (store.states(), store.damaged()) == ([STATES], [])
    store.drop(STATES)


def test_a_server_is_reached_encrypted_by_a_certificate_of_both(
    tmp_path: Path, server: RedisServer, encrypted: int, certificates: Certificates
) -> None:
    certificate, key = certificates.of("client")
    live(
        configured(
            tmp_path,
            f"rediss://baker@127.0.0.1:{encrypted}",
            tls_ca=certificates.ca,
            tls_cert=certificate,
            tls_key=key,
        )
    )


@pytest.mark.parametrize(
    ("url", "named", "said"),
    [
        ("rediss://127.0.0.1:{port}", {}, "certificate verify failed"),
        ("rediss://localhost:{port}", {"tls_ca": "ca"}, "certificate is not valid for 'localhost'"),
        (
            "rediss://127.0.0.1:{port}",
            {"tls_ca": "ca"},
            "certificate required|may want a certificate|broken pipe|reset",
        ),
        ("redis://127.0.0.1:{port}", {}, "closed the connection|reset"),
    ],
)
def test_who_is_not_who_he_should_be_is_said(
    tmp_path: Path, encrypted: int, certificates: Certificates, url: str, named: dict[str, str], said: str
) -> None:
    store = configured(tmp_path, url.format(port=encrypted), **{name: certificates.ca for name in named})
    with pytest.raises(StoreError, match=rf"cannot be reached: .*({said})"):
        store.facts({STATES: 1})


def test_a_user_needs_the_rights_that_the_docs_say_and_no_more(tmp_path: Path, server: RedisServer) -> None:
    url = f"redis://baker@127.0.0.1:{server.port}"
    live(configured(tmp_path, url))
    other = configured(tmp_path, url, prefix="theirs")
    with pytest.raises(StoreError, match="refuses: NOPERM") as told:
        other.write(STATES, 0, MANY[:1], ShardMeta(position=1), None)
    assert "allow the user" in str(told.value.hint)
    assert server.ask("ACL", "SETUSER", "baker", ">another", f"<{PASSWORD}") == b"OK"
    with pytest.raises(StoreError, match="refuses: WRONGPASS"):
        configured(tmp_path, url).facts({STATES: 1})
    assert server.ask("ACL", "SETUSER", "baker", *RIGHTS) == b"OK"
