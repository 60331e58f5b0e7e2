"""Layers with nothing to do hardly ask for anything, and are awake at once when there is something."""

import functools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.unit.running.threads import layers

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import Clock
from millstream.project.backends import BACKENDS
from millstream.registry.database import Database
from millstream.settings import Settings
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.testing.servers.kafka import Kafka
from millstream.usage.layers import snapshot

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
paces = [
    ms.StreamFeatureGroup(f"pace_{n}", entity=user, source=clicks, features=[ms.Count(over="1h")]) for n in range(100)
]
view = ms.FeatureView("pace", features=[paces[7]])

MOST = 50
"""Calls a second to the log and the stores together, of all layers with nothing to do."""
MEASURED = 4.0
"""Seconds that they are counted."""
calls: Counter[str] = Counter()


def counted(part: type) -> Any:
    """A class whose objects count the calls of their methods."""

    def counting(name: str) -> Any:
        method = getattr(part, name)

        @functools.wraps(method)
        def call(*given: Any, **named: Any) -> Any:
            calls[f"{part.__name__}.{name}"] += 1
            return method(*given, **named)

        return call

    names = [name for name in dir(part) if not name.startswith("_") and callable(getattr(part, name))]
    return type(f"Counted{part.__name__}", (part,), {name: counting(name) for name in names})


CountedLog, CountedOnline, CountedOffline = map(counted, (EmbeddedLog, LmdbOnlineStore, IcebergOfflineStore))


class Log(Struct, frozen=True):
    servers: str = ""
    prefix: str = ""

    def open(self, settings: Settings, clock: Clock) -> Any:
        if self.servers:
            from millstream.buffer.kafka.log import KafkaLog

            return counted(KafkaLog)(self.servers, self.prefix, clock)
        return CountedLog(settings.data / "log", clock, map_gib=1, fsync=False)


class Online(Struct, frozen=True):
    def open(self, settings: Settings, clock: Clock) -> Any:
        return CountedOnline(settings.data / "online", fsync=False)


class Offline(Struct, frozen=True):
    def open(self, settings: Settings, clock: Clock) -> Any:
        return CountedOffline(settings.data / "offline")


@contextmanager
def counted_project(folder: Path, groups: list[ms.StreamFeatureGroup], log: str = "") -> Iterator[ms.Project]:
    """A project of group versions that are all live, whose calls are counted; `log` is what else is set of its log."""
    kinds = "".join(f'[{section}]\nkind = "counted"\n' for section in ("online", "offline", "log")) + log
    (folder / "millstream.toml").write_text(f"shards = 1\npartitions = 1\n{kinds}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for section, made in (("log", Log), ("online", Online), ("offline", Offline)):
            patch.setitem(BACKENDS[section], "counted", f"{__name__}:{made.__name__}")
        for name in ("reading", "writing"):
            patch.setattr(Database, name, counting_registry(getattr(Database, name)))
        with ms.Project(folder) as project:
            project.apply(view, *groups)
            project.backfill()
            yield project


def counting_registry(opened: Any) -> Any:
    @functools.wraps(opened)
    def call(*given: Any, **named: Any) -> Any:
        calls[f"registry.{opened.__name__}"] += 1
        return opened(*given, **named)

    return call


def a_second(seconds: float) -> Counter[str]:
    """How often what was called in a second, over some seconds."""
    calls.clear()
    time.sleep(seconds)
    return Counter({name: count / seconds for name, count in calls.items()})


def synced(settings: Settings) -> Any:
    """What the sync layer has said, of its first round on."""
    return snapshot(settings.data)["layers"].get("sync", {"facts": {}})["facts"]


def until_quiet(settings: Settings, seconds: int = 1) -> None:
    """Let layers begin and do what there is to do, until so many seconds have been quiet one after another."""
    end, quiet = time.monotonic() + 90, 0
    while "files" not in synced(settings) or quiet < seconds:
        quiet = quiet + 1 if a_second(1.0).total() < MOST else 0
        assert time.monotonic() < end


def test_layers_with_nothing_to_do_hardly_ask_for_anything(tmp_path: Path) -> None:
    """However many group versions there are: one look shows that nothing has come for any of them."""
    with (
        counted_project(tmp_path, paces) as project,
        layers(project.settings, "compute", "ingest", "batch", "sync"),
    ):
        until_quiet(project.settings)
        found = a_second(MEASURED)
    of_registry = sum(count for name, count in found.items() if name.startswith("registry"))
    assert 0 < found.total() - of_registry < MOST, found
    assert of_registry < MOST, found


def test_layers_with_nothing_to_do_hardly_ask_for_anything_on_kafka(tmp_path: Path, kafka: Kafka) -> None:
    log = f'servers = "127.0.0.1:{kafka.port}"\nprefix = "{kafka.prefix()}"\n'
    with counted_project(tmp_path, paces[:20], log) as project, layers(project.settings, "compute", "ingest", "sync"):
        until_quiet(project.settings, 6)  # whoever joins a group of Kafka's waits for seconds before it begins
        found = a_second(MEASURED)
    assert 0 < found.total() < MOST, found


@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_what_comes_when_layers_have_nothing_to_do_is_served_at_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Of a few groups, so that it is seen when layers wake, and not what the folding of many costs."""
    log = ""
    if kind == "kafka":
        kafka: Kafka = request.getfixturevalue("kafka")
        log = f'servers = "127.0.0.1:{kafka.port}"\nprefix = "{kafka.prefix()}"\n'
    with (
        counted_project(tmp_path, paces[:8], log) as project,
        layers(project.settings, "compute", "ingest", "sync"),
    ):
        until_quiet(project.settings)
        took = []
        for number in range(1, 6):
            began = time.monotonic()
            project.send(clicks, [{"user_id": 1, "at": project.clock.now()}])
            while project.features(view, [{"user_id": 1}])["pace_7__count_1h"].to_pylist() != [number]:
                assert time.monotonic() < began + 10
                time.sleep(0.005)
            took.append(time.monotonic() - began)
            time.sleep(0.5)
    assert min(took) < 1.0, took
