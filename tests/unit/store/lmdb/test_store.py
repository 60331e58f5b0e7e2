"""What is particular to the embedded online store: its files, its sentences, its handles."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import pytest
from tests.disks import disk, fill

from millstream.buffer.embedded.environment import exclusive
from millstream.errors import CorruptState, DiskFull, Forked, StoreError
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.testing.shards import held, meta_of, pairs

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


def elsewhere(program: str, path: Path) -> str:
    """What a process of its own prints: where it fails as it must not, a signal ends it."""
    modules = ("millstream.store.lmdb.store", "millstream.errors", "millstream.testing.shards")
    program = "import sys\n" + "".join(f"from {module} import *\n" for module in modules) + program
    command = [sys.executable, "-c", program, str(path)]
    environment = os.environ | {"PYTHONPATH": "src"}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def written_elsewhere(path: Path) -> None:
    """A store that another process wrote and has closed."""
    program = (
        "s = LmdbOnlineStore(sys.argv[1]);"
        "s.write('velocity@1', 0, [(b'%05d' % i, b'x' * 300) for i in range(3000)], ShardMeta(position=1), None)"
    )
    elsewhere(program, path)


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
        held(store, GV, 0, [b"00001"])
    assert str(place.parent) in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint is not None and "millstream backfill velocity" in raised.value.hint
    assert place.read_bytes() == before
    store.drop(GV)
    assert held(store, GV, 0, [b"00001"]) == ([None], None)
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    assert held(store, GV, 0, [b"a"])[0] == [b"1"]


def test_a_format_of_another_version_is_refused(path: Path) -> None:
    written_elsewhere(path)
    with lmdb.open(str(data_file(path).parent), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"meta", b"M9anything")
    with pytest.raises(CorruptState, match="M9"):
        meta_of(LmdbOnlineStore(path), GV, 0)


def test_a_full_map_keeps_what_was_there(path: Path) -> None:
    store = LmdbOnlineStore(path, map_gib=0.001)
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    with pytest.raises(DiskFull):
        store.write(GV, 0, [(key, b"x" * 1000) for key in KEYS], ShardMeta(position=2), 1)
    assert held(store, GV, 0, [b"a", KEYS[0]]) == ([b"1", None], ShardMeta(position=1))
    store.write(GV, 0, [(b"a", b"2")], ShardMeta(position=2), 1)
    assert held(store, GV, 0, [b"a"])[0] == [b"2"]


def test_a_shard_that_another_process_has_made_larger_says_what_to_do(path: Path) -> None:
    store = LmdbOnlineStore(path, map_gib=0.001)
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    elsewhere(
        "LmdbOnlineStore(sys.argv[1]).write('velocity@1', 0, [(b'b', b'x' * 4_000_000)], ShardMeta(position=2), 1)",
        path,
    )
    with pytest.raises(StoreError, match="made larger by another process") as raised:
        held(store, GV, 0, [b"a"])
    assert raised.value.hint is not None and "map_gib" in raised.value.hint


def test_two_stores_of_one_folder_share_their_handles(path: Path) -> None:
    one = write(path)
    two = LmdbOnlineStore(path)
    assert held(two, GV, 0, KEYS[:1]) == held(one, GV, 0, KEYS[:1])
    two.drop(GV)
    assert held(one, GV, 0, KEYS[:1]) == ([None], None)


def test_a_store_is_refused_across_a_fork_and_the_parent_goes_on(path: Path) -> None:
    store = write(path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for opened in (store, LmdbOnlineStore(path)):
            try:
                held(opened, GV, 0, KEYS[:1])
            except Forked as error:
                os.write(writing, error.message.encode() + b"\n")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        assert [("forked" in line) for line in answers] == [True, True]
    assert held(store, GV, 0, KEYS[:1])[0] == [b"x" * 300]


def test_a_drop_that_died_after_marking_is_finished_by_the_next_writer(path: Path) -> None:
    written_elsewhere(path)
    with lmdb.open(str(data_file(path).parent), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(b"meta", b"dropped")
    store = LmdbOnlineStore(path)
    assert held(store, GV, 0, [b"00001"]) == ([None], None)
    assert pairs(store, GV, 0) == []
    store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    assert pairs(store, GV, 0) == [(b"a", b"1")]
    assert sorted(item.name for item in path.iterdir()) == ["lock", GV]


def test_a_reader_of_one_key_is_far_below_a_millisecond(path: Path) -> None:
    import timeit

    store = write(path)
    best = min(timeit.repeat(lambda: held(store, GV, 0, KEYS[7:8]), number=200, repeat=5)) / 200
    assert best < 50e-6


def test_a_shard_is_opened_only_while_no_process_removes_or_begins_it(path: Path) -> None:
    written_elsewhere(path)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(held(LmdbOnlineStore(path), GV, 0, [b"00001"])[1]))
    with exclusive(path / "lock"):
        reader.start()
        reader.join(0.3)
        assert (found, reader.is_alive()) == ([], True)
        os.rename(path / GV, path / "away")
    reader.join(20)
    assert found == [None]


def test_a_reader_that_began_before_the_first_write_reads_nothing(path: Path) -> None:
    store = write(path)
    assert meta_of(store, GV, 0) == ShardMeta(position=1)
    program = (
        "import lmdb, sys\n"
        "with lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:\n"
        "    txn.delete(b'meta')\n"
        "    txn.drop(env.open_db(b'states', txn), delete=False)"
    )
    subprocess.run([sys.executable, "-c", program, str(data_file(path).parent)], check=True)
    assert meta_of(store, GV, 0) is None


def test_threads_that_open_and_let_go_of_a_store_do_not_get_in_each_others_way(path: Path) -> None:
    written_elsewhere(path)
    failed: list[Exception] = []

    def open_and_let_go() -> None:
        try:
            for _ in range(150):
                assert held(LmdbOnlineStore(path), GV, 0, [b"00001"])[0] == [b"x" * 300]
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=open_and_let_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_no_file_stays_open_after_its_last_store_and_its_last_drop(path: Path) -> None:
    def opened() -> int:
        return sum(".mdb" in os.readlink(item) for item in Path("/proc/self/fd").iterdir() if item.is_symlink())

    before = opened()
    one, two = LmdbOnlineStore(path), LmdbOnlineStore(path)
    one.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    each = opened() - before
    one.drop(GV)
    for _ in range(3):
        one.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
        assert held(two, GV, 0, [b"a"])[0] == [b"1"]
        two.drop(GV)
    one.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None)
    assert meta_of(two, GV, 0) == meta_of(one, GV, 0)
    assert opened() == before + each
    del one, two
    assert opened() == before


def test_a_drop_is_not_hindered_by_what_a_process_that_died_has_left(path: Path) -> None:
    store = write(path)
    for name in (f".dropped.{os.getpid()}.{GV}", f".dropped.0.{GV}"):
        (path / name / "0").mkdir(parents=True)
    store.drop(GV)
    assert sorted(item.name for item in path.iterdir()) == ["lock"]


def test_what_a_process_left_that_died_while_dropping_is_removed_when_the_store_is_opened(path: Path) -> None:
    left = path / f".dropped.0.{GV}" / "0"
    left.mkdir(parents=True)
    (left / "data.mdb").write_bytes(b"states")
    LmdbOnlineStore(path)
    assert not left.parent.exists()


def test_a_shard_whose_pages_are_damaged_can_be_dropped(path: Path) -> None:
    written_elsewhere(path)
    place = data_file(path)
    size = place.stat().st_size
    with open(place, "r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    store = LmdbOnlineStore(path)
    with pytest.raises(CorruptState):
        held(store, GV, 0, [b"00001"])
    store.drop(GV)
    assert meta_of(store, GV, 0) is None


def test_slots_of_readers_that_were_killed_are_used_again(path: Path) -> None:
    store = write(path)
    program = (
        "import lmdb, os, sys\n"
        "env = lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 30, max_readers=1024)\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(env.begin())\n"
        "except lmdb.ReadersFullError: os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(data_file(path).parent)]).returncode == 7
    many = [threading.Thread(target=meta_of, args=(store, GV, 0)) for _ in range(4)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join(60)
    assert not any(thread.is_alive() for thread in many)
    with lmdb_readers(store):
        assert held(store, GV, 0, KEYS[:1])[0] == [b"x" * 300]


@contextmanager
def lmdb_readers(store: LmdbOnlineStore) -> Iterator[None]:
    """Take the slots that are kept ready, so that the next reader needs one of its own."""
    handle = store._handle(GV, 0)
    assert handle is not None
    held = []
    with suppress(lmdb.ReadersFullError):
        for _ in range(20):
            held.append(handle.env.begin())
    try:
        yield
    finally:
        for one in held:
            one.abort()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    with disk(tmp_path / "disk", mebibytes=2) as place:
        yield place


@pytest.mark.parametrize("left", range(0, 112 << 10, 8 << 10))
def test_a_shard_for_which_there_is_no_room_is_not_begun_by_half(small_disk: Path, left: int) -> None:
    path = small_disk / "online"
    (path / GV / "0").mkdir(parents=True)
    ballast = fill(small_disk, left)
    program = (
        "store = LmdbOnlineStore(sys.argv[1])\n"
        "try: store.write('velocity@1', 0, [(b'a', b'1' * 10_000)], ShardMeta(position=1), None)\n"
        "except DiskFull as error: print(error.message); assert meta_of(store, 'velocity@1', 0) is None"
    )
    told = elsewhere(program, path)
    ballast.unlink()
    store = LmdbOnlineStore(path)
    if told:
        assert str(path) in told
        assert told.count("\n") == 1
        store.write(GV, 0, [(b"a", b"1" * 10_000)], ShardMeta(position=1), None)
    assert held(store, GV, 0, [b"a"]) == ([b"1" * 10_000], ShardMeta(position=1))


def test_a_full_disk_stops_no_reader_and_harms_nothing_that_was_written(small_disk: Path) -> None:
    path = small_disk / "online"
    store = LmdbOnlineStore(path)
    store.write(GV, 0, [(b"00001", b"old")], ShardMeta(position=1), None)
    ballast = fill(small_disk, 64 << 10)
    with pytest.raises(DiskFull):
        store.write(GV, 0, [(key, b"x" * 300) for key in KEYS], ShardMeta(position=2), 1)
    fill(small_disk)
    program = (
        "store = LmdbOnlineStore(sys.argv[1])\n"
        "print(held(store, 'velocity@1', 0, [b'00001'])[0])\n"
        "held = [store._handle('velocity@1', 0).env.begin() for _ in range(1000)]"
    )
    assert elsewhere(program, path) == "[b'old']\n"
    assert held(store, GV, 0, [b"00001"]) == ([b"old"], ShardMeta(position=1))
    ballast.unlink()
    store.write(GV, 0, [(key, b"x" * 300) for key in KEYS[:500]], ShardMeta(position=2), 1)
    assert meta_of(store, GV, 0) == ShardMeta(position=2)


def test_a_sparse_lock_file_is_filled_before_it_is_used(small_disk: Path) -> None:
    path = small_disk / "online"
    written_elsewhere(path)
    lock = data_file(path).with_name("lock.mdb")
    length = lock.stat().st_size
    lock.unlink()
    lock.touch()
    os.truncate(lock, length)
    ballast = fill(small_disk)
    program = (
        "try: meta_of(LmdbOnlineStore(sys.argv[1]), 'velocity@1', 0)\nexcept DiskFull as error: print(error.message)"
    )
    assert "No space is left" in elsewhere(program, path)
    ballast.unlink()
    assert meta_of(LmdbOnlineStore(path), GV, 0) == ShardMeta(position=1)
    assert lock.stat().st_size == length
    assert lock.stat().st_blocks * 512 >= length


def test_a_shard_that_is_there_and_cannot_be_opened_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_elsewhere(path)

    def refused(*args: object, **options: object) -> object:
        raise lmdb.Error("no more locks")

    monkeypatch.setattr(lmdb, "open", refused)
    with pytest.raises(StoreError, match="no more locks"):
        held(LmdbOnlineStore(path), GV, 0, [])


def test_more_shards_than_a_process_may_open_files_are_opened_in_turns(path: Path) -> None:
    program = (
        "import os, resource, threading\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
        "store, other = LmdbOnlineStore(sys.argv[1]), LmdbOnlineStore(sys.argv[1])\n"
        "for group in range(100):\n"
        "    for shard in range(2):\n"
        "        value = b'%d %d' % (group, shard)\n"
        "        store.write(f'g{group}@1', shard, [(b'a', value)], ShardMeta(position=1), None)\n"
        "def read(one, groups):\n"
        "    for group in groups:\n"
        "        for shard in range(2):\n"
        "            found = held(one, f'g{group}@1', shard, [b'a'])[0]\n"
        "            assert found == [b'%d %d' % (group, shard)], (group, shard, found)\n"
        "    done.append(one)\n"
        "done = []\n"
        "threads = [threading.Thread(target=read, args=(one, groups)) for one in (store, other)\n"
        "           for groups in (range(100), range(99, -1, -1))]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "opened = sum('.mdb' in os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')\n"
        "             if os.path.islink(f'/proc/self/fd/{n}'))\n"
        "print(len(done), opened <= 64 + 3)"
    )
    assert elsewhere(program, path) == "4 True\n"


def test_too_many_open_files_are_one_sentence(path: Path) -> None:
    written_elsewhere(path)
    program = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "store, taken = LmdbOnlineStore(sys.argv[1]), []\n"
        "while len(taken) < 64:\n"
        "    try: taken.append(os.open('/dev/null', os.O_RDONLY))\n"
        "    except OSError: break\n"
        "os.close(taken.pop()); os.close(taken.pop())\n"
        "try: meta_of(store, 'velocity@1', 0)\n"
        "except StoreError as error: print(error.message)"
    )
    told = elsewhere(program, path)
    assert "too many files open" in told
    assert told.count("\n") == 1
