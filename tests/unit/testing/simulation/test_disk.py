"""The simulated disk: what is written when a process dies, is overtaken, or finds no room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock
from millstream.errors import DiskFull
from millstream.registry.definitions import Registry
from millstream.testing.simulation.declared import KEY
from millstream.testing.simulation.disk import Disk, Fate, Killed

ONE = Batch(b"{}", "json", 1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path.resolve()).watching() as watched:
        yield watched


def opened(disk: Disk) -> EmbeddedLog:
    log = EmbeddedLog(disk.folder / "log", SimulatedClock(), map_gib=0.01, fsync=False)
    log.create("orders", 1)
    return log


@pytest.mark.parametrize(("kind", "kept"), [("before", 0), ("after", 1)])
def test_a_process_that_dies_at_a_commit_of_the_log_leaves_all_of_it_or_nothing(disk: Disk, kind: str, kept: int):
    log = opened(disk)
    disk.meet(Fate(0, kind))
    with pytest.raises(Killed):
        log.append("orders", 0, ONE)
    assert log.ends("orders") == [(0, kept)]
    assert disk.written() == ["log"] * kept
    log.append("orders", 0, ONE)  # the next process is not in the way of the dead one
    log.close()


def test_somebody_else_has_a_turn_when_the_log_is_free_again(disk: Disk):
    log = opened(disk)
    disk.meet(Fate(0, "meanwhile", lambda: log.append("orders", 0, ONE) and None))
    log.append("orders", 0, ONE)
    disk.between()
    assert log.ends("orders") == [(0, 2)]
    log.close()


def test_somebody_else_has_a_turn_before_a_read(disk: Disk):
    log = opened(disk)
    disk.meet(Fate(1, "between", lambda: log.append("orders", 0, ONE) and None))
    assert [log.ends("orders") for _ in range(3)] == [[(0, 0)], [(0, 1)], [(0, 1)]]
    log.close()


def test_a_full_disk_is_one_place_and_there_can_be_room_again(disk: Disk):
    log = opened(disk)
    disk.full.add("log")
    with pytest.raises(DiskFull):
        log.append("orders", 0, ONE)
    (disk.folder / "new").write_text("")
    os.replace(disk.folder / "new", disk.folder / "models")
    disk.full.clear()
    assert log.append("orders", 0, ONE) == 0
    log.close()


@pytest.mark.parametrize(("kind", "kept"), [("before", []), ("after", ["key"])])
def test_a_process_that_dies_at_a_commit_of_the_registry_leaves_all_of_it_or_nothing(disk: Disk, kind: str, kept: list):
    registry = Registry(f"sqlite:///{disk.folder / 'registry.db'}")
    registry.apply(registry.plan([]))
    disk.meet(Fate(0, kind))
    with pytest.raises(Killed):
        registry.apply(registry.plan([KEY]))
    assert [change.name for change in registry.plan([KEY]).changes] == ([] if kept else ["key"])
    disk.full.add("registry")
    with pytest.raises(DiskFull):
        registry.apply(registry.plan([KEY]))


def test_what_is_not_the_projects_is_let_alone(disk: Disk, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a").write_text("")
    disk.meet(Fate(0, "before"))
    os.replace(elsewhere / "a", elsewhere / "b")
    assert disk.written() == []
