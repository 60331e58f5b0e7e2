"""No capture of an answered request is lost, whatever becomes of the process that wrote it."""

import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.commands import Program

from millstream.buffer.log import Batch
from millstream.errors import CorruptState, DiskFull, LogError
from millstream.serve.capture import (
    FIXED,
    CaptureJournal,
    CaptureShape,
    CaptureShipper,
    capture_table,
    damaged_captures,
)
from millstream.testing.simulation.disk import Disk

SHAPE = CaptureShape(
    "fraud",
    "3",
    "fraud",
    "a1",
    (("user_id", "int64"), ("seen", "timestamp"), ("country", "string"), ("g__sum", "float64")),
)

WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from millstream.serve.capture import CaptureJournal, CaptureShape
journal = CaptureJournal(Path(sys.argv[1]))
shape = CaptureShape("fraud", "3", "fraud", "a1", (("user_id", "int64"),))
for i in range(10**9):
    journal.append(shape, [[{"g": {"shard": 1}}, f"r{i}", "fraud", "3", "fraud", "a1", 5, 6, 0.25, False, None, i]])
    print(i, flush=True)
    if i % 100 == 99:
        journal.rotate()
"""


class Topics:
    """A log that remembers what it is given, and fails when it is told to."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, Batch]] = []
        self.topics: dict[str, int] = {}
        self.failing = False
        self.largest = 1_000_000

    def create(self, topic: str, partitions: int) -> None:
        self.topics[topic] = partitions

    def append(self, topic: str, partition: int, batch: Batch) -> int:
        if self.failing:
            raise DiskFull("No room.")
        self.batches.append((topic, batch))
        return 0

    def table(self) -> pa.Table:
        return pa.concat_tables([pa.ipc.open_stream(batch.payload).read_all() for _, batch in self.batches])


def row(request_id: str, user_id: int | None = 42, total: float | None = 1.5) -> list[object]:
    fixed = [
        {"velocity": {"shard": 2, "positions": {"payments/0": 7}}},
        request_id,
        "fraud",
        "3",
        "fraud",
        "a1",
        5,
        6,
        0.25,
        False,
        None,
    ]
    return [*fixed, user_id, 1_700_000_000_000_000, "de", total]


def test_a_captured_row_arrives_in_the_log_with_its_types(tmp_path: Path) -> None:
    journal, log = CaptureJournal(tmp_path), Topics()
    total = 0.1 + 0.2
    journal.append(SHAPE, [row("r1", total=total), row("r2", user_id=None, total=float("nan"))])
    assert CaptureShipper(journal, log).step() == 2
    assert log.topics == {"captures.fraud": 1}
    table = log.table()
    assert table.column_names == [*FIXED, "user_id", "seen", "country", "g__sum"]
    assert table.schema.field("seen").type == pa.timestamp("us", tz="UTC")
    assert table["g__sum"].to_pylist() == [total, None]
    assert table["user_id"].to_pylist() == [42, None]
    assert table["_groups"][0].as_py() == '{"velocity":{"shard":2,"positions":{"payments/0":7}}}'
    assert log.batches[0][1].count == 2


def test_what_is_shipped_is_not_shipped_again(tmp_path: Path) -> None:
    journal, log = CaptureJournal(tmp_path), Topics()
    shipper = CaptureShipper(journal, log)
    journal.append(SHAPE, [row("r1")])
    assert (shipper.step(), shipper.step()) == (1, 0)
    journal.append(SHAPE, [row("r2")])
    assert shipper.step() == 1
    assert log.table()["_request_id"].to_pylist() == ["r1", "r2"]


