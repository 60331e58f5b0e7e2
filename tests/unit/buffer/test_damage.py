"""A log whose file is damaged says so by name; what was written before there were checksums is read as it is."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import lmdb
import pytest
from tests.unit.buffer import flips, large_flips

from millstream.buffer.embedded import rows as stored
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import CorruptLog


def open_log(path: Path) -> EmbeddedLog:
    return EmbeddedLog(path, SimulatedClock(0), 1)


@pytest.mark.parametrize("within", [16, 4096])
def test_one_flipped_bit_anywhere_is_refused_by_name_or_changes_nothing(tmp_path: Path, within: int):
    log = open_log(tmp_path / "log")
    for topic in ("events", "clicks"):
        log.create(topic, 2)
    for number in range(200):
        log.append("events", number % 2, Batch(b"%d," % number * (number % 61), "bytes", 1 + number % 3))
        if number % 10 == 0:
            with log.transaction() as work:
                work.append("clicks", 0, Batch(b"c" * (50, 3_000, 9_000)[number % 3], "bytes", 1))
                work.commit("reader", "events", 0, number - 10 if number else None, number)
    log.trim("events", 0, 40)
    log.close()
    command = [sys.executable, flips.__file__, str(tmp_path / "log"), "1", "7", str(within)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL).stdout
    fared = Counter(line.split()[0] for line in told.splitlines())
    assert fared["refused"]
    assert set(fared) <= {"right", "refused"}, told


@pytest.mark.parametrize("kind", ["log", "shard"])
def test_a_flipped_bit_of_a_file_of_6_mib_is_damage_by_name_and_ends_no_process(tmp_path: Path, kind: str):
    command = [sys.executable, large_flips.__file__, kind, str(tmp_path), "40", "3"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    fared = Counter(line.rpartition(" ")[0].rsplit(" ", 2)[0] for line in told.splitlines())
    assert set(fared) == {"right", "damage"}, told


def test_a_file_that_others_write_to_is_looked_at_as_one_of_its_snapshots(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("events", 1)
    program = (
        "import sys; from pathlib import Path; from millstream.buffer.embedded import lmdb_pages\n"
        "import lmdb\n"
        "env = lmdb.open(sys.argv[1], map_size=1 << 30)\n"
        "print('looking', flush=True)\n"
        "while not (Path(sys.argv[1]) / 'over').exists(): lmdb_pages.refuse_broken_pages(env, Path(sys.argv[1]) / 'data.mdb')\n"
    )
    looking = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert looking.stdout is not None
    assert looking.stdout.readline() == b"looking\n"
    for number in range(200):
        log.append("events", 0, Batch(bytes(number % 3_000), "bytes", 1))
        if number % 50 == 0:
            log.trim("events", 0, number - 20)
    (tmp_path / "over").touch()
    assert looking.wait(60) == 0
    log.close()


def test_a_damaged_record_is_named_by_file_topic_partition_and_position(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("payments", 3)
    for letter in (b"a", b"b", b"c"):
        log.append("payments", 1, Batch(letter * 50, "bytes", 1))
    log.close()
    content = (tmp_path / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(content.replace(b"b" * 50, b"b" * 49 + b"c"))
    log = open_log(tmp_path)
    with pytest.raises(CorruptLog) as caught:
        log.read("payments", 1, 0, 9)
    file = tmp_path / "data.mdb"
    assert f"Log '{file}' is damaged: topic 'payments', partition 1, position 1 " in caught.value.message
    assert [one[:1] for one in log.read("payments", 1, 2, 9).payloads] == [b"c"]
    log.close()


def test_a_batch_that_is_gone_or_lies_elsewhere_is_named(tmp_path: Path):
    log = open_log(tmp_path)
    log.create("payments", 2)
    for letter in (b"a", b"b", b"c"):
        log.append("payments", 0, Batch(letter, "bytes", 1))
    with log._env.begin(write=True) as rows:
        kept = bytes(rows.get(stored.record_key(0, 0, 1)))
        rows.delete(stored.record_key(0, 0, 1))
    with pytest.raises(CorruptLog, match="partition 0, position 1"):
        log.read("payments", 0, 0, 9)
    with pytest.raises(CorruptLog, match="partition 0, position 1"):
        log.read("payments", 0, 1, 9)
    with log._env.begin(write=True) as rows:
        rows.put(stored.record_key(0, 0, 1), kept)
        rows.put(stored.record_key(0, 0, 2), kept)
    assert log.read("payments", 0, 0, 2).payloads == [b"a", b"b"]
    with pytest.raises(CorruptLog, match="partition 0, position 2"):
        log.read("payments", 0, 0, 9)
    log.close()


def test_a_log_without_checksums_is_read_and_gone_on_with(tmp_path: Path):
    with lmdb.open(str(tmp_path), map_size=1 << 30) as env, env.begin(write=True) as rows:
        for key, value in {
            b"f": b"1",
            b"n": b"\0\0\0\1",
            b"tevents": stored.TOPIC.pack(0, 1),
            stored.PARTITION_KEY.pack(b"p", 0, 0): stored.ENDS.pack(0, 3),
            stored.PARTITION_KEY.pack(b"c", 0, 0) + b"reader": stored.POSITION.pack(2),
            stored.record_key(0, 0, 0): stored._BEFORE.pack(2, 7, 0) + b"1\n2",
            stored.record_key(0, 0, 2): stored._BEFORE.pack(1, 8, 2) + b"",
        }.items():
            rows.put(key, value)
    log = open_log(tmp_path)
    assert log.append("events", 0, Batch(b"new", "bytes", 1)) == 3
    with log.transaction() as work:
        work.commit("reader", "events", 0, 2, 4)
    assert log.read("events", 0, 0, 9).payloads == [b"1\n2", b"", b"new"]
    assert (log.committed("reader", "events"), log.ends("events")) == ([4], [(0, 4)])
    log.create("more", 1)
    assert log.trim("events", 0, 3) == 3
    log.close()
