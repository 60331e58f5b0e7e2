"""What is acknowledged outlives a loss of power, though commits do not wait for the disk."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import lmdb
import pytest
from lmdb.verify import verify

from millstream.buffer.embedded.durability import newest_steady
from millstream.buffer.embedded.gate import Gate
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.embedded.writer import Writer
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import LogError

PAGE = 4096
_PRELUDE = (
    "import sys, time; from millstream.buffer.embedded.log import EmbeddedLog\n"
    "from millstream.buffer.log import Batch; from millstream.clock import SimulatedClock\n"
    "log = EmbeddedLog(sys.argv[1], SimulatedClock(0), 1)\n"
)


def open_log(path: Path) -> EmbeddedLog:
    return EmbeddedLog(path, SimulatedClock(0), 1)


def elsewhere(program: str, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _PRELUDE + program, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "src"})


def another_boot(folder: Path) -> None:
    """As the log finds its files once the machine has been started anew."""
    content = bytearray((folder / "data.mdb").read_bytes())
    for place in (PAGE // 2, PAGE + PAGE // 2):
        steady = newest_of(content, place)
        if steady:
            content[place : place + len(steady)] = steady
    (folder / "data.mdb").write_bytes(content)
    for name in ("lock.mdb", "gate", "turn"):
        (folder / name).unlink(missing_ok=True)


def newest_of(content: bytearray, place: int) -> bytes:
    """A steady root at a place, as if written down during another boot."""
    form = struct.Struct("<8s36sQQ152s")
    magic, _, number, transaction, root = form.unpack_from(content, place)
    if magic != b"MSsteady":
        return b""
    body = form.pack(magic, b"of-yesterday", number, transaction, root)
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_pages_reach_the_disk_before_the_power_goes_all_that_was_acknowledged_is_there(
    tmp_path: Path, seed: int
):
    chance = random.Random(seed)
    log = open_log(tmp_path / "log")
    log.create("events", 2)
    acknowledged: list[int] = []

    def append(size: int) -> None:
        number = len(acknowledged)
        log.append("events", 0, Batch(b"%d" % number + b"." * size, "bytes", 1))
        acknowledged.append(number)

    for _ in range(chance.randrange(1, 60)):
        append(chance.choice((10, 900, 6_000)))
        if chance.random() < 0.3:
            log.trim("events", 0, log.ends("events")[0][1] - 5)
    durable = (tmp_path / "log" / "data.mdb").read_bytes()
    first, end = log.ends("events")[0]
    expected = log.read("events", 0, first, 1_000)
    with held_back(log):
        for _ in range(chance.randrange(1, 120)):
            with log._env._transaction(True) as rows:
                rows.put(b"x%d" % chance.randrange(1_000), b"-" * chance.choice((10, 900, 6_000)))
                rows.delete(b"x%d" % chance.randrange(1_000))
        later = (tmp_path / "log" / "data.mdb").read_bytes()
    assert later != durable
    copy = tmp_path / "copy"
    copy.mkdir()
    pages = [durable[at : at + PAGE] for at in range(0, len(later), PAGE)]
    for number in range(len(later) // PAGE):
        if chance.random() < 0.5 or not pages[number]:
            pages[number] = later[number * PAGE : (number + 1) * PAGE]
            if chance.random() < 0.2 and number > 1:
                pages[number] = bytes(PAGE)  # the file has grown, but what was written there is lost
                if number * PAGE < len(durable):
                    pages[number] = durable[number * PAGE : (number + 1) * PAGE]
    (copy / "data.mdb").write_bytes(b"".join(pages))
    another_boot(copy)
    found = open_log(copy)
    assert found.ends("events")[0] == (first, end)
    assert found.read("events", 0, first, 1_000) == expected
    found.append("events", 0, Batch(b"more", "bytes", 1))
    found.close()
    log.close()
    assert verify(str(copy)) == []


class held_back:
    """Commits of this process that nobody has waited for yet, as the disk may meet them when the power goes."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._durability = log._env._durability

    def __enter__(self) -> None:
        self._durability.begin()

    def __exit__(self, *_: object) -> None:
        self._durability.done()


