"""A bit that flips anywhere in the online store is refused, or harms nobody; it never gives another value."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from millstream.errors import CorruptState, MillstreamError
from millstream.store.lmdb import check as lmdb_check
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.testing.shards import held, meta_of, pairs

GV = "velocity@1"
FOLDER = f"{GV}/0"
RANDOM = random.Random(5)
VALUES = {b"\1" + (7 * n).to_bytes(8, "big"): RANDOM.randbytes(RANDOM.randint(0, 400)) for n in range(60)}
ABSENT = [b"\1" + (7 * n + 3).to_bytes(8, "big") for n in range(60)]
ROUNDS = 5


def fill(path: Path) -> None:
    """Some rounds of writes, so that the file holds pages of before."""
    store, before = LmdbOnlineStore(path), None
    for position in range(ROUNDS):
        last = position == ROUNDS - 1
        items = [(key, value if last else b"old" * 50) for key, value in VALUES.items()]
        store.write(GV, 0, items, ShardMeta(position=position), before)
        before = position


def asked(path: Path) -> str:
    """What reads of all keys, each by itself, come to."""
    store, refused = LmdbOnlineStore(path), False
    for key in (*VALUES, *ABSENT):
        try:
            (state,), meta = held(store, GV, 0, [key])
        except CorruptState:
            refused = True
            continue
        if meta is None or meta.position != ROUNDS - 1 or state != VALUES.get(key):
            return f"wrong: {key!r} is {state!r}, {meta}"
    return "refused" if refused else "right"


def in_child(work: Callable[[], str]) -> str:
    """What work gives in a process of its own, which it may end by a signal."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except BaseException as error:
            said = f"raw: {error!r}"
        os.write(writing, said.encode()[:2000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if code == 0 else f"ended by {code}"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damage") / "online"
    assert in_child(lambda: fill(path) or "filled") == "filled"
    return path, (path / FOLDER / "data.mdb").read_bytes()


@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_gives_another_value_or_ends_the_process(stored: tuple[Path, bytes], seed: int) -> None:
    path, sound = stored
    chosen, found = random.Random(seed), dict[int, str]()
    for bit in (chosen.randrange(8 * len(sound)) for _ in range(100)):
        broken = bytearray(sound)
        broken[bit // 8] ^= 1 << bit % 8
        (path / FOLDER / "data.mdb").write_bytes(broken)
        found[bit] = in_child(lambda: asked(path))
    assert {bit: said for bit, said in found.items() if said not in ("right", "refused")} == {}
    assert "refused" in found.values()


def test_a_large_file_is_not_walked_through_and_its_records_are_refused_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lmdb_check.refuse_damaged.__kwdefaults__, "most", 0)
    assert in_child(lambda: fill(tmp_path) or "filled") == "filled"
    place = tmp_path / FOLDER / "data.mdb"
    sound = place.read_bytes()
    value = max(VALUES.values(), key=len)
    at = sound.rindex(value)
    for where in (at, at + len(value) - 1, at - 8, at - 9, at - 10):  # the value, its checksum, its key
        broken = bytearray(sound)
        broken[where] ^= 4
        place.write_bytes(broken)
        assert in_child(lambda: asked(tmp_path)) == "refused"
    place.write_bytes(sound)
    assert in_child(lambda: asked(tmp_path)) == "right"


def test_a_shard_that_lost_what_it_has_applied_is_not_begun_anew(tmp_path: Path) -> None:
    assert in_child(lambda: fill(tmp_path) or "filled") == "filled"
    with lmdb.open(str(tmp_path / FOLDER), max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:
        meta = txn.get(b"meta")
        txn.delete(b"meta")
        txn.put(b"Meta", meta)
    store = LmdbOnlineStore(tmp_path)
    for act in (
        lambda: meta_of(store, GV, 0),
        lambda: store.write(GV, 0, [(b"a", b"1")], ShardMeta(position=1), None),
    ):
        with pytest.raises(CorruptState):
            act()


def test_damage_that_was_read_is_known_to_all_until_the_version_is_dropped(tmp_path: Path) -> None:
    assert in_child(lambda: fill(tmp_path) or "filled") == "filled"
    place = tmp_path / FOLDER / "data.mdb"
    assert LmdbOnlineStore(tmp_path).damaged() == []
    broken = bytearray(place.read_bytes())
    broken[broken.rindex(max(VALUES.values(), key=len))] ^= 1
    place.write_bytes(broken)
    store = LmdbOnlineStore(tmp_path)
    with pytest.raises(CorruptState):
        store.examine(GV, 0)
    assert LmdbOnlineStore(tmp_path).damaged() == [GV]
    store.drop(GV)
    assert store.damaged() == []
    assert store.examine(GV, 0) == 0


def test_a_shard_written_before_there_were_checksums_is_read_and_written_on(tmp_path: Path) -> None:
    program = (
        "import lmdb, os, sys, msgspec\n"
        "from millstream.store.online import ShardMeta\n"
        "os.makedirs(sys.argv[1])\n"
        "with lmdb.open(sys.argv[1], max_dbs=2, map_size=1 << 30) as env, env.begin(write=True) as txn:\n"
        "    states = env.open_db(b'states', txn)\n"
        "    txn.put(b'a', b'state', db=states)\n"
        "    txn.put(b'meta', b'M1' + msgspec.msgpack.encode(ShardMeta(position=3)))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / FOLDER)], check=True)
    store = LmdbOnlineStore(tmp_path)
    assert held(store, GV, 0, [b"a", b"b"]) == ([b"state", None], ShardMeta(position=3))
    store.write(GV, 0, [(b"b", b"other")], ShardMeta(position=4), 3)
    again = LmdbOnlineStore(tmp_path)
    assert held(again, GV, 0, [b"a", b"b"]) == ([b"state", b"other"], ShardMeta(position=4))
    assert pairs(again, GV, 0) == [(b"a", b"state"), (b"b", b"other")]
    assert again.examine(GV, 0) == 2


def test_every_error_of_a_damaged_shard_names_it(stored: tuple[Path, bytes]) -> None:
    path, sound = stored
    place = path / FOLDER / "data.mdb"
    place.write_bytes(sound[:4096] + bytes(4096) + sound[8192:])
    for act in (
        lambda store: held(store, GV, 0, [b"a"]),
        lambda store: pairs(store, GV, 0),
        lambda store: store.write(GV, 0, [], ShardMeta(), ROUNDS - 1),
        lambda store: store.examine(GV, 0),
    ):
        with pytest.raises(MillstreamError, match=FOLDER):
            act(LmdbOnlineStore(path))
