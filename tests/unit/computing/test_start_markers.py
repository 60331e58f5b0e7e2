"""Start markers: where a version begins, written once and for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.computing.chain import ACTIVITY, DEVICES, PARTITIONS, PAYMENTS, VELOCITY, Chain, payments, version_of

from millstream.computing.start_markers import computed_positions, start_markers, start_version
from millstream.errors import LogError
from millstream.fold import decode_deltas


def test_a_version_starts_at_the_ends_of_its_streams(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, chain.versions[0], [PAYMENTS], chain.clock)
    assert sum(markers.values()) == 30
    assert start_markers(chain.log, "velocity@1", ["payments"]) == markers
    assert computed_positions(chain.log, "velocity@1", ["payments"]) == markers


def test_the_start_record_is_the_first_of_each_feature_partition(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, chain.versions[0], [PAYMENTS], chain.clock)
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
    assert set(start_version(chain.log, chain.versions[0], [PAYMENTS], chain.clock, "end").values()) == {0}
    assert computed_positions(chain.log, "velocity@1", ["payments"]) != {f"payments/{p}": 0 for p in range(PARTITIONS)}


def test_committed_starts_where_the_other_versions_are(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.start("zero")
    chain.send(PAYMENTS, payments(30))
    chain.computer().step()
    chain.send(PAYMENTS, payments(30, first=30))
    markers = start_version(chain.log, version_of(DEVICES), [PAYMENTS], chain.clock, "committed")
    assert markers == computed_positions(chain.log, "velocity@1", ["payments"])
    assert sum(markers.values()) == 30


def test_committed_is_the_end_where_nothing_is_computed(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.send(PAYMENTS, payments(30))
    markers = start_version(chain.log, version_of(DEVICES), [PAYMENTS], chain.clock, "committed")
    assert sum(markers.values()) == 30


def test_an_unknown_place_or_source_is_an_error(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    with pytest.raises(LogError, match="middle"):
        start_version(chain.log, version_of(VELOCITY), [PAYMENTS], chain.clock, "middle")  # type: ignore[arg-type]
    with pytest.raises(LogError, match="'logins' is not one of the streams"):
        start_version(chain.log, version_of(ACTIVITY), [PAYMENTS], chain.clock)