def test_a_process_frozen_while_it_waits_for_the_disk_keeps_nobody_from_being_acknowledged(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    program = (
        "import os, signal\n"
        "os.fdatasync = lambda file: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "log.append('events', 0, Batch(b'x', 'bytes', 1))"
    )
    other = elsewhere(program, tmp_path)
    try:
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
        for _ in range(3):
            log.append("events", 0, Batch(b"y", "bytes", 1))
    finally:
        other.kill()
        other.wait(10)
        other.stdout.close()
    assert len(log.read("events", 0, 0, 9)) >= 3
    log.close()


def test_whoever_holds_the_log_for_long_is_named(tmp_path: Path):
    log = open_log(tmp_path)
    program = "with log.transaction():\n    print('held', flush=True); time.sleep(60)"
    other = elsewhere(program, tmp_path)
    gate = Gate(tmp_path / "gate")
    try:
        other.stdout.readline()
        os.kill(other.pid, signal.SIGSTOP)
        told = f"held by process {other.pid}, which is stopped, for 0 s"
        with pytest.raises(LogError, match=told) as caught, gate.held(patience=0.1):
            pass
        assert f"kill -CONT {other.pid}" in caught.value.hint
        other.kill()
        other.wait(10)
        with gate.held(patience=5.0):
            pass
    finally:
        other.kill()
        other.stdout.close()
        gate.close()
    log.create("events", 1)
    assert log.append("events", 0, Batch(b"x", "bytes", 1)) == 0
    log.close()


def test_many_appends_share_one_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = open_log(tmp_path)
    log.create("events", 1)
    waits: list[int] = []

    def slow(file: int) -> None:
        waits.append(file)
        time.sleep(0.02)

    monkeypatch.setattr(os, "fdatasync", slow)
    threads = [threading.Thread(target=log.append, args=("events", 0, Batch(b"x", "bytes", 1))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert log.ends("events") == [(0, 40)]
    assert len(waits) <= 12
    log.close()


def test_a_read_returns_only_what_is_durable(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    with held_back(log), log._env._gate.held(), log._env._transaction(True) as rows:
        work = Writer(rows, SimulatedClock(0))
        work.append("events", 0, Batch(b"x", "bytes", 1))
        work.finish()
    newest = log._env._env.info()["last_txnid"]
    with open(tmp_path / "data.mdb", "rb") as data:
        assert newest_steady(data.fileno(), PAGE).transaction < newest
        assert len(log.read("events", 0, 0, 9)) == 1
        assert newest_steady(data.fileno(), PAGE).transaction == newest
    log.close()


def test_a_process_that_no_longer_writes_keeps_no_old_pages_alive(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    deadline = time.monotonic() + 10
    while "no active readers" not in log._env._env.readers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "no active readers" in log._env._env.readers()
    log.close()


def test_a_disk_that_cannot_be_written_is_said_and_nothing_is_acknowledged_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log = open_log(tmp_path)
    log.create("events", 1)

    def failing(file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(LogError, match="could not be written"):
            log.append("events", 0, Batch(b"x", "bytes", 1))
    with pytest.raises(LogError, match="could not be written"):
        log.append("events", 0, Batch(b"x", "bytes", 1))
    log.close()


def test_a_log_that_waited_for_the_disk_in_each_commit_is_read_as_before(tmp_path: Path):
    with lmdb.open(str(tmp_path), map_size=1 << 30) as env, env.begin(write=True) as rows:
        rows.put(b"f", b"1")
    log = open_log(tmp_path)
    log.create("events", 1)
    log.append("events", 0, Batch(b"x", "bytes", 1))
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    another_boot(tmp_path.with_name("copy"))
    assert open_log(tmp_path.with_name("copy")).read("events", 0, 0, 9) == log.read("events", 0, 0, 9)
    log.close()


def test_without_waits_for_the_disk_no_root_counts_as_steady(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    log.close()
    log = EmbeddedLog(tmp_path, SimulatedClock(0), 1, fsync=False)
    for _ in range(10):
        log.append("events", 0, Batch(b"x", "bytes", 1))
    log.close()
    another_boot(tmp_path)
    assert open_log(tmp_path).ends("events") == [(0, 10)]


def test_a_topic_whose_dropper_died_is_removed_by_the_next(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    log.create("other", 1)
    log.append("events", 0, Batch(b"x", "bytes", 1))
    with log._env.begin(write=True) as rows:
        rows.put(b"d\0\0\0\0", b"")
        rows.delete(b"tevents")
    log.drop("other")
    with log._env.begin() as rows:
        assert [bytes(key) for key, _ in rows.cursor()] == [b"f", b"i", b"n"], (
            "the format, the identity, the next number"
        )
    log.close()
