"""The archive and history: every event once, at one position, wherever it is."""

import json
import time

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.commands import Program

import millstream as ms
from millstream.buffer.codec.events import dead_batches, decode, encode, encode_history
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.buffer.repeats import repeats
from millstream.buffer.retention import trim_consumed
from millstream.buffer.topics import ARCHIVE
from millstream.clock import SimulatedClock
from millstream.errors import LogError, NotFound, SteppedBack
from millstream.history.agreement import archive_ahead
from millstream.history.events import History, positions_of
from millstream.history.selection import Wanted
from millstream.ingest.archive import Archiver
from millstream.store.iceberg.store import IcebergOfflineStore

BASE = 1_700_000_000_000_000
MINUTE = 60_000_000
PAYMENTS = ms.EventStream(
    "payments",
    time="paid",
    deduplicate="id",
    within="1h",
    retention="1h",
    schema={"id": "string", "user_id": "int64", "paid": "timestamp"},
)


class Place:
    """A log and an offline store with a stream of two partitions."""

    def __init__(self, folder):
        self.folder, self.clock = folder, SimulatedClock(BASE)
        self.log = EmbeddedLog(folder / "log", self.clock, map_gib=1)
        self.offline = IcebergOfflineStore(folder / "offline")
        self.history = History(self.log, self.offline, [PAYMENTS])
        self.log.create("payments", 2)
        self.sent = [0, 0]

    def archiver(self, **options):
        return Archiver(self.log, self.offline, [PAYMENTS], self.clock, **options)

    def send(self, partition, *ids):
        rows = [{"id": name, "user_id": i, "paid": self.clock.now()} for i, name in enumerate(ids)]
        for batch in encode(PAYMENTS, rows):
            self.log.append("payments", partition, batch)

    def everything(self):
        """What a reader of the whole log would find."""
        records = [self.log.read("payments", p, 0, 10**6) for p in range(2)]
        table = decode(PAYMENTS, records).table
        return table.filter(pa.array(~repeats(table, PAYMENTS)))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_history_is_the_same_before_and_after_archiving(place):
    place.send(0, "a", "b", "a")
    place.send(1, "a", "c")
    before = place.history.read("payments")
    assert before["id"].to_pylist() == ["a", "b", "a", "c"]
    done = place.archiver().step()
    assert (done.rows, done.lag) == (5, 0)
    assert place.history.read("payments").equals(before)
    assert place.log.committed(ARCHIVE, "payments") == [3, 2]


def test_a_repeat_is_told_across_the_border_of_the_archive(place):
    place.send(0, "a")
    place.archiver().step()
    place.clock.advance(30 * MINUTE)
    place.send(0, "a", "b")
    assert place.history.read("payments")["id"].to_pylist() == ["a", "b"]
    place.clock.advance(60 * MINUTE + 1)
    place.send(0, "a")
    assert place.history.read("payments")["id"].to_pylist() == ["a", "b", "a"]


def test_a_repeat_is_told_though_the_clock_was_set_back_and_history_is_read_in_parts(place):
    place.send(0, "a", "b")
    place.clock.set(BASE - 24 * 60 * MINUTE)
    place.send(0, "c")
    place.send(0, "d")
    place.clock.advance(MINUTE)
    place.send(0, "c", "a")
    for rows in (1, 2, None):
        pieces = list(place.history.chunks("payments", rows=rows))
        assert pa.concat_tables(pieces)["id"].to_pylist() == ["a", "b", "c", "d"]


def test_positions_are_in_the_commit_of_the_rows(place):
    place.send(1, "a", "b")
    place.archiver().step()
    head = place.offline.snapshot("events.payments")
    assert positions_of(head.properties) == {0: 0, 1: 2}
    assert json.loads(head.properties["millstream.positions"]) == {"0": 0, "1": 2}


def test_two_archivers_append_an_event_once(place):
    first, second = place.archiver(), place.archiver()
    place.send(0, "a")
    first.step()
    second.step()
    place.send(0, "b")
    second.step()
    first.step()
    place.send(0, "c")
    assert [first.step().rows, second.step().rows] == [1, 0]
    assert sorted(place.offline.scan("events.payments")["id"].to_pylist()) == ["a", "b", "c"]


