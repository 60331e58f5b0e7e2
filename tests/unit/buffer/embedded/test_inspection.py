"""`doctor` reads all of a log in a process of its own, and names each damaged place."""

from pathlib import Path

import pytest

from millstream.buffer.embedded.inspection import inspect_log
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import CorruptLog


def made(folder: Path) -> bytes:
    log = EmbeddedLog(folder, SimulatedClock(0), 1)
    log.create("payments", 2)
    for number in range(300):
        log.append("payments", number % 2, Batch(b"number %06d" % number + b"." * 300, "bytes", 1))
    log.close()
    return (folder / "data.mdb").read_bytes()


def test_a_sound_log_is_read_to_its_end(tmp_path: Path):
    assert inspect_log(tmp_path / "log", 1) == "no log yet"
    made(tmp_path / "log")
    assert inspect_log(tmp_path / "log", 1) == "300 records read"


def test_each_damaged_place_is_named_and_the_others_are_read(tmp_path: Path):
    content = made(tmp_path)
    for number in (b"number 000014", b"number 000021", b"number 000200"):
        content = content.replace(number, number[:-1] + b"X")
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(CorruptLog) as caught:
        inspect_log(tmp_path, 1)
    assert str(tmp_path / "data.mdb") in caught.value.message
    for partition, position in ((0, 7), (1, 10), (0, 100)):
        assert f"topic 'payments', partition {partition}, position {position}" in caught.value.message


def test_pages_that_lead_astray_end_the_process_apart_and_are_named(tmp_path: Path):
    content = bytearray(made(tmp_path))
    for page in range(2, len(content) // 4096):
        content[page * 4096 + 12 : page * 4096 + 16] = b"\xff\x0f\x00\x10"  # where the free space of a page lies
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(CorruptLog, match=r"data.mdb"):
        inspect_log(tmp_path, 1)
