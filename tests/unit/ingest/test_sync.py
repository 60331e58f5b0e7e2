"""Sync: what changed online arrives offline, and samples of it are what history says."""

import msgspec
import numpy as np
import pytest
from tests.unit.computing.chain import BASE, PAYMENTS, VELOCITY, Chain, expected_states, payments, version_of

from millstream.buffer.topics import feature_table
from millstream.errors import CorruptState
from millstream.fold import States, decode_key, layout_of, value
from millstream.history.events import History
from millstream.ingest.archive import Archiver
from millstream.ingest.sync import Syncer
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.testing.shards import meta_of, pairs

GV = "velocity@1"


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    chain.start()
    chain.offline = IcebergOfflineStore(tmp_path / "offline")
    chain.history = History(chain.log, chain.offline, [PAYMENTS])
    return chain


def syncer(chain, **options):
    return Syncer(chain.log, chain.online, chain.offline, chain.history, [version_of(VELOCITY)], chain.clock, **options)


def send(chain, number, first=0):
    chain.send(PAYMENTS, payments(number, first=first))
    chain.drain()


def test_the_values_are_those_of_the_states_at_the_instant(chain):
    send(chain, 60)
    (report,) = syncer(chain).step()
    rows = chain.offline.scan(feature_table(GV)).to_pylist()
    states = expected_states(chain, version_of(VELOCITY))
    assert report.rows == len(rows) == len(states)
    found = {row["user_id"]: row for row in rows}
    layout = layout_of(VELOCITY)
    for key, state in states.items():
        values = value(layout, States.from_bytes([state]), np.array([BASE])).columns
        row = found[decode_key(VELOCITY.entity.keys, key)[0]]
        assert row["count_1h"] == values["count_1h"][0]
        assert row["device_last"] == values["device_last"][0]
        applied = {f"payments/{p}": end for p, (_, end) in enumerate(chain.log.ends("payments"))}
        assert msgspec.json.decode(row["positions"]) == applied


def test_a_group_that_cannot_be_read_does_not_keep_the_others_waiting(chain):
    send(chain, 60)
    damaged = version_of(VELOCITY, 2)
    place = chain.folder / "online" / damaged.id / "0" / "data.mdb"
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(64 * 1024))
    versions = [damaged, version_of(VELOCITY)]
    with pytest.raises(CorruptState, match="velocity@2"):
        Syncer(chain.log, chain.online, chain.offline, chain.history, versions, chain.clock).step()
    assert chain.offline.scan(feature_table(GV)).num_rows > 1


def test_only_what_changed_is_synced_again(chain):
    send(chain, 60)
    (first,) = syncer(chain).step()
    assert [report.rows for report in syncer(chain).step()] == [0]
    chain.clock.advance(1_000_000)
    one = {"id": "new", "user_id": 3, "device": "d", "amount": 1.0, "at": BASE}
    chain.send(PAYMENTS, [one])
    chain.drain()
    (report,) = syncer(chain).step()
    assert (first.rows > 1, report.rows, report.lag) == (True, 1, 1_000_000)


def test_a_sample_agrees_with_history_before_and_after_archiving(chain):
    send(chain, 60)
    workers = syncer(chain)
    (report,) = workers.step()
    assert report.compared > 0 and report.disagreeing == 0
    Archiver(chain.log, chain.offline, [PAYMENTS], chain.clock).step()
    chain.send(PAYMENTS, payments(30, first=60))
    chain.drain()
    chain.send(PAYMENTS, payments(9, first=90))  # not applied yet, so not compared either
    for report in [*workers.step(), *workers.step()]:
        assert report.compared > 0 and report.disagreeing == 0


def test_a_damaged_state_is_found(chain):
    send(chain, 60)
    for shard in range(2):
        found = pairs(chain.online, GV, shard)
        if len(found) > 1:
            (one, _), (_, other) = found[0], found[1]
            meta = meta_of(chain.online, GV, shard)
            chain.online.write(GV, shard, [(one, other)], meta, meta.position)
    workers = syncer(chain)
    assert sum(report.disagreeing for _ in range(2) for report in workers.step()) > 0


def test_two_syncs_at_once_append_once(chain):
    send(chain, 60)
    scan, appended = chain.offline.snapshot, []

    def other_first(table):
        found = scan(table)
        if not appended:
            appended.append(True)
            syncer(chain).step(agree=False)
        return found

    chain.offline.snapshot = other_first
    (report,) = syncer(chain).step(agree=False)
    assert report.fenced
    assert chain.offline.scan(feature_table(GV)).num_rows == len(chain.states(version_of(VELOCITY)))


def test_deltas_that_were_trimmed_mean_everything_is_synced(chain):
    send(chain, 60)
    (first,) = syncer(chain).step()
    send(chain, 30, first=60)
    for shard, (_, end) in enumerate(chain.log.ends(f"features.{GV}")):
        chain.log.trim(f"features.{GV}", shard, end)
    (again,) = syncer(chain).step()
    assert again.rows == first.rows


def test_a_long_history_is_read_once_an_hour_and_what_is_damaged_is_still_found(chain):
    send(chain, 60)
    workers = syncer(chain, most=59)
    (report,) = workers.step()
    began = chain.clock.now()
    assert (report.compared > 0, report.agreed_at) == (True, began)
    chain.history.chunks = None  # reading it now would fail
    for _ in range(5):
        chain.clock.advance(600_000_000)
        (report,) = workers.step()
        assert (report.compared, report.agreed_at) == (0, began)
    chain.history = workers._history = History(chain.log, chain.offline, [PAYMENTS])
    for shard in range(2):
        meta = meta_of(chain.online, GV, shard)
        chain.online.write(GV, shard, [(key, b"") for key, _ in pairs(chain.online, GV, shard)], meta, meta.position)
    chain.clock.advance(600_000_000)
    (report,) = workers.step()
    assert report.disagreeing == report.compared > 0


def test_a_restarted_sync_knows_when_history_was_last_read(chain):
    send(chain, 60)
    first = syncer(chain, most=1)
    first.step()
    began = chain.clock.now()
    chain.clock.advance(1_000_000)
    send(chain, 30, first=60)
    first.step()
    (report,) = syncer(chain, most=1).step()
    assert (report.compared, report.agreed_at) == (0, began)


def test_the_comparison_goes_round_all_keys(chain, monkeypatch):
    monkeypatch.setattr("millstream.ingest.sync._PAGE", 3)
    send(chain, 60)
    every = {key for shard in range(2) for key, _ in pairs(chain.online, GV, shard)}
    workers, seen, folded = syncer(chain), set(), Syncer._folded
    monkeypatch.setattr(
        Syncer, "_folded", lambda self, one, keys, meta: seen.update(keys) or folded(self, one, keys, meta)
    )
    for _ in range(2 * len(every)):
        assert [report.disagreeing for report in workers.step()] == [0]
    assert seen == every
