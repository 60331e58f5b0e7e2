"""The log of another project, when it forgets, steps back or is another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import SourceError
from millstream.sources.another_project import ProjectSource


def other(folder: Path, count: int) -> EmbeddedLog:
    log = EmbeddedLog(folder, SimulatedClock(7), map_gib=1, fsync=False)
    log.create("clicks", 1)
    for n in range(count):
        log.append("clicks", 0, Batch(b"%d" % n, "json", 1))
    return log


def test_another_log_in_its_place_is_read_from_its_beginning_and_told(tmp_path: Path):
    source = ProjectSource(other(tmp_path / "a", 3), "clicks", "clicks", tmp_path)
    position = source.read("0", None, 10).next
    found = ProjectSource(other(tmp_path / "b", 2), "clicks", "clicks", tmp_path).read("0", position, 10)
    assert found.payloads == [b"0", b"1"]
    assert found.lost is not None and "another log" in found.lost


def test_a_log_that_ends_before_what_was_read_is_told(tmp_path: Path):
    log = other(tmp_path / "a", 3)
    source = ProjectSource(log, "clicks", "clicks", tmp_path)
    position = source.read("0", None, 10).next
    assert position is not None
    ahead = position.replace("/3", "/9")
    found = source.read("0", ahead, 10)
    assert not len(found) and found.lost is not None and "stepped back" in found.lost


def test_a_topic_that_is_not_there_is_said(tmp_path: Path):
    source = ProjectSource(other(tmp_path / "a", 0), "logins", "clicks", tmp_path)
    with pytest.raises(
        SourceError, match=r"Stream 'clicks': project '.*', to which it is bound, cannot be read: Topic"
    ):
        source.shards({})
