"""A project that moves from its folder to servers."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.end_to_end.running import until

import millstream as ms
from millstream.errors import MillstreamError, ProjectError
from millstream.migrating import migrate, sample
from millstream.migrating.shares import in_share
from millstream.project.parts import Parts
from millstream.running.up import lock
from millstream.settings import Settings
from millstream.store.online import ShardMeta
from millstream.testing.servers.postgresql import PASSWORD, USER
from millstream.testing.servers.s3 import KEY, SECRET

BEGIN = """
name = "offers"
partitions = 2
shards = 2
"""
SERVERS = """
registry_url = "{registry}"

[log]
kind = "kafka"
servers = "127.0.0.1:{kafka}"
prefix = "{prefix}"

[online]
kind = "redis"
url = "{redis}"
prefix = "{prefix}"

[offline]
kind = "iceberg"
path = "s3://{bucket}/shop"
endpoint = "{endpoint}"
access_key = "{key}"
catalog = {{type = "sql", uri = "{catalog}"}}
"""
DEFINITIONS = """
import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
offers = ms.EventStream("offers", time="at", deduplicate="offer_id", partition_by="user_id", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
accounts = ms.Table("accounts", path="accounts.parquet", time="changed", schema={
    "user_id": "int64", "tier": "int64", "changed": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[
    ms.Count(over="24h"), ms.Sum("price", over="7d"), ms.Last("price")])
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over="24h")])
standing = ms.BatchFeatureGroup("standing", entity=user, sources=[accounts], every="1h", time="changed",
    query="select user_id, changed, tier from accounts")
view = ms.FeatureView("offers", request={"price": "float64"}, features=[taste, pace, standing])
model = ms.Model("offers", view=view, examples=offers, trainer=ms.LightGBM(rounds=10, leaves=4),
                 label=ms.Label(offers, "taken", on="offer_id", after="1h"))
"""


SMALL = """
import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
offers = ms.EventStream("offers", time="at", deduplicate="offer_id", partition_by="user_id", schema={
    "offer_id": "string", "user_id": "int64", "price": "float64", "taken": "bool", "at": "timestamp"})
taste = ms.StreamFeatureGroup("taste", entity=user, source=offers, features=[ms.Count(over="24h"), ms.Last("price")])
view = ms.FeatureView("offers", features=[taste])
"""


def offers_of(first: int, last: int) -> list[dict]:
    return [
        {"offer_id": str(i), "user_id": i % 9, "price": float(i % 50), "taken": i % 50 < 20,
         "at": f"2026-01-01T{i // 60 % 24:02}:{i % 60:02}:00Z"} for i in range(first, last)
    ]  # fmt: skip


CLICKS = [{"user_id": i % 5, "at": f"2026-01-01T10:{i:02}:00Z"} for i in range(60)]
KEYS = [{"user_id": i, "price": 1.0} for i in range(9)]
ROW = {"user_id": 3, "price": 12.0, "at": "2026-01-01T12:00:00Z"}


def made(folder: Path, definitions: str = DEFINITIONS) -> Path:
    folder.mkdir()
    (folder / "millstream.toml").write_text(BEGIN)
    (folder / "features.py").write_text(definitions)
    changed = pa.array([1_767_200_000_000_000] * 9, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": range(9), "tier": range(9), "changed": changed}), folder / "accounts.parquet")
    return folder


def filled(folder: Path) -> Path:
    with ms.Project(folder) as project:
        project.apply()
        project.load("offers", offers_of(0, 500))
        project.load("clicks", CLICKS)
        project.drain()
        project.backfill()
        project.send("offers", offers_of(500, 600))
        project.send("offers", [{"offer_id": "wrong", "user_id": "x"}])
        project.drain()
    return folder


@pytest.fixture
def servers(kafka, redis_server, postgresql, s3, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("MILLSTREAM_S3_SECRET", SECRET)
    return BEGIN + SERVERS.format(
        registry=postgresql.database(USER), kafka=kafka.port, prefix=kafka.prefix(), redis=redis_server.url,
        bucket=s3.bucket(), endpoint=s3.endpoint, key=KEY, catalog=postgresql.database(USER),
    )  # fmt: skip


AT = "2026-01-01T13:00:00Z"


def computed(events: list[dict], clicks: list[dict]) -> pa.Table:
    """What the views' streams come to by the pure function, over all events."""
    with ms.Project(HERE[0]) as project:
        groups = {one.group.name: one.group for one in project.parts.registry.groups() if one.default}
    asked = [{**key, "at": AT} for key in KEYS]
    taste = ms.compute(groups["taste"], {"offers": events}, asked)
    pace = ms.compute(groups["pace"], {"clicks": clicks}, asked)
    wanted = [name for name in (*taste.column_names, *pace.column_names) if "__" in name]
    return pa.table({name: (taste if name in taste.column_names else pace)[name] for name in wanted})


