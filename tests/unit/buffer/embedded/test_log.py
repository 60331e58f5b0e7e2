"""What is particular to the embedded log."""

import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.disks import disk, fill

from millstream.buffer.embedded.environment import exclusive, open_environment
from millstream.buffer.embedded.log import EmbeddedLog
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
    assert not results.empty()
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
        log.append("events", 0, Batch(b"x" * 1_000_000, "bytes", 1))
    assert "log_gib" in caught.value.hint
    assert log.ends("events") == [(0, 1)]
    assert log.append("events", 0, ONE) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    with disk(tmp_path / "disk", mebibytes=1) as place:
        yield place


def elsewhere(program: str, path: Path) -> str:
    """What a process of its own prints: where it fails as it must not, a signal ends it."""
    program = (
        "import sys; from millstream.buffer.embedded.log import *; from millstream.clock import *\n"
        "from millstream.errors import *\n" + program
    )
    command = [sys.executable, "-c", program, str(path)]
    environment = os.environ | {"PYTHONPATH": "src"}
    return subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def test_a_full_disk_is_one_sentence_and_loses_nothing(small_disk: Path):
    log = open_log(small_disk / "log")
    log.create("events", 1)
    log.append("events", 0, ONE)
    ballast = fill(small_disk, 100 << 10)
    with pytest.raises(DiskFull, match=r"disk of .* is full; nothing was written"):
        log.append("events", 0, Batch(b"x" * 1_000_000, "bytes", 1))
    ballast.unlink()
    assert log.append("events", 0, ONE) == 1
    log.close()


@pytest.mark.parametrize("left", range(0, 72 << 10, 8 << 10))
def test_a_log_for_which_there_is_no_room_is_not_begun_by_half(small_disk: Path, left: int):
    (small_disk / "log").mkdir()
    ballast = fill(small_disk, left)
    program = "try: EmbeddedLog(sys.argv[1], SimulatedClock(0), 1)\nexcept DiskFull as error: print(error.message)"
    told = elsewhere(program, small_disk / "log")
    ballast.unlink()
    if told:
        assert f"'{small_disk / 'log'}' is full" in told
        assert told.count("\n") == 1
    log = open_log(small_disk / "log")
    log.create("events", 1)
    assert log.append("events", 0, ONE) == 0
    log.close()


def test_a_full_disk_stops_no_reader(small_disk: Path):
    log = open_log(small_disk / "log")
    log.create("events", 1)
    log.append("events", 0, ONE)
    fill(small_disk)
    program = (
        "log = EmbeddedLog(sys.argv[1], SimulatedClock(0), 1)\n"
        "held = [log._env.begin() for _ in range(450)]\n"
        "for one in held: one.__enter__()\n"
        "print(log.ends('events'))"
    )
    assert elsewhere(program, small_disk / "log") == "[(0, 1)]\n"
    log.close()


def test_a_log_that_finds_no_room_leaves_no_file_open(small_disk: Path):
    place = small_disk / "log"
    environment = open_environment(place, 1)
    ballast = fill(small_disk)
    with pytest.raises(DiskFull):
        open_log(place)
    ballast.unlink()
    environment.close()
    assert environment.holders == 0
    log = open_log(place)
    log.create("events", 1)
    log.close()


def test_closing_a_log_twice_does_not_close_it_for_others(tmp_path: Path):
    one, other = open_log(tmp_path), open_log(tmp_path)
    one.close()
    one.close()
    other.create("events", 1)
    assert other.append("events", 0, ONE) == 0
    other.close()


def test_a_log_opened_after_its_folder_was_removed_is_a_new_one(tmp_path: Path):
    old = open_log(tmp_path / "log")
    old.create("events", 1)
    shutil.rmtree(tmp_path / "log")
    new = open_log(tmp_path / "log")
    assert new.topics() == {}
    new.create("clicks", 1)
    old.close()
    assert open_log(tmp_path / "log").topics() == {"clicks": 1}
    new.close()


def test_logs_begun_at_once_by_many_processes_are_one(tmp_path: Path):
    program = (
        "import sys; from millstream.buffer.embedded.log import *; from millstream.clock import *\n"
        "from millstream.buffer.log import Batch\n"
        "log = EmbeddedLog(sys.argv[1], SimulatedClock(0), 1); log.create('events', 1)\n"
        "for _ in range(20): log.append('events', 0, Batch(b'x', 'bytes', 1))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    started = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": "src"}) for _ in range(4)]
    assert [one.wait(60) for one in started] == [0] * 4
    assert open_log(tmp_path / "log").ends("events") == [(0, 80)]


def test_what_is_held_alone_is_free_again_though_a_child_forked_meanwhile_lives_on(tmp_path: Path):
    reading, writing = os.pipe()
    with exclusive(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


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


@pytest.mark.parametrize("part", [1 / 3, 0.99])
def test_a_log_that_was_cut_short_is_one_clear_error(tmp_path: Path, part: float):
    program = (
        "from millstream.buffer.log import Batch\n"
        "log = EmbeddedLog(sys.argv[1], SimulatedClock(0), 1); log.create('events', 1)\n"
        "for _ in range(100): log.append('events', 0, Batch(b'x' * 3000, 'bytes', 1))"
    )
    elsewhere(program, tmp_path)
    os.truncate(tmp_path / "data.mdb", int((tmp_path / "data.mdb").stat().st_size * part))
    program = (
        "try: print(EmbeddedLog(sys.argv[1], SimulatedClock(0), 1).read('events', 0, 0, 1000))\n"
        "except LogError as error: print(error.message)"
    )
    assert "cut short" in elsewhere(program, tmp_path)


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


def test_a_child_forked_while_a_log_was_being_opened_opens_its_own(tmp_path: Path):
    (tmp_path / "slow").mkdir()
    with exclusive(tmp_path / "slow"):
        opening = threading.Thread(target=open_log, args=(tmp_path / "slow",))
        opening.start()
        opening.join(0.2)
        child = multiprocessing.get_context("fork").Process(target=open_log, args=(tmp_path / "own",))
        child.start()
        child.join(10)
        child.kill()
    opening.join(10)
    assert child.exitcode == 0


def test_a_log_that_another_process_has_made_larger_says_what_to_do(tmp_path: Path):
    log = open_log(tmp_path, map_gib=1 / 1024)
    log.create("events", 1)
    program = (
        "from millstream.buffer.log import Batch\n"
        "EmbeddedLog(sys.argv[1], SimulatedClock(0), 1).append('events', 0, Batch(b'x' * 1_000_000, 'bytes', 1))"
    )
    elsewhere(program, tmp_path)
    with pytest.raises(LogError, match="made larger by another process") as caught:
        log.ends("events")
    assert "log_gib" in caught.value.hint
    log.close()
    assert open_log(tmp_path).ends("events") == [(0, 1)]