def test_captures_of_many_requests_are_shipped_in_batches_that_the_log_takes(tmp_path: Path) -> None:
    """One that is too large by itself is kept in its file, which is set aside; all others arrive."""
    journal, log = CaptureJournal(tmp_path), Topics()
    log.largest = 20_000
    shipper = CaptureShipper(journal, log)
    journal.append(SHAPE, [row(f"r{number}") for number in range(400)])
    assert shipper.step() == 400
    assert len(log.batches) > 1 and all(len(batch.payload) <= log.largest for _, batch in log.batches)
    assert log.table()["_request_id"].to_pylist() == [f"r{number}" for number in range(400)]
    large = row("large")
    large[0] = {"velocity": "x" * 30_000}
    journal.append(SHAPE, [row("before"), large, row("after")])
    assert shipper.step() == 2
    assert log.table()["_request_id"].to_pylist()[400:] == ["before", "after"]
    assert len(damaged_captures(tmp_path)) == 1
    assert shipper.step() == 0


def test_captures_stay_in_the_journal_while_the_log_takes_none(tmp_path: Path) -> None:
    journal, log = CaptureJournal(tmp_path), Topics()
    shipper = CaptureShipper(journal, log)
    journal.append(SHAPE, [row("r1")])
    log.failing = True
    with pytest.raises(DiskFull):
        shipper.step()
    log.failing = False
    journal.append(SHAPE, [row("r2")])
    assert shipper.step() == 2


def test_a_killed_process_loses_no_capture_that_it_acknowledged(tmp_path: Path) -> None:
    program = Program(WRITE_UNTIL_KILLED, str(tmp_path))
    acknowledged = [int(program.stdout.readline()) for _ in range(1_234)]
    program.process.kill()
    acknowledged += [int(line) for line in program.stdout.read().splitlines() if line]
    program.kill()

    journal, log = CaptureJournal(tmp_path), Topics()
    CaptureShipper(journal, log).step()
    kept = set(log.table()["user_id"].to_pylist())
    assert set(acknowledged[:-1]) <= kept  # the last line printed may itself have been cut short
    assert [path.name for path in tmp_path.iterdir()] == [journal.own.name]


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    program = Program(WRITE_UNTIL_KILLED, str(tmp_path))
    program.stdout.readline()
    try:
        log = Topics()
        assert CaptureShipper(CaptureJournal(tmp_path), log).step() == 0
    finally:
        program.kill()


def test_an_unfinished_last_line_is_left_out_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    journal = CaptureJournal(tmp_path)
    journal.append(SHAPE, [row("r1"), row("r2")])
    (path,) = journal.rotate()
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert capture_table(path)["_request_id"].to_pylist() == ["r1"]
    path.write_bytes(content.replace(b'"r1"', b'"r1,'))
    with pytest.raises(CorruptState, match="cannot be read"):
        capture_table(path)


