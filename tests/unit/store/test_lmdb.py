"""What is particular to the embedded online store: its files, its sentences, its handles."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import pytest

from millstream.errors import CorruptState, DiskFull, StoreError
from millstream.store.lmdb import LmdbOnlineStore
from millstream.store.online import ShardMeta

GV = "velocity@1"
KEYS = [b"key-%05d" % number for number in range(5_000)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "online"


def data_file(path: Path, shard: int = 0) -> Path:
    return path / GV / str(shard) / "data.mdb"


def write(path: Path, value: bytes = b"x" * 300) -> LmdbOnlineStore:
    store = LmdbOnlineStore(path)
    store.write(GV, 0, [(key, value) for key in KEYS], ShardMeta(position=1), None)
    return store


def written_elsewhere(path: Path) -> None:
    """A store that another process wrote and has closed."""
    program = (
        "import sys; from millstream.store.lmdb import *; s = LmdbOnlineStore(sys.argv[1]);"
        "s.write('velocity@1', 0, [(b'%05d' % i, b'x' * 300) for i in range(5000)], ShardMeta(position=1), None)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=os.environ | {"PYTHONPATH": "src"})


@pytest.mark.parametrize("damage", ["garbage", "cut", "meta"])
def test_a_damaged_shard_is_one_sentence_and_can_be_dropped(path: Path, damage: str) -> None:
    written_elsewhere(path)
    place = data_file(path)
    if damage == "garbage":
        place.write_bytes(b"garbage" * 10_000)
    elif damage == "cut":
        os.truncate(place, place.stat().st_size // 3)
    else:
        with lmdb.open(str(place.parent), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
            txn.put(b"meta", b"M1\xff\xff")
    before = place.read_bytes()
    store = LmdbOnlineStore(path)
    with pytest.raises(CorruptState) as raised:
        store.read(GV, 0, [b"00001"])
    assert str(place.parent) in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint is not None and "millstream backfill velocity" in raised.value.hint
    assert place.read_bytes() == before
    store.drop(GV)
    assert store.read(GV, 0, [b"00001"]) == ([None], None)
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    assert store.read(GV, 0, [b"a"])[0] == [b"1"]


def test_a_format_of_another_version_is_refused(path: Path) -> None:
    written_elsewhere(path)
    with lmdb.open(str(data_file(path).parent), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"meta", b"M9anything")
    with pytest.raises(CorruptState, match="M9"):
        LmdbOnlineStore(path).meta(GV, 0)


def test_a_full_map_keeps_what_was_there(path: Path) -> None:
    store = LmdbOnlineStore(path, map_gib=0.001)
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    with pytest.raises(DiskFull):
        store.write(GV, 0, [(key, b"x" * 1000) for key in KEYS], ShardMeta(position=2), 1)
    assert store.read(GV, 0, [b"a", KEYS[0]]) == ([b"1", None], ShardMeta(position=1))
    store.write(GV, 0, [(b"a", b"2")], ShardMeta(position=2), 1)
    assert store.read(GV, 0, [b"a"])[0] == [b"2"]


def test_two_stores_of_one_folder_share_their_handles(path: Path) -> None:
    one = write(path)
    two = LmdbOnlineStore(path)
    assert two.read(GV, 0, KEYS[:1]) == one.read(GV, 0, KEYS[:1])
    two.drop(GV)
    assert one.read(GV, 0, KEYS[:1]) == ([None], None)


def test_a_store_is_refused_across_a_fork_and_the_parent_goes_on(path: Path) -> None:
    store = write(path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for opened in (store, LmdbOnlineStore(path)):
            try:
                opened.read(GV, 0, KEYS[:1])
            except StoreError as error:
                os.write(writing, error.message.encode() + b"\n")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        assert [("forked" in line) for line in answers] == [True, True]
    assert store.read(GV, 0, KEYS[:1])[0] == [b"x" * 300]


def test_a_drop_that_died_after_marking_is_finished_by_the_next_writer(path: Path) -> None:
    written_elsewhere(path)
    with lmdb.open(str(data_file(path).parent), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"meta", b"dropped")
    store = LmdbOnlineStore(path)
    assert store.read(GV, 0, [b"00001"]) == ([None], None)
    assert store.scan(GV, 0) == []
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    assert store.scan(GV, 0) == [(b"a", b"1")]
    assert sorted(item.name for item in path.iterdir()) == ["lock", GV]


def test_a_reader_of_one_key_is_far_below_a_millisecond(path: Path) -> None:
    import timeit

    store = write(path)
    best = min(timeit.repeat(lambda: store.read(GV, 0, KEYS[7:8]), number=200, repeat=5)) / 200
    assert best < 50e-6


@pytest.mark.parametrize("anew", [False, True])
def test_a_shard_dropped_while_it_is_being_opened_reads_as_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    written_elsewhere(path)
    opened, gone = lmdb.open, []

    def dropped_first(*args: object, **options: object) -> object:
        if not gone:
            gone.append(True)
            os.rename(path / GV, path / "away")
            if anew:
                with pytest.raises((lmdb.Error, OSError)):
                    opened(*args, **options)
                LmdbOnlineStore(path).write(GV, 0, [(b"new", b"state")], ShardMeta(position=7), None)
                raise lmdb.Error("No such file or directory")
        return opened(*args, **options)

    monkeypatch.setattr(lmdb, "open", dropped_first)
    monkeypatch.setattr("millstream.store.lmdb._opening", threading.RLock())  # one thread plays both processes
    states, meta = LmdbOnlineStore(path).read(GV, 0, [b"new"])
    assert (states, meta and meta.position) == (([b"state"], 7) if anew else ([None], None))


def test_a_shard_begun_anew_right_after_it_was_opened_is_read_and_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_elsewhere(path)
    opened, gone = lmdb.open, []

    def dropped_after(*args: object, **options: object) -> object:
        env = opened(*args, **options)
        if not gone:
            gone.append(True)
            with env.begin(write=True) as txn:
                txn.put(b"meta", b"dropped")
            os.rename(path / GV, path / "away")
            program = (
                "import sys; from millstream.store.lmdb import *;"
                "LmdbOnlineStore(sys.argv[1]).write('velocity@1', 0, [(b'new', b'state')], ShardMeta(position=7), None)"
            )
            environment = os.environ | {"PYTHONPATH": "src"}
            subprocess.run([sys.executable, "-c", program, str(path)], check=True, env=environment)
        return env

    monkeypatch.setattr(lmdb, "open", dropped_after)
    store = LmdbOnlineStore(path)
    states, meta = store.read(GV, 0, [b"new"])
    assert (states, meta and meta.position) == ([b"state"], 7)
    store.write(GV, 0, [(b"new", b"newer")], ShardMeta(position=8), 7)
    assert store.read(GV, 0, [b"new"])[0] == [b"newer"]


def test_a_shard_that_is_there_and_cannot_be_opened_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_elsewhere(path)

    def refused(*args: object, **options: object) -> object:
        raise lmdb.Error("no more locks")

    monkeypatch.setattr(lmdb, "open", refused)
    with pytest.raises(StoreError, match="no more locks"):
        LmdbOnlineStore(path).read(GV, 0, [])
