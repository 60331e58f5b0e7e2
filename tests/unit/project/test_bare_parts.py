"""A project runs on a log and stores that have the methods of their protocols and no others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import Struct

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import OwnLog
from millstream.cli.checks import _identity, _offline, _online
from millstream.clock import Clock
from millstream.errors import StoreError
from millstream.project.backends import BACKENDS
from millstream.project.repair import _log_mended
from millstream.settings import Settings
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.offline import OfflineStore
from millstream.store.online import OnlineStore

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="1h")])
tier = ms.BatchFeatureGroup("tier", entity=user, sources=[tiers], every="1h", query="select * from tiers", ttl="2d")
view = ms.FeatureView("pace", features=[pace, tier])


def bare(protocol: type, part: Any) -> Any:
    """A part with the methods and properties of a protocol, and `close`."""
    names = [name for name in dir(protocol) if not name.startswith("_")]
    methods = {name: staticmethod(getattr(part, name)) for name in [*names, "close"] if callable(getattr(part, name))}
    told = {name: getattr(part, name) for name in names if isinstance(getattr(protocol, name), property)}
    return type(f"Bare{protocol.__name__}", (), methods | told)()


class Log(Struct, frozen=True):
    def open(self, settings: Settings, clock: Clock) -> Any:
        return bare(OwnLog, EmbeddedLog(settings.data / "log", clock, map_gib=1, fsync=False))


class Online(Struct, frozen=True):
    def open(self, settings: Settings, clock: Clock) -> Any:
        return bare(OnlineStore, LmdbOnlineStore(settings.data / "online", fsync=False))


class Offline(Struct, frozen=True):
    def open(self, settings: Settings, clock: Clock) -> Any:
        return bare(OfflineStore, IcebergOfflineStore(settings.data / "offline"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.Project]:
    for section, made in (("log", Log), ("online", Online), ("offline", Offline)):
        monkeypatch.setitem(BACKENDS[section], "bare", f"{__name__}:{made.__name__}")
    kinds = "".join(f'[{section}]\nkind = "bare"\n' for section in ("log", "online", "offline"))
    (tmp_path / "millstream.toml").write_text(f"shards = 1\npartitions = 1\n{kinds}", encoding="utf-8")
    (tmp_path / "features.py").write_text("")
    with ms.Project(tmp_path) as project:
        yield project


def test_it_computes_backfills_syncs_and_learns(project: ms.Project) -> None:
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), project.settings.folder / "tiers.parquet")
    project.apply(clicks)
    project.send(clicks, [{"user_id": 1, "at": project.clock.now()}])
    project.sync()
    project.apply(view)
    project.backfill()
    project.drain()
    assert project.features(view, [{"user_id": 1}]).to_pylist() == [{"pace__count_1h": 1, "tier__tier": "gold"}]
    project.sync()
    assert project.history("pace")["count_1h"].to_pylist() == [1]
    project.backfill("pace")
    assert project.features(view, [{"user_id": 1}])["pace__count_1h"].to_pylist() == [1]
    assert project.dead_letters("clicks").num_rows == 0


def test_what_only_some_can_do_is_left_out_or_refused_in_a_sentence(project: ms.Project) -> None:
    project.apply(view)
    with pytest.raises(StoreError, match="BareOwnLog cannot go on at positions that nobody knows"):
        _log_mended(project.parts)
    assert _identity(project.settings.folder) == "the log keeps no identity of its own to compare with"
    assert "no sums of its own" in _online(project.settings.folder)
    assert "no sums of its own" in _offline(project.settings.folder)