def test_a_write_that_finds_no_room_leaves_a_journal_that_reads(tmp_path: Path) -> None:
    import resource

    journal = CaptureJournal(tmp_path)
    journal.append(SHAPE, [row("r1")])
    size = next(journal.own.glob("*.open")).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        with pytest.raises(DiskFull):
            journal.append(SHAPE, [row("r2")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    journal.append(SHAPE, [row("r3")])
    assert capture_table(journal.rotate()[0])["_request_id"].to_pylist() == ["r1", "r3"]


def test_a_journal_on_a_full_disk_is_shipped_once_all_the_same(tmp_path: Path) -> None:
    topics, place = Topics(), tmp_path.resolve() / "journal"
    journal = CaptureJournal(place)
    journal.append(SHAPE, [row("r1")])
    with Disk(tmp_path.resolve(), full={"journal"}).watching():
        assert CaptureShipper(journal, topics).step() == 1
        with pytest.raises(DiskFull, match="journal cannot be made"):
            CaptureJournal(place)
    journal.append(SHAPE, [row("r2")])
    CaptureShipper(journal, topics).step()
    assert topics.table()["_request_id"].to_pylist() == ["r1", "r2"]


def test_a_damaged_file_that_a_full_disk_cannot_set_aside_is_said_to_lack_room_and_is_set_aside_later(
    tmp_path: Path,
) -> None:
    topics, place = Topics(), tmp_path.resolve() / "journal"
    journal = CaptureJournal(place)
    journal.append(SHAPE, [row("r1"), row("r2")])
    (damaged,) = journal.rotate()
    content = bytearray(damaged.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    journal.append(SHAPE, [row("r3")])
    shipper = CaptureShipper(journal, topics)
    with Disk(tmp_path.resolve(), full={"journal"}).watching(), pytest.raises(DiskFull, match=damaged.name):
        shipper.step()
    assert damaged.exists()
    assert set(topics.table()["_request_id"].to_pylist()) == {"r1", "r3"}
    shipper.step()
    assert damaged_captures(place) == [f"{journal.own.name}/{damaged.stem}.unreadable"]


def test_sampling_keeps_the_stated_share_of_requests(tmp_path: Path) -> None:
    journal = CaptureJournal(tmp_path, sample=0.25)
    journal.append(SHAPE, [row(f"{os.getpid()}-{i}") for i in range(2_000)])
    assert 400 < capture_table(journal.rotate()[0]).num_rows < 600


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_damaged_file_is_set_aside_and_everything_else_goes_on(tmp_path: Path, place: str) -> None:
    journal, log = CaptureJournal(tmp_path / "journal"), Topics()
    journal.append(SHAPE, [row("r1"), row("r2"), row("r3")])
    (damaged,) = journal.rotate()
    content = bytearray(damaged.read_bytes())
    lines = content.split(b"\n")
    at = {"first": 9, "middle": len(lines[0]) + len(lines[1]) + 30, "last": len(content) - 40}[place]
    content[at] ^= 1
    damaged.write_bytes(content)
    other = CaptureShape("other", "1", "other", "a1", ())
    journal.append(other, [[{}, "r9", "other", "1", "other", "a1", 5, 6, 0.25, False, None]])
    kept = {"first": 0, "middle": 2, "last": 2}[place]
    assert CaptureShipper(journal, log).step() == kept + 1
    assert [batch.count for topic, batch in log.batches if topic == "captures.other"] == [1]
    assert damaged_captures(journal.folder) == [f"{journal.own.name}/{damaged.stem}.unreadable"]
    assert (journal.own / f"{damaged.stem}.unreadable").read_bytes() == content
    journal.append(SHAPE, [row("r4")])
    journal.close()
    assert CaptureShipper(CaptureJournal(tmp_path / "journal"), log).step() == 1
    assert len(damaged_captures(journal.folder)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_of_a_journal_becomes_a_capture(tmp_path: Path, seed: int) -> None:
    journal = CaptureJournal(tmp_path)
    journal.append(SHAPE, [row(f"r{number}") for number in range(5)])
    (path,) = journal.rotate()
    whole, content = capture_table(path).to_pylist(), path.read_bytes()
    generator = np.random.default_rng(seed)
    for bit in generator.integers(0, 8 * len(content), 150).tolist():
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = capture_table(path).to_pylist()
        except CorruptState:
            continue
        assert all(one in whole for one in found)


def test_a_journal_without_checksums_is_read(tmp_path: Path) -> None:
    journal = CaptureJournal(tmp_path)
    journal.append(SHAPE, [row("r1"), row("r2")])
    (path,) = journal.rotate()
    whole = capture_table(path)
    path.write_bytes(b"\n".join(line.rpartition(b"\t")[0] for line in path.read_bytes().split(b"\n")[:-1]) + b"\n")
    assert capture_table(path).equals(whole)


def test_a_topic_that_takes_nothing_keeps_no_other_file_waiting(tmp_path: Path) -> None:
    class Choosy(Topics):
        def append(self, topic: str, partition: int, batch: Batch) -> int:
            if topic == "captures.fraud":
                raise LogError("Topic 'captures.fraud' is damaged.")
            return super().append(topic, partition, batch)

    journal, log = CaptureJournal(tmp_path), Choosy()
    journal.append(SHAPE, [row("r1")])
    other = CaptureShape("other", "1", "other", "a1", ())
    journal.append(other, [[{}, "r9", "other", "1", "other", "a1", 5, 6, 0.25, False, None]])
    with pytest.raises(LogError, match="damaged"):
        CaptureShipper(journal, log).step()
    assert [topic for topic, _ in log.batches] == ["captures.other"]
    assert len(journal.rotate()) == 1