HERE: list[Path] = []


def test_a_project_moves_to_servers_and_goes_on_there_as_if_nothing_had_happened(tmp_path, servers):
    folder = filled(made(tmp_path / "shop"))
    HERE[:] = [folder]
    with ms.Project(folder) as before:
        assert before.train("offers").id == "offers@1"
        before.deploy("offers")
        (scored,) = before.score("offers", [ROW]).to_pylist()
        learnt, values = before.training_set("offers").table, before.features("offers", KEYS, AT)
        snapshots = before.parts.model_versions.version("offers", 1).facts["pins"]["snapshots"]
        letters = before.dead_letters("offers")
    (folder / "servers.toml").write_text(servers)
    done = migrate(folder, folder / "servers.toml")
    counts = {one.part: one.counts for one in done.parts}
    assert list(counts) == ["offline", "online", "log", "registry"]
    assert counts["online"]["versions"] == 3
    assert counts["offline"]["artefacts"] == 1
    assert counts["offline"]["rows"] >= 660
    with ms.Project(folder) as after:
        assert after.features("offers", KEYS, AT).equals(values)
        assert after.training_set("offers").table.equals(learnt)
        assert after.dead_letters("offers").equals(letters)
        assert after.parts.offline.pinned("batch.standing@1") == {"offers@1"}
        assert after.parts.offline.scan("batch.standing@1", snapshot=snapshots["batch.standing@1"]).num_rows >= 9
        for table in after.parts.offline.tables():
            after.parts.offline.examine(table)
            places_are_of_the_new_table(after.parts.offline._load(table))
        (again,) = after.score("offers", [ROW]).to_pylist()
        assert (again["score"], again["version"]) == (scored["score"], 1)
        assert after.parts.registry.operations.unfinished() == []
    shutil.rmtree(folder / ".millstream" / "repeats")  # as on another host
    late = {"offer_id": "late", "user_id": 3, "price": 2.0, "taken": True, "at": "2026-01-01T09:00:00Z"}
    clicked = [{"user_id": 4, "at": "2026-01-01T11:00:00Z"}]
    with ms.Project(folder) as after:
        after.send("offers", [*offers_of(590, 700), late])
        after.load("clicks", clicked)
        assert after.drain()["events"] == 112
        after.sync()
        found = after.features("offers", KEYS, AT)
        wanted = computed([*offers_of(0, 700), late], [*CLICKS, *clicked])
        assert found.select(wanted.column_names).to_pylist() == wanted.to_pylist()
        verified = after.verify()
        assert (verified.mismatches, verified.requests) == (0, 2)
        assert after.train("offers").id == "offers@2"
        report = after.parts.layers.archiver().step()
        assert (report.rows, report.lag) == (0, 0)
        assert after.parts.offline.scan("events.offers").num_rows == 711
    (folder / "millstream.toml").write_text(BEGIN)
    with pytest.raises(ProjectError, match="has moved to"):
        ms.Project(folder)


def places_are_of_the_new_table(found) -> None:
    """What lists files says where they are now, and how long each list is: readers take no more of it than that."""
    for snapshot in found.metadata.snapshots:
        assert snapshot.manifest_list.startswith(f"{found.location()}/metadata/")
        for manifest in snapshot.manifests(found.io):
            assert len(found.io.new_input(manifest.manifest_path)) == manifest.manifest_length
            for entry in manifest.fetch_manifest_entry(found.io):
                assert entry.data_file.file_path.startswith(f"{found.location()}/data/")


