"""What is particular to the embedded log."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.buffer.embedded import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import DiskFull, LogError

ONE = Batch(b"x", "bytes", 1)


def open_log(path: Path, map_gib: float = 1) -> EmbeddedLog:
    return EmbeddedLog(path, SimulatedClock(0), map_gib)


def test_a_log_opened_twice_in_a_process_is_one_log(tmp_path: Path):
    one, other = open_log(tmp_path), open_log(tmp_path / ".." / tmp_path.name)
    one.create("events", 1)
    one.close()
    assert other.append("events", 0, ONE) == 0
    other.close()
    again = open_log(tmp_path)
    assert again.ends("events") == [(0, 1)]


def test_it_is_not_used_across_a_fork(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    results = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        try:
            log.append("events", 0, ONE)
        except LogError as error:
            results.put(str(error))
        open_log(tmp_path).append("events", 0, ONE)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert "forked" in results.get()
    assert log.ends("events") == [(0, 1)]


def test_appending_within_a_transaction_is_refused_rather_than_waiting_for_ever(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    with pytest.raises(LogError, match="written by this thread already"), log.transaction():
        log.append("events", 0, ONE)
    assert log.append("events", 0, ONE) == 0


def test_reading_within_a_transaction_sees_what_was_there_before_it(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    with log.transaction() as work:
        work.append("events", 0, ONE)
        assert log.ends("events") == [(0, 0)]
        with pytest.raises(LogError, match="written by this thread already"):
            log.append("events", 0, ONE)
    assert log.ends("events") == [(0, 1)]


def test_a_full_map_is_one_sentence_and_loses_nothing(tmp_path: Path):
    log = open_log(tmp_path, map_gib=1 / 1024)
    log.create("events", 1)
    log.append("events", 0, ONE)
    with pytest.raises(DiskFull, match="nothing was written") as caught:
        log.append("events", 0, Batch(b"x" * 4_000_000, "bytes", 1))
    assert "log_gib" in caught.value.hint
    assert log.ends("events") == [(0, 1)]
    assert log.append("events", 0, ONE) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        log = open_log(tmp_path / "log")
        log.create("events", 1)
        log.append("events", 0, ONE)
        (tmp_path / "other").write_bytes(b"x" * 500_000)
        with pytest.raises(DiskFull, match=r"disk of .* is full; nothing was written"):
            log.append("events", 0, Batch(b"x" * 2_000_000, "bytes", 1))
        (tmp_path / "other").unlink()
        assert log.append("events", 0, ONE) == 1
        log.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_space_of_trimmed_batches_is_used_again(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    for _ in range(60):
        position = log.append("events", 0, Batch(b"x" * 200_000, "bytes", 1))
        log.trim("events", 0, position)
    assert (tmp_path / "data.mdb").stat().st_size < 3_000_000


def test_readers_killed_in_their_sleep_do_not_make_the_log_grow(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    reading = (
        "import lmdb, sys, time\n"
        f"held = lmdb.open({str(tmp_path)!r}, map_size=1 << 30).begin()\n"
        "held.get(b'x'); print('reading', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", reading], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.kill()
    process.wait(30)
    for _ in range(600):
        log.trim("events", 0, log.append("events", 0, Batch(b"x" * 20_000, "bytes", 1)))
    assert (tmp_path / "data.mdb").stat().st_size < 10_000_000


def test_a_folder_that_holds_something_else_is_one_clear_error(tmp_path: Path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1_000)
    with pytest.raises(LogError, match="does not hold a readable database"):
        open_log(tmp_path)
    assert (tmp_path / "data.mdb").read_bytes() == b"not a database" * 1_000


def test_a_log_of_another_format_is_left_alone(tmp_path: Path):
    log = open_log(tmp_path)
    with log._env.begin(write=True) as rows:
        rows.put(b"f", b"99")
    log.close()
    with pytest.raises(LogError, match="format 99"):
        open_log(tmp_path)


def test_a_copied_folder_is_a_working_log(tmp_path: Path):
    log = open_log(tmp_path / "log")
    log.create("events", 1)
    log.append("events", 0, ONE)
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    assert open_log(tmp_path / "copy").read("events", 0, 0, 1) == log.read("events", 0, 0, 1)


def test_a_misspelt_topic_names_the_nearest(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("payments", 1)
    with pytest.raises(LogError) as caught:
        log.ends("paymnets")
    assert "'payments'" in caught.value.hint


@pytest.mark.parametrize("name", ["", "x" * 401])
def test_names_have_a_length_that_fits(tmp_path: Path, name: str):
    with pytest.raises(LogError, match="has a name of"):
        open_log(tmp_path).create(name, 1)