def test_what_the_log_trims_is_read_from_the_archive(place):
    place.send(0, "a", "b")
    before = place.history.read("payments")
    place.archiver().step()
    place.send(0, "c")
    place.log.trim("payments", 0, 2)
    assert place.history.read("payments")["id"].to_pylist() == [*before["id"].to_pylist(), "c"]


def test_a_log_trimmed_while_it_is_read(place):
    """Between the look at the archive and the read of the log, another process archives and trims."""
    place.send(0, "a", "b")
    before = place.history.read("payments")
    scanned = place.offline.snapshot

    def raced(table):
        found = scanned(table)
        place.offline.snapshot = scanned
        place.archiver().step()
        place.log.trim("payments", 0, 2)
        return found

    place.offline.snapshot = raced
    assert place.history.read("payments").equals(before)


def test_a_gap_is_an_error_and_not_a_silence(place):
    place.send(0, "a")
    place.send(0, "b")
    place.log.trim("payments", 0, 1)
    with pytest.raises(LogError, match="trimmed"):
        place.archiver().step()


def test_reading_parts_of_it(place):
    place.send(0, "a", "b", "c")
    place.archiver().step()
    place.send(0, "d")
    place.send(1, "e")
    read = place.history.read
    assert read("payments", upto={0: 2, 1: 1})["id"].to_pylist() == ["a", "b", "e"]
    assert read("payments", since={0: 1}, upto={0: 4, 1: 0})["id"].to_pylist() == ["b", "c", "d"]
    assert read("payments", since={0: 1})["id"].to_pylist() == ["b", "c", "d", "e"]
    with pytest.raises(NotFound, match="No stream is named 'payment'"):
        read("payment")


def test_a_partition_that_has_come_since_is_not_read_up_to_positions_of_before(place):
    place.send(0, "a")
    before = place.history.ends("payments")
    place.log.grow("payments", 3)
    place.send(2, "b")
    for archived in (False, True):
        if archived:
            place.archiver().step()
        assert place.history.read("payments", upto=before)["id"].to_pylist() == ["a"]
        assert place.history.read("payments")["id"].to_pylist() == ["a", "b"]


def test_an_archive_of_more_partitions_than_the_log_has_is_not_gone_on_with(place):
    place.log.grow("payments", 3)
    place.send(2, "a")
    place.archiver().step()
    place.log.drop("payments")
    place.log.create("payments", 2)
    with pytest.raises(SteppedBack, match="has 2 partitions, and partition 2 was read"):
        place.archiver().step()
    assert archive_ahead(place.log, place.offline, [PAYMENTS]) == [
        "Archive of 'payments': topic 'payments' has 2 partitions, and partition 2 was read."
    ]


def test_dead_letters_and_captures_are_archived_too(place):
    place.log.create("dead.payments", 1)
    place.log.create("captures.fraud", 1)
    place.log.append("payments", 0, Batch(b"{", "json", 1))
    wrong = decode(PAYMENTS, [place.log.read("payments", 0, 0, 1)])
    place.log.append("dead.payments", 0, *dead_batches(wrong.dead))
    sink = pa.BufferOutputStream()
    rows = pa.table({"_request_id": ["x"], "_score": [0.5]})
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    place.log.append("captures.fraud", 0, Batch(sink.getvalue().to_pybytes(), "arrow", 1))
    place.archiver().step()
    assert place.offline.scan("dead.payments")["position"].to_pylist() == [0]
    assert place.offline.scan("captures.fraud").to_pylist() == [{"_request_id": "x", "_score": 0.5}]
    assert place.history.read("payments").num_rows == 0
    assert place.archiver().step().rows == 0


def test_what_is_too_little_for_a_file_waits_in_the_log(place):
    place.send(0, "a", "b")
    place.send(1, "c")
    left = place.archiver().step(least=4)
    assert (left.rows, left.lag, place.offline.snapshot("events.payments")) == (0, 3, None)
    assert place.history.read("payments")["id"].to_pylist() == ["a", "b", "c"]
    place.send(1, "d")
    assert place.archiver().step(least=4).rows == 4


IDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1), IDS), st.sampled_from(["archive", "restart", "hour", "back", "trim"])
    ), min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, rows=st.integers(1, 7))
def test_history_is_what_was_sent(tmp_path_factory, steps, rows):
    place = Place(tmp_path_factory.mktemp("place"))
    whole = EmbeddedLog(place.folder / "whole", place.clock, map_gib=1)
    whole.create("payments", 2)
    archiver = place.archiver(most=4)
    for step in steps:
        if isinstance(step, tuple):
            place.send(step[0], *step[1])
            found = place.log.read("payments", step[0], place.log.ends("payments")[step[0]][1] - 1, 1)
            whole.append("payments", step[0], Batch(found.payloads[0], found.encodings[0], int(found.counts[0])))
        elif step == "archive":
            archiver.step()
        elif step == "restart":
            archiver = place.archiver(most=4)
        elif step == "hour":
            place.clock.advance(40 * MINUTE)
        elif step == "back":
            place.clock.set(place.clock.now() - 90 * MINUTE)
        else:
            trim_consumed(place.log, PAYMENTS, [ARCHIVE], place.clock)
    place.log, kept = whole, place.log
    expected = place.everything()
    assert place.history.read("payments").equals(expected)
    found = pa.concat_tables([expected.slice(0, 0), *place.history.chunks("payments", rows=rows)])
    assert found.sort_by([("_partition", "ascending"), ("_position", "ascending")]).equals(expected)
    for users, since in (([0, 3], None), ([1], BASE + 40 * MINUTE), ([], None), ([0, 1, 2], BASE + 1)):
        wanted = [Wanted({"user_id": pa.array(users, pa.int64())}, since), Wanted({"id": pa.array(["f"])})]
        mask = pc.is_in(expected["user_id"], value_set=pa.array(users, pa.int64()))
        late = pc.greater_equal(expected["paid"].cast(pa.int64()), since or 0)
        mask = pc.or_(pc.and_(mask, late), pc.equal(expected["id"], "f"))
        assert place.history.select("payments", wanted).equals(expected.filter(mask))
    kept.close()
    whole.close()


WORKER = """
import sys
from pathlib import Path
from tests.commands import Program
from tests.unit.history.test_events import Place
place = Place(Path(sys.argv[1]))
archiver = place.archiver(most=200)
print("ready", flush=True)
while True:
    archiver.step()
"""


@pytest.mark.slow
def test_killed_anywhere_every_event_is_archived_once(tmp_path):
    place = Place(tmp_path)
    for number in range(8):
        worker = Program(WORKER, str(tmp_path))
        assert worker.stdout.readline() == "ready\n"
        for part in range(10):
            place.send(number % 2, *(f"{number}-{part}-{i}" for i in range(50)))
            time.sleep(0.003 * (number + 1))
        worker.kill()
    archiver = place.archiver()
    while archiver.step().lag:
        pass
    rows = place.offline.scan("events.payments")
    assert rows.num_rows == 4000
    assert len(set(rows["id"].to_pylist())) == 4000


TRIPS = {"user_id": "int64", "at": "timestamp", "seen": "timestamp", "tip": "int64", "note": "string"}
DECLARED = {
    "a column more": ms.EventStream("trips", time="at", schema={**TRIPS, "tax": "float64", "day": "timestamp"}),
    "a column less": ms.EventStream("trips", time="at", schema={"user_id": "int64", "at": "timestamp"}),
    "another time": ms.EventStream("trips", time="seen", schema=TRIPS),
    "a nearer future": ms.EventStream("trips", time="at", schema=TRIPS, future="1s"),
    "a wider type": ms.EventStream("trips", time="at", schema={**TRIPS, "tip": "float64"}),
    "another type": ms.EventStream("trips", time="at", schema={**TRIPS, "tip": "string", "note": "int64"}),
    "a type of no value": ms.EventStream("trips", time="at", schema={**TRIPS, "tip": "bool", "tax": "bool"}),
}


