"""Flips bits of a file of 6 MiB of the log or of the online store; a process of its own reads and writes it each time.

Run as a program: "log" or "shard", an empty folder, how many flips, and a seed; prints what came of each.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import CorruptLog, CorruptState, MillstreamError
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.testing.shards import held, pairs

SIZE = 6 << 20
GV = "velocity@1"


def fill_log(folder: Path) -> Path:
    log, number = EmbeddedLog(folder, SimulatedClock(0), 1, fsync=False), 0
    log.create("events", 2)
    while (folder / "data.mdb").stat().st_size < SIZE:
        with log.transaction() as work:
            for _ in range(1_000):
                number += 1
                work.append("events", number % 2, Batch(bytes(20 + number % 97 if number % 40 else 3_000), "bytes", 1))
    log.trim("events", 0, 1_000)
    log.close()
    return folder / "data.mdb"


def use_log(folder: Path) -> None:
    log = EmbeddedLog(folder, SimulatedClock(0), 1, fsync=False)
    for partition, (first, following) in enumerate(log.ends("events")):
        log.read("events", partition, first, following - first)
        for size in (10, 900, 5_000):
            log.append("events", partition, Batch(bytes(size), "bytes", 1))
        log.trim("events", partition, first + 600)
    with log.transaction() as work:
        for number in range(300):
            work.append("events", number % 2, Batch(bytes(100), "bytes", 1))
    log.close()


def fill_shard(folder: Path) -> Path:
    store, position = LmdbOnlineStore(folder, 1, fsync=False), 0
    place = folder / GV / "0" / "data.mdb"
    while position < 3 or place.stat().st_size < SIZE:
        chance = random.Random(position % 3)
        many = [(b"\1%08d" % (chance.randrange(10**8)), bytes(chance.randrange(40, 200))) for _ in range(9_000)]
        many += [(b"\2%08d" % number, bytes(5_000)) for number in range(100)]
        meta = ShardMeta(position=position + 1)
        store.write(GV, 0, sorted(dict(many).items()), meta, position or None)
        position += 1
    return place


def use_shard(folder: Path) -> None:
    store = LmdbOnlineStore(folder, 1, fsync=False)
    keys = [key for key, _ in pairs(store, GV, 0)]
    found, meta = held(store, GV, 0, keys[::7])
    assert meta is not None
    assert None not in found
    changes = [(key, b"" if number % 3 else bytes(300)) for number, key in enumerate(keys[::5])]
    store.write(GV, 0, changes, ShardMeta(position=99), meta.position)
    for key in keys[::11]:
        held(store, GV, 0, [key])


def fares(use: Callable[[Path], None], folder: Path) -> str:
    """What comes of using a damaged file in a forked process."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 3
        try:
            use(folder)
            code = 0
        except (CorruptLog, CorruptState) as error:
            code = 1 if str(folder) in error.message and error.hint else 4
        except MillstreamError as error:
            code = 2 if str(folder) in error.message else 4
        except BaseException as error:
            os.write(2, repr(error).encode() + b"\n")
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return ("right", "damage", "refused", "foreign", "unnamed")[os.WEXITSTATUS(status)]


def places(whole: bytes, chance: random.Random) -> tuple[int, int]:
    """A byte and a bit of it: as often in what pages say of themselves as anywhere."""
    page = chance.choice([0, 1, *(chance.randrange(len(whole) // 4096) for _ in range(30))])
    within = [chance.randrange(152 if page < 2 else 16), chance.randrange(16, 64), chance.randrange(4096)]
    lower = int.from_bytes(whole[page * 4096 + 12 : page * 4096 + 14], "little")
    if page > 1 and 18 <= lower < 4096:
        node = page * 4096 + chance.randrange(16, lower, 2)
        at = int.from_bytes(whole[node : node + 2], "little")
        within += [min(at + chance.randrange(16), 4095), node - page * 4096]
    return page * 4096 + chance.choice(within), chance.randrange(8)


def main(kind: str, folder: Path, count: int, seed: int) -> None:
    fill, use = (fill_log, use_log) if kind == "log" else (fill_shard, use_shard)
    child = os.fork()  # so that this process, which is forked again and again, has nothing open
    if child == 0:
        fill(folder / "sound")
        os._exit(0)
    os.waitpid(child, 0)
    sound = next((folder / "sound").rglob("data.mdb"))
    whole, chance = sound.read_bytes(), random.Random(seed)
    damaged = folder / "damaged"
    shutil.copytree(folder / "sound", damaged)
    place = damaged / sound.relative_to(folder / "sound")
    assert fares(use, damaged) == "right"
    for _ in range(count):
        at, bit = places(whole, chance)
        content = bytearray(whole)
        content[at] ^= 1 << bit
        shutil.rmtree(damaged)
        shutil.copytree(folder / "sound", damaged)
        place.write_bytes(content)
        print(fares(use, damaged), at // 4096, at % 4096, bit, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
