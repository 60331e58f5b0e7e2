"""Files of JSON lines that grow, rotate, are truncated and vanish: each line once, and nothing lost without a word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.unit.sources.test_take_in import CLICKS, NOW, Time, event, everything, numbers, to_the_end

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import SourceError
from millstream.sources.files import GONE_AFTER, FilesSource
from millstream.sources.take_in import TakeIn


class Folder:
    """A folder of files that is taken in."""

    def __init__(self, path: Path) -> None:
        self.path, self.seconds = path / "incoming", Time()
        self.path.mkdir()
        self.log = EmbeddedLog(path / "log", SimulatedClock(NOW), map_gib=1, fsync=False, largest=10_000_000)
        self.log.create("clicks", 3)
        self.take = self.again()

    def again(self, pattern: str = "incoming/*.jsonl*") -> TakeIn:
        """What another process would have."""
        source = FilesSource(self.path.parent, pattern, "clicks", seconds=self.seconds)
        self.take = TakeIn(self.log, CLICKS, source, SimulatedClock(NOW), seconds=self.seconds)
        return self.take

    def add(self, name: str, *ns: int, end: bytes = b"\n") -> None:
        with (self.path / name).open("ab") as file:
            file.write(b"\n".join(event(n, n) for n in ns) + end)

    def taken(self) -> list[int]:
        to_the_end(self.take)
        return numbers(self.log)

    def losses(self) -> list[str]:
        return [loss.what for loss in self.take.losses[1]]


@pytest.fixture
def folder(tmp_path: Path):
    folder = Folder(tmp_path)
    yield folder
    folder.log.close()


def test_files_that_grow_and_new_ones_are_read_once(folder: Folder):
    folder.add("a.jsonl", 0, 1)
    assert folder.taken() == [0, 1]
    folder.add("a.jsonl", 2)
    folder.add("b.jsonl", 3)
    assert folder.taken() == [0, 1, 2, 3]
    folder.again()
    assert folder.taken() == [0, 1, 2, 3]


def test_a_half_written_last_line_waits(folder: Folder):
    folder.add("a.jsonl", 0)
    folder.add("a.jsonl", 1, end=b"")
    assert folder.taken() == [0]
    assert folder.take.lag()[0] == 0
    folder.add("a.jsonl", end=b"\n")
    assert folder.taken() == [0, 1]


def test_a_line_that_is_written_in_pieces_is_one_line(folder: Folder):
    line = event(4, 4) + b"\n"
    for at in range(len(line)):
        with (folder.path / "a.jsonl").open("ab") as file:
            file.write(line[at : at + 1])
        folder.take.step()
    assert folder.taken() == [4]


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_that_is_renamed_is_the_same_and_the_one_in_its_place_another(folder: Folder, restart: bool):
    folder.add("a.jsonl", 0, 1)
    assert folder.taken() == [0, 1]
    folder.add("a.jsonl", 2)
    (folder.path / "a.jsonl").rename(folder.path / "a.jsonl.1")
    folder.add("a.jsonl", 3)
    if restart:
        folder.again()
    assert folder.taken() == [0, 1, 2, 3]
    (folder.path / "a.jsonl.1").rename(folder.path / "a.jsonl.2")
    (folder.path / "a.jsonl").rename(folder.path / "a.jsonl.1")
    folder.add("a.jsonl.1", 4)
    folder.add("a.jsonl", 5)
    assert folder.taken() == [0, 1, 2, 3, 4, 5]
    assert folder.losses() == []


def test_what_was_written_before_a_rename_to_a_name_that_does_not_match_is_read(folder: Folder):
    folder.again("incoming/*.jsonl")
    folder.add("a.jsonl", 0)
    assert folder.taken() == [0]
    folder.add("a.jsonl", 1)
    (folder.path / "a.jsonl").rename(folder.path / "a.old")
    folder.add("a.jsonl", 2)
    folder.again("incoming/*.jsonl")
    assert folder.taken() == [0, 1, 2]


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_that_is_truncated_is_read_anew_and_what_was_unread_is_told(folder: Folder, restart: bool):
    folder.add("a.jsonl", *range(10))
    folder.take._most = 4
    folder.take.step()
    (folder.path / "a.jsonl").write_bytes(b"")
    folder.take.step()
    folder.add("a.jsonl", 20, 21)
    if restart:
        folder.again()
    assert folder.taken() == [0, 1, 2, 3, 20, 21]
    assert len(folder.losses()) == 1 and "bytes unread" in folder.losses()[0]


def test_a_file_written_anew_with_the_same_first_line_is_read_anew(folder: Folder):
    folder.add("a.jsonl", 0, 1, 2)
    assert folder.taken() == [0, 1, 2]
    (folder.path / "a.jsonl").write_bytes(event(0, 0) + b"\n" + event(7, 7) + b"\n")
    assert folder.taken() == [0, 0, 1, 2, 7]
    folder.add("a.jsonl", 8)
    assert folder.taken() == [0, 0, 1, 2, 7, 8]
    assert folder.losses() == []


def test_a_file_that_is_replaced_by_another_one_is_over(folder: Folder):
    folder.add("a.jsonl", 0, 1)
    folder.taken()
    folder.add("new", 5, 6)
    (folder.path / "new").replace(folder.path / "a.jsonl")
    assert folder.taken() == [0, 1, 5, 6]


def test_files_of_the_same_lines_are_different_files(folder: Folder):
    folder.add("a.jsonl", 0)
    folder.add("b.jsonl", 0)
    assert folder.taken() == [0, 0]


def test_links_to_a_file_are_the_file(folder: Folder):
    folder.add("a.jsonl", 0)
    (folder.path / "b.jsonl").symlink_to(folder.path / "a.jsonl")
    os.link(folder.path / "a.jsonl", folder.path / "c.jsonl")
    assert folder.taken() == [0]


def test_a_folder_that_was_copied_is_gone_on_with(folder: Folder):
    folder.add("a.jsonl", 0)
    folder.add("b.jsonl", 1)
    folder.taken()
    shutil.copytree(folder.path, folder.path.parent / "copy")
    shutil.rmtree(folder.path)
    (folder.path.parent / "copy").rename(folder.path)
    folder.add("b.jsonl", 2)
    folder.again()
    assert folder.taken() == [0, 1, 2]


def test_a_file_that_is_away_for_a_while_is_gone_on_with(folder: Folder):
    folder.add("a.jsonl", 0)
    folder.taken()
    away = (folder.path / "a.jsonl").rename(folder.path.parent / "away")
    folder.taken()
    away.rename(folder.path / "a.jsonl")
    folder.add("a.jsonl", 1)
    assert folder.taken() == [0, 1]


def test_a_file_that_is_gone_for_good_is_over_and_what_was_unread_is_told(folder: Folder):
    folder.add("a.jsonl", 0, 1)
    folder.add("a.jsonl", 2, end=b"")
    folder.taken()
    (folder.path / "a.jsonl").unlink()
    folder.taken()
    assert folder.losses() == []
    folder.seconds.now += GONE_AFTER
    folder.taken()
    assert folder.losses() == ["File 'incoming/a.jsonl' was removed, truncated or written anew with 41 bytes unread."]
    folder.add("a.jsonl", 0, 4)
    assert folder.taken() == [0, 0, 1, 4]


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_events(folder: Folder):
    (folder.path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + event(0, 0) + b"\r\n\r\n\n" + event(1, 1) + b"\r\n")
    assert folder.taken() == [0, 1]


def test_a_name_may_hold_any_character(folder: Folder):
    for n, name in enumerate(["a#b.jsonl", "ü b.jsonl", "a#0123456789ab.jsonl"]):
        folder.add(name, n)
    folder.taken()
    folder.add("a#b.jsonl", 7)
    folder.again()
    assert folder.taken() == [0, 1, 2, 7]


def test_a_line_longer_than_what_is_read_at_once_is_one_line(folder: Folder):
    with (folder.path / "a.jsonl").open("wb") as file:
        file.write(b'{"k": 1, "n": 1, "at": "2027-01-15", "long": "' + b"x" * 3_000_000 + b'"}\n')
    folder.add("a.jsonl", 2)
    assert folder.taken() == [1, 2]


def test_a_folder_that_is_not_there_is_said_and_loses_nothing(folder: Folder):
    folder.add("a.jsonl", 0)
    folder.taken()
    folder.path.rename(folder.path.parent / "away")
    with pytest.raises(SourceError, match=r"Stream 'clicks': its files are 'incoming/\*.jsonl\*', and the folder"):
        folder.take.step()
    (folder.path.parent / "away").rename(folder.path)
    folder.add("a.jsonl", 1)
    assert folder.taken() == [0, 1]


def test_many_files_are_taken_in_by_turns(folder: Folder):
    for n in range(40):
        folder.add(f"{n}.jsonl", 2 * n, 2 * n + 1)
    folder.take._most = 7
    assert folder.taken() == list(range(80))
    assert sum(map(len, everything(folder.log))) == 80
