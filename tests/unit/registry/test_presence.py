"""What processes say of themselves in a registry in PostgreSQL, and what others read of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from millstream.cli.checks import checked
from millstream.clock import SystemClock
from millstream.errors import ProjectError
from millstream.registry.definitions import Registry
from millstream.registry.presence import KEPT
from millstream.running.layers import run_layer
from millstream.running.up import serving_at
from millstream.settings import Settings
from millstream.testing.servers.postgresql import PostgreSQL


@pytest.fixture
def server(postgresql: PostgreSQL) -> str:
    return postgresql.database()


def test_the_last_word_of_each_process_is_read_until_it_leaves(server: str) -> None:
    one, two, reader = Registry(server).presence, Registry(server).presence, Registry(server).presence
    one.say("a", "host:/data", {"layer": "compute", "rate": 1})
    one.say("a", "host:/data", {"layer": "compute", "rate": 2})
    two.say("b", "other:/data", {"layer": "serve"})
    found = reader.all()
    assert [(some.place, some.facts) for some in found] == [
        ("host:/data", {"layer": "compute", "rate": 2}),
        ("other:/data", {"layer": "serve"}),
    ]
    assert all(0 <= some.silent < 30 for some in found)
    one.leave("a")
    assert [some.place for some in reader.all()] == ["other:/data"]


def test_who_died_is_told_of_for_an_hour_by_the_clock_of_the_server(server: str, postgresql: PostgreSQL) -> None:
    presence, name = Registry(server).presence, server.rpartition("/")[2]
    presence.say("a", "host:/data", {})
    postgresql.execute("update registry_processes set said = said - interval '100 seconds'", name)
    assert 100 <= presence.all()[0].silent < 160
    postgresql.execute(f"update registry_processes set said = said - interval '{KEPT} seconds'", name)
    assert presence.all() == []
    Registry(server).presence.say("b", "host:/data", {})
    assert postgresql.execute("select process from registry_processes", name) == [("b",)]


def test_a_registry_of_a_release_that_had_no_table_for_it_gets_one(server: str, postgresql: PostgreSQL) -> None:
    registry, name = Registry(server), server.rpartition("/")[2]
    registry.identity()
    registry.apply(registry.plan([]))
    postgresql.execute("drop table if exists registry_processes", name)
    assert registry.presence.all() == []
    registry.presence.say("a", "host:/data", {"layer": "sync"})
    assert [some.facts for some in Registry(server).presence.all()] == [{"layer": "sync"}]


@pytest.mark.parametrize(("seconds", "said"), [(3_600, "3,6.. s ahead of"), (-3_600, "3,[56].. s behind"), (20, None)])
def test_a_host_whose_clock_is_far_from_the_servers_does_not_work(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, said: str | None
) -> None:
    (tmp_path / "millstream.toml").write_text(f'registry_url = "{server}"')
    (tmp_path / "features.py").write_text("")
    now = SystemClock.now
    monkeypatch.setattr(SystemClock, "now", lambda clock: now(clock) + seconds * 1_000_000)
    stop = threading.Event()
    stop.set()
    for layer in ("sync", "serve"):
        settings = serving_at(Settings.load(tmp_path), None, 0)
        if said is None:
            run_layer(settings, layer, stop)
        else:
            with pytest.raises(ProjectError, match=said):
                run_layer(settings, layer, stop)
    assert [one.fine for one in checked(tmp_path) if one.name == "clock"] == [said is None]


def test_a_registry_in_a_file_is_of_one_host_and_one_out_of_reach_tells_of_nobody(
    tmp_path: Path, server: str, postgresql: PostgreSQL
) -> None:
    assert not Registry(f"sqlite:///{tmp_path}/registry.db").presence.shared
    assert Registry(f"sqlite:///{tmp_path}/registry.db").presence.all() == []
    presence = Registry(server).presence
    presence.say("a", "host:/data", {})
    postgresql.stop()
    try:
        assert presence.all() == []
    finally:
        postgresql.start()
    assert len(presence.all()) == 1