def dying(folder: Path, name: str, when: str) -> None:
    """Migrate a project, and die before or after one of the steps."""
    module = sys.modules["millstream.migrating.to_servers"]
    steps = module._MOVING if name in module._MOVING else vars(module)
    own = steps[name]

    def step(*given, **named):
        if when == "after":
            own(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    steps[name] = step
    migrate(folder, folder / "servers.toml")


BEFORE_IT = [
    ("refuse_undrained", "after"), ("offline", "after"), ("online", "after"), ("log", "after"), ("registry", "after"),
    ("_exchange", "before"), ("sync_folder", "before"),
]  # fmt: skip
AFTER_IT = [("_exchange", "after"), ("note_moved", "after"), ("send_again", "after"), ("_drain", "after")]


NEAR = (
    BEGIN
    + """
registry_url = "sqlite:///{elsewhere}/registry.db"

[log]
kind = "kafka"
servers = "127.0.0.1:{kafka}"
prefix = "{prefix}"

[online]
kind = "redis"
url = "{redis}"
prefix = "{prefix}"

[offline]
catalog = {{type = "sql", uri = "sqlite:///{elsewhere}/catalog.db", warehouse = "file://{elsewhere}/warehouse"}}
"""
)


@pytest.fixture
def near(kafka, redis_server, tmp_path):
    """Servers where an interruption shows, and files elsewhere in the place of those that are only slower."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return NEAR.format(kafka=kafka.port, prefix=kafka.prefix(), redis=redis_server.url, elsewhere=elsewhere)


def killed(folder: Path, name: str, when: str) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=dying, args=(folder, name, when))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_migration_that_is_killed_anywhere_leaves_the_project_whole_and_is_gone_on_with(tmp_path, near):
    folder, sent = made(tmp_path / "shop", SMALL), 0
    (folder / "servers.toml").write_text(near)
    with ms.Project(folder) as project:
        project.apply()
        project.drain()
        project.backfill()
    for name, when in BEFORE_IT[:-1]:
        with ms.Project(folder) as project:
            assert project.parts.settings.log == {}
            project.send("offers", offers_of(sent, sent + 30))
            sent += 30
            project.drain()
            assert project.features("offers", KEYS, AT)["taste__count_24h"].to_pylist() == counts_of(sent)
        killed(folder, name, when)
    killed(folder, *BEFORE_IT[-1])  # the rename is done, and may not be on the disk
    assert (folder / "millstream.toml").read_text() == near
    for name, when in AFTER_IT[1:]:
        killed(folder, name, when)
        with ms.Project(folder) as project:
            assert project.parts.settings.log["kind"] == "kafka"
            assert project.features("offers", KEYS, AT)["taste__count_24h"].to_pylist() == counts_of(sent)
    done = migrate(folder, folder / "servers.toml")
    assert done.parts == []
    with ms.Project(folder) as project:
        project.send("offers", offers_of(sent - 10, sent + 10))
        project.drain()
        project.sync()
        assert project.features("offers", KEYS, AT)["taste__count_24h"].to_pylist() == counts_of(sent + 10)
        assert project.parts.offline.scan("events.offers").num_rows == sent + 20
    with pytest.raises(ProjectError, match="it is where those settings say already"):
        migrate(folder, folder / "servers.toml")


def counts_of(events: int) -> list[int]:
    return [len(range(key, events, 9)) for key in range(9)]


def test_what_is_sent_to_the_old_log_at_the_last_moment_is_in_the_new_one_once(tmp_path, near, monkeypatch):
    from millstream.migrating import to_servers

    folder, note_moved = filled(made(tmp_path / "shop")), to_servers.note_moved
    (folder / "servers.toml").write_text(near)
    begun = ms.Project(folder)
    begun.sync()
    for topic in begun.parts.log.topics():  # retention has let go of all that is archived
        for partition, (_, end) in enumerate(begun.parts.log.ends(topic)):
            begun.parts.log.trim(topic, partition, end)

    def sent_first(*given):
        begun.send("offers", offers_of(600, 607))
        note_moved(*given)

    monkeypatch.setattr(to_servers, "note_moved", sent_first)
    assert migrate(folder, folder / "servers.toml").sent_meanwhile == 7
    with ms.Project(folder) as project:
        assert project.features("offers", KEYS, AT)["taste__count_24h"].to_pylist() == counts_of(607)
    begun.close()


ONLINE = (
    BEGIN
    + """
[online]
kind = "redis"
url = "{redis}"
prefix = "{prefix}"
"""
)


@pytest.fixture
def redis_only(redis_server, request):
    return ONLINE.format(redis=redis_server.url, prefix=f"moved-{request.node.name[:40]}")


def test_the_online_store_alone_moves(tmp_path, redis_only):
    folder = filled(made(tmp_path / "shop"))
    with ms.Project(folder) as before:
        values = before.features("offers", KEYS, AT)
    (folder / "servers.toml").write_text(redis_only)
    done = runner(folder, "servers.toml")
    assert [one["part"] for one in done["parts"]] == ["online"]
    assert done["parts"][0]["counts"]["keys"] == 9 + 5 + 9
    with ms.Project(folder) as after:
        assert after.features("offers", KEYS, AT).equals(values)
        after.send("offers", offers_of(600, 640))
        after.drain()
        assert after.features("offers", KEYS, AT)["taste__count_24h"].to_pylist() == counts_of(640)


def runner(folder: Path, *given: str) -> dict:
    command = [sys.executable, "-m", "millstream", "migrate", *given, "--project", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


def refused(folder: Path, text: str) -> str:
    (folder / "servers.toml").write_text(text)
    with pytest.raises(MillstreamError) as error:
        migrate(folder, folder / "servers.toml")
    assert (folder / "millstream.toml").read_text() == BEGIN
    return str(error.value)


def test_what_cannot_move_is_refused_with_one_sentence_and_nothing_is_changed(tmp_path, redis_only, redis_server):
    folder = filled(made(tmp_path / "shop"))
    assert "'partitions' is not what it is in" in refused(
        folder, redis_only.replace("partitions = 2", "partitions = 3")
    )
    assert "'name' is not what it is in" in refused(folder, redis_only.replace('"offers"', '"others"'))
    assert "it is where those settings say already" in refused(folder, BEGIN)
    assert "'onlin' is not a setting" in refused(folder, redis_only.replace("[online]", "[onlin]"))
    away = refused(folder, redis_only.replace(str(redis_server.port), "1"))
    assert "127.0.0.1:1" in away
    with pytest.raises(ProjectError, match="there is no such file"):
        migrate(folder, folder / "nowhere.toml")
    with lock(Settings.load(folder)):
        assert "is already running" in refused(folder, redis_only)
    with ms.Project(folder) as project:
        worker = project.parts.log.worker("compute", ["offers"])
        assert "at work in 1 processes" in refused(folder, redis_only)
        worker.close()
    syncing = subprocess.Popen([sys.executable, "-m", "millstream", "run", "sync", "--project", str(folder)])
    try:
        until(lambda: [*(folder / ".millstream" / "run").glob("layer-sync-*.json")], "the layer says how it is")
        assert "at work in 1 processes" in refused(folder, redis_only)  # it shares no partitions with anybody
    finally:
        syncing.terminate()
        syncing.wait(30)
    with ms.Project(made(tmp_path / "other")) as other:
        settings = Settings.of(tmp_path / "other", folder / "servers.toml")
        other.apply()
        with Parts(settings) as parts:
            parts.online.write("taste@1", 0, [(b"k", b"v")], ShardMeta(position=1), None)
    assert "is not empty; it holds states 'taste@1'" in refused(folder, redis_only)


def test_what_changes_while_it_is_copied_is_seen_and_nothing_is_exchanged(tmp_path, redis_only, monkeypatch):
    from millstream.migrating import to_servers

    folder = filled(made(tmp_path / "shop"))

    def sent_after(source, target, moved, own=to_servers._MOVING["online"]):
        found = own(source, target, moved)
        with ms.Project(folder) as other:
            other.send("offers", offers_of(600, 601))
        return found

    with monkeypatch.context() as patched:
        patched.setitem(to_servers._MOVING, "online", sent_after)
        assert "the log of the project has changed while it was copied" in refused(folder, redis_only)
    assert migrate(folder, folder / "servers.toml").parts[0].part == "online"


def test_a_share_of_a_project_is_copied_and_gives_the_same_values(tmp_path):
    folder, into = filled(made(tmp_path / "shop")), tmp_path / "laptop"
    with ms.Project(folder) as source:
        source.train("offers")
        source.deploy("offers")
        values = source.features("offers", KEYS, AT).to_pylist()
        before = source.parts.log.ends("offers")
    done = runner(folder, "--sample", "0.5", "--into", str(into))
    inside = [key for key in range(9) if in_share(key, 0.5)]
    assert 0 < len(inside) < 9
    assert (done["by"], done["partial"]) == ({"offers": "user_id", "clicks": "user_id"}, [])
    assert done["events"]["offers"] == sum(counts_of(600)[key] for key in inside)
    with ms.Project(into) as copy:
        found = copy.features("offers", KEYS, AT).to_pylist()
        assert [found[key] for key in inside] == [values[key] for key in inside]
        assert {found[key]["taste__count_24h"] for key in range(9) if key not in inside} == {0}
        assert copy.deploy("offers", 1) == 1
        row = {**ROW, "user_id": inside[0]}
        assert copy.score("offers", [row])["version"].to_pylist() == [1]
        copy.send("offers", [{**one, "user_id": inside[0]} for one in offers_of(700, 705)])
        copy.drain()
        copy.sync()
        assert copy.verify().mismatches == 0
        assert copy.features("offers", KEYS, AT)["taste__count_24h"][inside[0]].as_py() == counts_of(600)[inside[0]] + 5
        assert copy.train("offers").id == "offers@2"
        assert not copy.plan().changes
    with ms.Project(folder) as source:
        assert source.parts.log.ends("offers") == before
        assert source.features("offers", KEYS, AT).to_pylist() == values
    with pytest.raises(ProjectError, match="is there already"):
        sample(folder, into, 0.5)
    with pytest.raises(ProjectError, match="more than 0 and at most 1"):
        sample(folder, tmp_path / "none", 0)