def trips(now):
    """Trips in every form, some of them with more than is declared, or with what another declaration refuses."""
    common = {"user_id": 1, "at": now - 5 * MINUTE, "seen": now, "tip": 5, "note": "7"}
    frame = pa.table({
        "user_id": [1, 2], "at": pa.array([now, now], pa.timestamp("us", "UTC")), "seen": [now, now + MINUTE],
        "tip": [1, None], "tax": [0.5, None], "day": pa.array([now, None], pa.timestamp("ns")),
    })  # fmt: skip
    return [
        common, {**common, "tax": 0.25, "day": "2026-01-01"}, {**common, "tax": None}, {**common, "tax": "none"},
        {**common, "at": now + 2 * MINUTE}, {**common, "seen": None}, {**common, "seen": now + 4 * MINUTE},
        {**common, "tax": 2, "more": {"deep": [1, 2]}}, {**common, "tax": 1e300, "day": 7},
    ], frame  # fmt: skip


@pytest.mark.parametrize("declared", DECLARED)
def test_what_history_reads_does_not_depend_on_what_the_archive_knew_of_the_stream(tmp_path, declared):
    before, after = ms.EventStream("trips", time="at", schema=TRIPS), DECLARED[declared]
    read = []
    for archived in ("never", "before", "between"):
        clock = SimulatedClock(BASE)
        log = EmbeddedLog(tmp_path / archived / "log", clock, map_gib=1)
        offline = IcebergOfflineStore(tmp_path / archived / "offline")
        log.create("trips", 1)
        rows, frame = trips(BASE)

        def send(stream, log=log, rows=rows, frame=frame):
            for batch in (*encode(stream, rows), *encode(stream, frame), *encode_history(stream, rows[:2])):
                log.append("trips", 0, batch)

        send(before)
        if archived != "never":
            Archiver(log, offline, [before], clock).step()
        send(after)
        if archived == "between":
            Archiver(log, offline, [after], clock).step()
            assert positions_of(offline.snapshot("events.trips").properties) == {0: log.ends("trips")[0][1]}
        history = History(log, offline, [after])
        read.append([history.read(one).drop_columns(["rest"]) for one in (after, before)])
        for stream, whole in zip((after, before), read[-1], strict=True):
            assert history.select(stream, [Wanted()]).drop_columns(["rest"]) == whole
            for column in stream.schema:
                some = Wanted({column: whole[column].combine_chunks().drop_null().unique()[:2]})
                mask = pc.is_in(whole[column], value_set=some.values[column])
                assert history.select(stream, [some]).drop_columns(["rest"]) == whole.filter(mask)
            times = whole[stream.time].cast(pa.int64())
            for since in {*times.to_pylist(), BASE + 7}:
                mask = pc.greater_equal(times, since)
                assert history.select(stream, [Wanted(since=since)]).drop_columns(["rest"]) == whole.filter(mask)
    assert read[1] == read[0]
    assert read[2] == read[0]
    assert read[0][0].num_rows >= 2
    assert read[0][1].num_rows > 5


def test_a_field_sent_before_its_column_was_declared_is_read_in_every_form(tmp_path):
    clock, log = SimulatedClock(BASE), EmbeddedLog(tmp_path / "log", SimulatedClock(BASE), map_gib=1)
    log.create("trips", 1)
    before, after = ms.EventStream("trips", time="at", schema=TRIPS), DECLARED["a column more"]
    rows, frame = trips(BASE)
    for batch in (*encode(before, rows[1:2]), *encode(before, frame), *encode_history(before, rows[1:2])):
        log.append("trips", 0, batch)
    history = History(log, IcebergOfflineStore(tmp_path / "offline"), [after])
    assert history.read("trips")["tax"].to_pylist() == [0.25, 0.5, None, 0.25]
    assert history.read("trips")["rest"].null_count == 4
    Archiver(log, IcebergOfflineStore(tmp_path / "offline"), [before], clock).step()
    assert history.read("trips")["tax"].to_pylist() == [0.25, 0.5, None, 0.25]
    assert history.read("trips")["rest"].null_count == 4
