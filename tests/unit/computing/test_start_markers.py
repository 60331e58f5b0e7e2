"""Start markers: where a version begins, written once and for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.computing.chain import ACTIVITY, DEVICES, PARTITIONS, PAYMENTS, VELOCITY, Chain, payments, version_of

from millstream.computing.start_markers import computed_positions, start_markers, start_version
from millstream.errors import LogError
from millstream.fold import decode_deltas


def test_a_version_starts_at_the_ends_of_its_streams(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, chain.marks, chain.versions[0], [PAYMENTS], chain.clock)
    assert sum(markers.values()) == 30
    assert start_markers(chain.marks, "velocity@1") == markers
    assert computed_positions(chain.log, "velocity@1", ["payments"]) == markers


def test_the_start_record_is_the_first_of_each_feature_partition(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, chain.marks, chain.versions[0], [PAYMENTS], chain.clock)
    for shard in range(2):
        (record,) = chain.log.read("features.velocity@1", shard, 0, 10).payloads
        deltas = decode_deltas(record)
        assert deltas.ranges == {place: (at, at) for place, at in markers.items()}
        assert deltas.keys == []


def test_markers_never_move(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    assert set(start_version(chain.log, chain.marks, chain.versions[0], [PAYMENTS], chain.clock, "end").values()) == {0}
    assert computed_positions(chain.log, "velocity@1", ["payments"]) != {f"payments/{p}": 0 for p in range(PARTITIONS)}


class Dies:
    """A log whose process dies before its next transaction."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def transaction(self) -> Any:
        raise KeyboardInterrupt


def test_a_start_that_dies_after_its_markers_are_marked_goes_on_from_them(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    chain.send(PAYMENTS, payments(30))
    with pytest.raises(KeyboardInterrupt):
        start_version(Dies(chain.log), chain.marks, version, [PAYMENTS], chain.clock)
    chain.send(PAYMENTS, payments(30, first=30))
    markers = start_version(chain.log, chain.marks, version, [PAYMENTS], chain.clock)
    assert (
        markers == start_markers(chain.marks, "velocity@1") == computed_positions(chain.log, "velocity@1", ["payments"])
    )
    assert sum(markers.values()) == 30
    assert chain.log.ends("features.velocity@1") == [(0, 1), (0, 1)]


def test_two_processes_that_start_a_version_agree_on_its_markers(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    chain.send(PAYMENTS, payments(30))

    class Late:
        """Marks that another process has set since they were read."""

        def read(self, mark: str) -> dict[str, int]:
            return chain.marks.read(mark)

        def move(self, mark: str, known: Any, to: Any) -> None:
            if not chain.marks.read(mark):
                start_version(chain.log, chain.marks, version, [PAYMENTS], chain.clock)
                chain.send(PAYMENTS, payments(30, first=30))
            chain.marks.move(mark, known, to)

    markers = start_version(chain.log, Late(), version, [PAYMENTS], chain.clock)
    assert (
        markers == start_markers(chain.marks, "velocity@1") == computed_positions(chain.log, "velocity@1", ["payments"])
    )
    assert sum(markers.values()) == 30
    assert chain.log.ends("features.velocity@1") == [(0, 1), (0, 1)]


def test_markers_that_are_lost_are_found_in_the_start_record(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    chain.send(PAYMENTS, payments(30))
    chain.start("end")
    markers = chain.marks.read("start/velocity@1")
    chain.send(PAYMENTS, payments(30, first=30))
    chain.drain()
    chain.marks.drop(["start/velocity@1"])
    assert start_version(chain.log, chain.marks, version, [PAYMENTS], chain.clock) == markers
    assert start_markers(chain.marks, "velocity@1") == markers


def test_markers_that_are_lost_after_their_record_are_where_computing_is(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    version = chain.versions[0]
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    for shard in range(2):
        chain.log.trim("features.velocity@1", shard, 1)
    chain.marks.drop(["start/velocity@1"])
    found = start_version(chain.log, chain.marks, version, [PAYMENTS], chain.clock)
    assert (
        found == computed_positions(chain.log, "velocity@1", ["payments"]) == start_markers(chain.marks, "velocity@1")
    )


def test_markers_of_another_log_are_written_anew(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "before")
    chain.send(PAYMENTS, payments(60))
    chain.start("end")
    other = Chain(tmp_path / "after")
    other.send(PAYMENTS, payments(20))
    found = start_version(other.log, chain.marks, chain.versions[0], [PAYMENTS], other.clock)
    assert sum(found.values()) == 20
    assert (
        found == start_markers(chain.marks, "velocity@1") == computed_positions(other.log, "velocity@1", ["payments"])
    )


def test_a_version_whose_deltas_were_dropped_begins_where_computing_is(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.drain()
    chain.log.drop("features.velocity@1")
    found = start_version(chain.log, chain.marks, chain.versions[0], [PAYMENTS], chain.clock)
    assert sum(found.values()) == 30
    assert found == start_markers(chain.marks, "velocity@1")
    assert chain.log.ends("features.velocity@1") == [(0, 1), (0, 1)]


def test_committed_starts_where_the_other_versions_are(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.computer().step()
    chain.send(PAYMENTS, payments(30, first=30))
    markers = start_version(chain.log, chain.marks, version_of(DEVICES), [PAYMENTS], chain.clock, "committed")
    assert markers == computed_positions(chain.log, "velocity@1", ["payments"])
    assert sum(markers.values()) == 30


def test_committed_is_the_end_where_nothing_is_computed(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, chain.marks, version_of(DEVICES), [PAYMENTS], chain.clock, "committed")
    assert sum(markers.values()) == 30


def test_an_unknown_place_or_source_is_an_error(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    with pytest.raises(LogError, match="middle"):
        start_version(chain.log, chain.marks, version_of(VELOCITY), [PAYMENTS], chain.clock, "middle")  # type: ignore[arg-type]
    with pytest.raises(LogError, match="'logins' is not one of the streams"):
        start_version(chain.log, chain.marks, version_of(ACTIVITY), [PAYMENTS], chain.clock)
