"""Repeats: the rule over a history, and the index that applies it to a log."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.buffer.codec.events import decode, encode_lines
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.repeats import RepeatIndex, mark, repeats
from millstream.clock import SimulatedClock
from millstream.definitions.source import EventStream

STREAM = EventStream(
    "clicks", time="at", deduplicate="id", within="10s", schema={"id": "string", "at": "timestamp"}, future="1000d"
)
SECOND = 1_000_000
START = 1_000 * SECOND


def oracle(table) -> list[bool]:
    """The rule, word by word."""
    rows = table.to_pylist()
    return [
        any(
            row["id"] is not None
            and earlier["id"] == row["id"]
            and earlier["_partition"] == row["_partition"]
            and earlier["_position"] < row["_position"]
            and row["_appended"] - earlier["_appended"] <= STREAM.within
            for earlier in rows
        )
        for row in rows
    ]


def append(log: EmbeddedLog, partition: int, ids: list[str | None]) -> None:
    lines = b"\n".join(
        b'{"at":0}' if i is None else b'{"at":0,"id":"%s"}' % i.encode() if i else b"broken" for i in ids
    )
    for batch in encode_lines(lines):
        log.append("clicks", partition, batch)


def history(log: EmbeddedLog):
    return decode(STREAM, [log.read("clicks", partition, 0, 10**9) for partition in (0, 1)]).table


def whole(log: EmbeddedLog):
    """From where to where `history` reads each partition."""
    return {partition: (0, end) for partition, (_, end) in enumerate(log.ends("clicks"))}


def marked_from(log: EmbeddedLog, position: int, limit: int, index: RepeatIndex, stream=STREAM, partition: int = 0):
    """Which of the events that one read gives are repeats."""
    found = log.read("clicks", partition, position, limit)
    return mark(decode(stream, [found]).table, stream, index, {partition: (position, found.next)})


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(0)


@pytest.fixture
def log(tmp_path: Path, clock: SimulatedClock):
    log = EmbeddedLog(tmp_path / "log", clock, map_gib=1)
    log.create("clicks", 2)
    yield log
    log.close()


# The empty id makes a line that is not JSON: a dead letter, which no later event repeats.
steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 12), st.integers(-30, 30)),  # the clock may be set back
        st.integers(0, 1),
        st.lists(st.sampled_from(["a", "b", "c", "d" * 300, "", None]), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, data=st.data())
def test_index_history_and_rule_agree_however_the_log_is_read(tmp_path_factory, steps, data):
    folder = tmp_path_factory.mktemp("repeats")
    clock = SimulatedClock(START)
    log = EmbeddedLog(folder / "log", clock, map_gib=0.1)
    log.create("clicks", 2)
    for wait, partition, ids in steps:
        clock.set(clock.now() + wait * SECOND)
        append(log, partition, ids)
    table = history(log)
    expected = oracle(table)
    assert repeats(table, STREAM).tolist() == expected
    of = {(row["_partition"], row["_position"]): flag for row, flag in zip(table.to_pylist(), expected, strict=True)}
    index = RepeatIndex(folder / "index", log, map_gib=0.1)
    for _ in range(data.draw(st.integers(1, 8), label="reads")):
        partition = data.draw(st.integers(0, 1), label="partition")
        position = data.draw(st.integers(0, max(0, log.ends("clicks")[partition][1] - 1)), label="position")
        limit = data.draw(st.integers(1, 12), label="limit")
        if data.draw(st.booleans(), label="reopen"):
            index.close()
            index = RepeatIndex(folder / "index", log, map_gib=0.1)
        part = decode(STREAM, [log.read("clicks", partition, position, limit)]).table
        marked = marked_from(log, position, limit, index, partition=partition)
        assert marked.tolist() == [of[row["_partition"], row["_position"]] for row in part.to_pylist()]
    index.close()
    log.close()


def test_a_repeat_of_a_repeat_is_a_repeat_though_the_first_is_out_of_reach(log, clock, tmp_path):
    for _ in range(3):
        append(log, 0, ["a"])
        clock.advance(8 * SECOND)
    clock.advance(10 * SECOND)
    append(log, 0, ["a"])
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    assert mark(history(log), STREAM, index, whole(log)).tolist() == [False, True, True, False]


def test_the_same_id_in_another_partition_is_no_repeat(log, tmp_path):
    append(log, 0, ["a", None, None])
    append(log, 1, ["a", "a"])
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    assert mark(history(log), STREAM, index, whole(log)).tolist() == [False, False, False, False, True]


def test_marking_again_gives_the_same_answer(log, tmp_path):
    append(log, 0, ["a", "b", "a"])
    append(log, 0, ["b", "c"])
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    first = mark(history(log), STREAM, index, whole(log))
    assert first.tolist() == mark(history(log), STREAM, index, whole(log)).tolist() == [False, False, True, True, False]


def test_repeats_of_another_column_have_an_index_of_their_own(log, tmp_path):
    schema = {"id": "string", "other": "string", "at": "timestamp"}
    by_other = EventStream("clicks", time="at", deduplicate="other", within="10s", schema=schema)
    lines = b'{"at":0,"id":"a","other":"x"}\n{"at":0,"id":"b","other":"x"}\n{"at":0,"id":"b","other":"y"}'
    for batch in encode_lines(lines):
        log.append("clicks", 0, batch)
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    assert mark(history(log), STREAM, index, whole(log)).tolist() == [False, False, True]
    assert marked_from(log, 1, 10, index, by_other).tolist() == [True, False]


def test_a_lost_index_is_made_again_from_the_log(log, clock, tmp_path):
    append(log, 0, ["a", "b"])
    clock.advance(9 * SECOND)
    append(log, 0, ["a", "x"])
    clock.advance(9 * SECOND)
    append(log, 0, ["a", "b", "x"])
    index = RepeatIndex(tmp_path / "new", log, map_gib=1)
    assert marked_from(log, 4, 10, index).tolist() == [True, False, True]


def test_without_deduplicate_nothing_is_a_repeat(log, tmp_path):
    append(log, 0, ["a", "a"])
    stream = EventStream("clicks", time="at", schema={"id": "string", "at": "timestamp"})
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    assert not mark(history(log), stream, index, whole(log)).any()
    assert not repeats(history(log), stream).any()


def test_the_index_forgets_what_can_no_longer_be_repeated(log, clock, tmp_path):
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    position = 0
    for number in range(60):
        append(log, 0, [f"{number}-{n}" for n in range(50)])
        marked_from(log, position, 50, index)
        position += 50
        clock.advance(SECOND)
    with index._env.begin() as rows:
        kept = rows.stat()["entries"]
    assert 10 * 50 <= kept <= 28 * 50


def test_an_id_that_never_stops_takes_no_more_room_with_time(log, clock, tmp_path):
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    position, sizes = 0, []
    for _ in range(120):
        append(log, 0, ["none"] * 40)
        marked_from(log, position, 40, index)
        position += 40
        clock.advance(SECOND)
        with index._env.begin() as rows:
            sizes.append(sum(len(value) for key, value in rows.cursor() if bytes(key).startswith(b"i")))
    assert max(sizes) <= 16 * 12, "the position and the time of about two occurrences for each of a few spans"
    assert marked_from(log, position - 400, 400, index).all()


def test_numbers_are_ids_as_well(log, tmp_path):
    stream = EventStream(
        "clicks", time="at", deduplicate="id", schema={"id": "int64", "at": "timestamp"}, future="1000d"
    )
    for batch in encode_lines(b'{"at":0,"id":5}\n{"at":0,"id":-5}\n{"at":0,"id":5}'):
        log.append("clicks", 0, batch)
    table = decode(stream, [log.read("clicks", 0, 0, 9)]).table
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    assert mark(table, stream, index, whole(log)).tolist() == [False, False, True]
    assert np.array_equal(repeats(table, stream), [False, False, True])


def test_an_index_behind_a_trimmed_log_goes_on_from_where_the_log_begins(tmp_path, log, clock):
    index = RepeatIndex(tmp_path / "index", log)
    append(log, 0, ["a", "b"])
    assert marked_from(log, 0, 10, index).tolist() == [False, False]
    append(log, 0, ["c"])
    clock.advance(60 * SECOND)
    append(log, 0, ["a", "d", "a"])
    log.trim("clicks", 0, 3)
    assert marked_from(log, 3, 10, index).tolist() == [False, False, True]


@pytest.mark.parametrize("open_meanwhile", [False, True])
def test_a_damaged_index_is_begun_anew_from_the_log(log: EmbeddedLog, tmp_path: Path, open_meanwhile: bool):
    append(log, 0, [f"id-{number}" for number in range(2_000)])
    index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    mark(history(log), STREAM, index, whole(log))
    (data,) = (tmp_path / "index").glob("*/data.mdb")
    if not open_meanwhile:
        index.close()
    content = bytearray(data.read_bytes())
    for page in range(2 if open_meanwhile else 0, len(content) // 4096):
        content[page * 4096 + 10 : page * 4096 + 12] = b"\x08\x00"  # no page but the first two is of this kind
        if page < 2:
            content[page * 4096 + 16] ^= 1
    data.write_bytes(content)
    if not open_meanwhile:
        index = RepeatIndex(tmp_path / "index", log, map_gib=1)
    append(log, 0, ["id-7", "new"])
    assert marked_from(log, 2_000, 9, index).tolist() == [True, False]
    index.close()
