"""Rows in, typed events and dead letters out."""

import decimal
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.buffer.codec.events import (
    DeadLetter,
    Decoded,
    dead_batches,
    dead_letters,
    decode,
    encode,
    encode_history,
    encode_lines,
    event_schema,
    partition_of,
)
from millstream.buffer.log import Batch, Records
from millstream.definitions.source import EventStream
from millstream.errors import LogError

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z
STREAM = EventStream(
    "payments",
    time="at",
    deduplicate="id",
    schema={"id": "string", "user_id": "int64", "amount": "float64", "ok": "bool", "at": "timestamp"},
)
BROKEN = pa.StringArray.from_buffers(3, pa.array([0, 1, 2, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff!"))
GOOD = {"id": "p1", "user_id": 1, "amount": 2.5, "ok": True, "at": "2024-05-01T12:00:00Z"}


def records(batches: list[Batch], position: int = 0, partition: int = 0, skip: int = 0) -> list[Records]:
    found = []
    for batch in batches:
        places = np.arange(position, position + batch.count)
        found.append(
            replace(Records.of("payments", partition, batch, places, NOON), positions=places[skip:], skip=skip)
        )
        position, skip = position + batch.count, 0
    return found


def decode_lines(*lines: str | bytes) -> Decoded:
    payload = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return decode(STREAM, records([Batch(payload, "json", len(lines))]))


def decode_rows(rows) -> Decoded:
    return decode(STREAM, records(encode(STREAM, rows)))


def line(**changes) -> str:
    return json.dumps(GOOD | changes)


def test_events_come_out_typed_with_their_place():
    decoded = decode(STREAM, records(encode(STREAM, [GOOD, GOOD | {"id": "p2"}]), position=40, partition=3))
    assert decoded.dead == []
    assert decoded.table.schema == event_schema(STREAM)
    assert decoded.table.to_pylist()[1] == {
        "id": "p2",
        "user_id": 1,
        "amount": 2.5,
        "ok": True,
        "at": datetime(2024, 5, 1, 12, tzinfo=UTC),
        "rest": None,
        "_partition": 3,
        "_position": 41,
        "_arrival": NOON,
        "_appended": NOON,
    }


def test_no_records_are_an_empty_table_of_the_same_columns():
    assert decode(STREAM, []).table.equals(event_schema(STREAM).empty_table())
    assert encode(STREAM, []) == []


def test_absent_and_null_fields_are_null():
    (row,) = decode_lines('{"at": "2024-05-01T12:00:00Z", "amount": null}').table.to_pylist()
    assert row["id"] is row["user_id"] is row["amount"] is row["ok"] is None


def test_unknown_fields_are_kept_as_json_in_rest():
    decoded = decode_lines(line(), line(extra=1.50, nested={"a": [1, None]}), line(id="p3"))
    assert decoded.dead == []
    rests = decoded.table["rest"].to_pylist()
    assert rests[0] is None and rests[2] is None
    assert json.loads(rests[1]) == {"extra": 1.5, "nested": {"a": [1, None]}}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (line(user_id="12"), "user_id"),
        (line(user_id=1.5), "user_id"),
        (line(user_id=True), "user_id"),
        (line(user_id=2**63), "user_id"),
        (line(at=1_714_564_800), "seconds since the epoch"),
        (line(at=1_714_564_800_000), "milliseconds since the epoch"),
        (line(at=1_714_564_800_000_000_000), "nanoseconds since the epoch"),
        (line(id=5), "id"),
        (line(amount="2.5"), "amount"),
        (line(amount=True), "amount"),
        (line(amount={"value": 1}), "amount"),
        (line(ok=1), "ok"),
        (line(ok="true"), "ok"),
        (line(at=None), "No event time"),
        (line(at="2024-05-01T12:06:00Z"), "Too far in the future"),
        (line(at=2**62), "years 1 to 9999"),
        (line(at="0000-12-31T23:59:59Z"), "years 1 to 9999"),
        (line(at=-62_135_596_800_000_001), "years 1 to 9999"),
        (line(at="yesterday"), "at"),
        (line(at="2024-02-30T12:00:00Z"), "at"),
        (line(at="2024-05-01T25:00:00Z"), "at"),
        (line(at=1.5), "at"),
        (line(at=True), "at"),
        ('{"id": "p1"}', "No event time"),
        ('{"id": "p1", ', "Not a JSON object"),
        ("null", "Expected `object`"),
        ("[1]", "Expected `object`"),
        ("5", "Expected `object`"),
        ("", "Not a JSON object"),
        (line() + line(), "Not a JSON object"),
        (line().replace("p1", "\\ud800"), "Not a JSON object"),
        (line(user_id=float("nan"), id="\ud800"), "Not a JSON object"),
        (line().encode().replace(b"p1", b"\xff"), "Not a JSON object"),
        ("[" * 100_000, ""),
    ],
)
def test_what_does_not_fit_is_a_dead_letter_and_the_rest_goes_on(wrong, reason):
    decoded = decode_lines(line(id="before"), wrong, line(id="after"))
    assert decoded.table["id"].to_pylist() == ["before", "after"]
    assert decoded.table["_position"].to_pylist() == [0, 2]
    (letter,) = decoded.dead
    assert (letter.stream, letter.partition, letter.position, letter.arrival) == ("payments", 0, 1, NOON)
    assert reason in letter.reason
    quoted = wrong if isinstance(wrong, str) else wrong.decode(errors="replace")
    assert letter.payload == quoted


def test_an_integer_is_a_float_and_nan_is_a_null_float():
    decoded = decode_lines(line(amount=3), line(amount=float("nan")), line(amount=float("nan"), extra=1))
    assert decoded.dead == []
    assert decoded.table["amount"].to_pylist() == [3.0, None, None]


@pytest.mark.parametrize(
    "written",
    [
        "2024-05-01T12:00:00Z",
        "2024-05-01T14:00:00+02:00",
        "2024-05-01T05:00:00-0700",
        "2024-05-01 12:00:00",
        "2024-05-01T12:00",
        "2024-05-01T12:00:00.000Z",
        "2024-05-01T12:00:00.000000",
        "2024-05-01T12:00:00.000000999Z",
        NOON,
    ],
)
def test_an_instant_may_be_written_in_several_ways(written):
    assert decode_lines(line(at=written)).table["at"].cast("int64").to_pylist() == [NOON]
    mixed = decode_lines(
        line(at=NOON), line(at=written), line(at="2024-05-01T12:00:00Z"), line(at="2024-05-01T12:00:00")
    )
    assert mixed.dead == []
    assert mixed.table["at"].cast("int64").to_pylist() == [NOON] * 4


def test_a_clock_ahead_by_no_more_than_the_bound_is_accepted():
    assert len(decode_lines(line(at="2024-05-01T12:05:00Z")).table) == 1
    assert len(decode_lines(line(at=NOON + 300_000_001)).dead) == 1


ODD = [
    line(),
    line(id="p2", at=NOON),
    line(at="2024-05-01"),
    line(extra=1),
    line(amount=float("nan")),
    line(amount=float("nan"), extra=2),
    line(user_id="x"),
    line(at="2024-02-30"),
    line(at="2024-05-01T12:00:00.123456789"),
    line(at=None),
    line(at=NOON * 2),
    "null",
    "{} {}",
    "{",
    "",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(ODD), min_size=1, max_size=12), st.integers(0, 11))
def test_what_becomes_of_an_event_does_not_depend_on_its_batch(lines, skip):
    skip = min(skip, len(lines) - 1)
    batch = Batch("\n".join(lines).encode(), "json", len(lines))
    together = decode(STREAM, records([batch], skip=skip))
    alone = decode(STREAM, [])
    tables, dead = [alone.table], []
    for position in range(skip, len(lines)):
        one = decode(STREAM, records([Batch(lines[position].encode(), "json", 1)], position=position))
        tables.append(one.table)
        dead += one.dead
    assert together.table.equals(pa.concat_tables(tables).combine_chunks())
    assert together.dead == dead


def test_small_batches_of_both_encodings_come_out_in_order():
    frame = pa.table({"id": ["b", "c"], "at": pa.array([NOON, NOON], pa.timestamp("us", tz="UTC"))})
    batches = [*encode(STREAM, [GOOD]), *encode(STREAM, frame), *encode_lines(b'{"bad"\n' + line(id="d").encode())]
    decoded = decode(STREAM, records(batches))
    assert decoded.table["id"].to_pylist() == ["p1", "b", "c", "d"]
    assert decoded.table["_position"].to_pylist() == [0, 1, 2, 4]
    assert [letter.position for letter in decoded.dead] == [3]


def frame_of(kind: str, number: int) -> pa.Table:
    """Three rows of a frame, the second of which has no time that can be; `number` tells frames apart."""
    at = pa.array([NOON, NOON * 2 if number % 2 else None, NOON], pa.timestamp("us", tz="UTC"))
    ids = pa.array([f"{number}a", f"{number}b", f"{number}c"])
    columns: dict[str, pa.Array] = {
        "plain": ids, "categories": ids.dictionary_encode(), "twice": ids, "unknown": ids, "wrong": pa.array([1, 2, 3])
    }  # fmt: skip
    table = pa.table({"id": columns[kind], "at": at})
    if kind == "twice":
        return pa.Table.from_arrays([ids, ids, at], names=["id", "id", "at"])
    return table.append_column("other", pa.array([number, None, -1])) if kind == "unknown" else table


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["plain", "plain", "categories", "twice", "unknown", "wrong"]), min_size=1, max_size=8),
    st.integers(0, 2),
)
def test_what_becomes_of_a_row_of_a_frame_does_not_depend_on_the_frames_beside_it(kinds, skip):
    batches = []
    for number, kind in enumerate(kinds):
        table, out = frame_of(kind, number), pa.BufferOutputStream()
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
        batches.append(Batch(out.getvalue().to_pybytes(), "arrow", len(table)))
    given_at_once = records(batches, skip=skip)
    together, alone = decode(STREAM, given_at_once), [decode(STREAM, [one]) for one in given_at_once]
    assert together.table.equals(pa.concat_tables([one.table for one in alone]).combine_chunks())
    assert together.dead == [letter for one in alone for letter in one.dead]


def test_a_payload_with_another_number_of_lines_than_it_says_is_dead_as_a_whole():
    decoded = decode(STREAM, records([Batch(line().encode() + b"\n" + line().encode(), "json", 3)]))
    assert len(decoded.table) == 0
    assert [letter.position for letter in decoded.dead] == [0, 1, 2]


def test_opaque_records_are_not_events():
    with pytest.raises(LogError, match="encoded as 'bytes'"):
        decode(STREAM, records([Batch(b"x", "bytes", 1)]))
    with pytest.raises(LogError, match="not Arrow"):
        decode(STREAM, records([Batch(b"x", "arrow", 1)]))


def test_values_of_numpy_pandas_and_decimal_are_taken_as_what_they_say():
    pandas = pytest.importorskip("pandas")
    rows = [
        GOOD | {"user_id": np.int64(7), "amount": np.float32(0.5), "ok": np.bool_(False), "id": np.str_("q")},
        GOOD | {"at": pandas.Timestamp("2024-05-01T12:00:00.000000001Z"), "amount": decimal.Decimal("1.25")},
        GOOD | {"at": np.datetime64(NOON, "us"), "amount": np.float64("nan"), "user_id": pandas.NA},
        GOOD | {"at": datetime(2024, 5, 1, 12), "user_id": None, "amount": float("inf")},
    ]
    decoded = decode_rows(rows)
    assert decoded.dead == []
    assert decoded.table["user_id"].to_pylist() == [7, 1, None, None]
    assert decoded.table["amount"].to_pylist() == [0.5, 1.25, None, None]
    assert decoded.table["at"].cast("int64").to_pylist() == [NOON] * 4


def test_a_wrong_value_in_a_dict_lives_on_to_be_a_dead_letter():
    rows = [
        GOOD,
        GOOD | {"user_id": b"7"},
        GOOD | {"id": object()},
        "no event",
        {1: 2},
        GOOD | {"id": "\ud800"},
        GOOD,
    ]
    decoded = decode_rows(rows)
    assert decoded.table["_position"].to_pylist() == [0, 6]
    assert [letter.position for letter in decoded.dead] == [1, 2, 3, 4, 5]
    assert "b'7'" in decoded.dead[0].payload


def test_large_inputs_are_cut_into_batches():
    assert [batch.count for batch in encode(STREAM, [GOOD] * 120_000, None)] == [50_000, 50_000, 20_000]
    assert [batch.count for batch in encode(STREAM, pa.table({"id": ["x"] * 60_000}))] == [50_000, 10_000]
    assert [batch.count for batch in encode_lines(b"\n\n".join([b"{}"] * 50_001))] == [50_000, 1]


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars", "dicts"])
def test_every_form_of_rows_gives_the_same_events(kind):
    rows = [GOOD, GOOD | {"id": "p2", "amount": None, "user_id": -5, "at": "2024-05-01T11:59:59.123456Z"}]
    table = pa.Table.from_pylist([row | {"at": datetime.fromisoformat(row["at"])} for row in rows])
    forms = {
        "arrow": lambda: table,
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(table.to_pandas()),
        "polars": lambda: pytest.importorskip("polars").from_arrow(table),
        "dicts": lambda: rows,
    }
    decoded = decode_rows(forms[kind]())
    assert decoded.dead == []
    assert decoded.table.equals(decode_rows(table).table)


def test_frames_of_related_types_are_brought_to_the_schema():
    table = pa.table(
        {
            "id": pa.array(["a", "b", None]).dictionary_encode(),
            "user_id": pa.array([1.0, None, 3.0]),
            "amount": pa.array([1, 2, 3], pa.int16()),
            "ok": pa.nulls(3),
            "at": pa.array([NOON // 1_000_000] * 3, pa.timestamp("s")),
            "shop": pa.array([1, None, None]),
        }
    )
    decoded = decode_rows(table)
    assert decoded.dead == []
    assert decoded.table.schema == event_schema(STREAM)
    assert decoded.table["id"].to_pylist() == ["a", "b", None]
    assert decoded.table["user_id"].to_pylist() == [1, None, 3]
    assert decoded.table["amount"].to_pylist() == [1.0, 2.0, 3.0]
    assert decoded.table["at"].cast("int64").to_pylist() == [NOON] * 3
    assert decoded.table["rest"].to_pylist() == ['{"shop":1}', None, None]


@pytest.mark.parametrize(
    ("column", "values", "wrong"),
    [
        ("user_id", pa.array([1.5, 2.0, None]), [0]),
        ("user_id", pa.array([float("nan"), 2.0**63, 5.0]), [1]),
        ("user_id", pa.array([2**63, 2, None], pa.uint64()), [0]),
        ("user_id", pa.array(["1", None, "x"]), [0, 2]),
        ("user_id", pa.array([True, None, None]), [0]),
        ("amount", pa.array(["1", None, None]), [0]),
        ("ok", pa.array([1, None, 0]), [0, 2]),
        ("id", pa.array([1, 2, None]), [0, 1]),
        ("id", BROKEN, [0]),
        ("id", BROKEN.cast(pa.binary()).cast(pa.large_binary()).view(pa.large_string()), [0]),
        ("at", pa.array(["2024-05-01", "x", "2024-05-01T12:00:00Z"]), [1]),
        ("at", pa.array([1.5, float(NOON), 3.0]), [0]),
        ("at", pa.array([NOON // 1_000_000, NOON // 1_000, NOON]), [0, 1]),
        ("at", pa.array([2**62, NOON, -(2**62)]), [0, 2]),
        ("at", pa.array([2**62, NOON, 1], pa.timestamp("us", "UTC")), [0]),
        ("at", pa.array([2**62, NOON // 1_000_000, -1], pa.timestamp("s")), [0]),
        ("at", pa.array([3_000_000, 19_000, -1], pa.date32()), [0]),
    ],
)
def test_wrong_values_in_a_frame_are_dead_letters_row_by_row(column, values, wrong):
    table = pa.table({"at": pa.array([NOON] * 3), "id": ["a", "b", "c"]})
    table = table.drop([column] if column in table.column_names else []).append_column(column, values)
    decoded = decode_rows(table)
    assert [letter.position for letter in decoded.dead] == wrong
    assert all(f"'{column}'" in letter.reason and json.loads(letter.payload) for letter in decoded.dead)
    assert decoded.table["_position"].to_pylist() == [row for row in range(3) if row not in wrong]


ANY_TYPE = st.sampled_from(
    [
        pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.date32(), pa.date64(),
        pa.time32("s"), pa.time64("ns"), pa.duration("us"), pa.timestamp("s"), pa.timestamp("ms", "Europe/Berlin"),
        pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.month_day_nano_interval(), pa.decimal128(20, 3),
        pa.binary(2), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.list_(pa.int16()),
        pa.struct([("a", pa.timestamp("us"))]), pa.dictionary(pa.int8(), pa.string()),
    ]
)  # fmt: skip


@st.composite
def any_column(draw, rows):
    """An Arrow column of any type, from random bytes: whatever a producer may send."""
    kind = draw(ANY_TYPE)
    if pa.types.is_dictionary(kind):
        return any_text(draw, rows, pa.string()).dictionary_encode()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return any_text(draw, rows, kind)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.array(["x", None, "é"][:rows] * 1, kind) if rows <= 3 else pa.nulls(rows, kind)
    if pa.types.is_nested(kind):
        inner = pa.array([2**62] * rows, pa.timestamp("us"))
        return pa.StructArray.from_arrays([inner], ["a"]) if pa.types.is_struct(kind) else pa.array([[1]] * rows, kind)
    size = (rows * kind.bit_width + 7) // 8
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(draw(st.binary(min_size=size, max_size=size)))])


def any_text(draw, rows, kind):
    texts = [draw(st.binary(max_size=3)) for _ in range(rows)]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(b"".join(texts))])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_nothing_that_a_frame_can_hold_stops_the_stream(data):
    rows = data.draw(st.integers(1, 3))
    names = data.draw(st.lists(st.sampled_from([*STREAM.schema, "more"]), min_size=1, unique=True))
    table = pa.table({name: data.draw(any_column(rows)) for name in names})
    decoded = decode_rows(table)
    assert len(decoded.table) + len(decoded.dead) == rows
    decoded.table.validate(full=True)
    decoded.table.to_pylist()


@pytest.mark.parametrize("name", ["user_id", "at", "id", "unknown"])
def test_two_columns_of_one_name_are_refused_and_stop_no_stream(name):
    frame = pa.table([[1], [NOON], [1]], names=["amount", "at", name]).append_column(name, pa.array([2]))
    for taken in (encode, encode_history, lambda stream, rows: partition_of(stream, rows, 3)):
        with pytest.raises(LogError, match=f"two columns named '{name}'"):
            taken(STREAM, frame)
    sink = pa.BufferOutputStream()  # as a foreign producer writes it
    with pa.ipc.new_stream(sink, frame.schema) as writer:
        writer.write_table(frame)
    (letter,) = decode(STREAM, records([Batch(sink.getvalue().to_pybytes(), "arrow", 1)])).dead
    assert letter.reason == f"Two columns are named '{name}'."
    assert letter.payload.count(f'"{name}":') == frame.column_names.count(name)


def test_two_columns_of_one_name_in_a_pandas_frame_are_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(LogError, match="two columns named 'at'"):
        encode(STREAM, pandas.DataFrame([[NOON, NOON]], columns=["at", "at"]))


class _Silent:
    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("value", [{_Silent(): 1}, {object(): {object(): 1}}, 10**5000, "\ud800"], ids=type)
def test_what_json_cannot_say_at_all_becomes_a_dead_letter(value):
    decoded = decode_rows([GOOD, GOOD | {"more": value}, GOOD])
    assert decoded.table["id"].to_pylist() == ["p1", "p1"]
    assert [letter.position for letter in decoded.dead] == [1]


def test_an_unknown_value_that_cannot_show_itself_is_kept_as_such():
    (row,) = decode_rows([GOOD | {"more": _Silent()}]).table.to_pylist()
    assert "a _Silent that cannot be shown: no words" in row["rest"]


def test_unknown_values_that_python_has_no_word_for_are_kept_as_text():
    beyond = pa.array([2**62, None], pa.timestamp("us", "UTC"))
    table = pa.table({"at": pa.array([NOON] * 2), "id": ["a", "b"], "born": beyond})
    assert decode_rows(table).table["rest"].to_pylist() == [json.dumps({"born": str(2**62)}).replace(" ", ""), None]
    kept = decode_rows(table.drop(["born"]).append_column("name", BROKEN[:2])).table["rest"].to_pylist()
    assert "name" in json.loads(kept[0])
    assert json.loads(kept[1]) == {"name": "!"}


def test_nan_in_a_float_column_of_a_frame_is_null():
    table = pa.table({"at": pa.array([NOON] * 3), "amount": pa.array([float("nan"), None, 1.0])})
    assert decode_rows(table).table["amount"].to_pylist() == [None, None, 1.0]


def test_a_pandas_frame_of_mixed_objects_is_taken_row_by_row():
    pandas = pytest.importorskip("pandas")
    decoded = decode_rows(pandas.DataFrame({"at": [NOON] * 3, "id": ["a", 5, "c"]}))
    assert [letter.position for letter in decoded.dead] == [1]


def test_what_are_no_rows_is_refused():
    for rows in ("text", 5, b"bytes", object(), {"id", "at"}):
        with pytest.raises(LogError, match="expected dicts or a data frame"):
            encode(STREAM, rows)
    with pytest.raises(LogError, match="dict of columns"):
        encode(STREAM, {"id": ["p1", "p2"], "at": [NOON, NOON]})


LATE = EventStream(
    "disputes",
    time="at",
    available="decided_at",
    delay="1h",
    schema={"id": "string", "at": "timestamp", "decided_at": "timestamp"},
)


@pytest.mark.parametrize("frame", [False, True])
def test_loaded_history_arrives_when_it_was_declared_to(frame):
    rows = [
        {"id": "a", "at": "2020-01-01T00:00:00Z", "decided_at": "2020-02-01T00:00:00Z"},
        {"id": "b", "at": "2020-01-01T00:00:00Z", "decided_at": None},
    ]
    given_rows = pa.Table.from_pylist(rows) if frame else rows
    table = decode(LATE, records(encode_history(LATE, given_rows))).table
    assert table["_arrival"].to_pylist() == [1_580_515_200_000_000, 1_577_836_800_000_000 + 3_600_000_000]
    assert table["_appended"].to_pylist() == [NOON, NOON]


def test_wrong_rows_of_history_become_dead_letters_too():
    rows = [GOOD | {"rating": 5}, GOOD | {"user_id": "x"}, GOOD | {"at": None}, GOOD]
    decoded = decode(STREAM, records(encode_history(STREAM, rows)))
    assert decoded.table["id"].to_pylist() == ["p1", "p1"]
    assert decoded.table["rest"].to_pylist() == ['{"rating":5}', None]
    assert decoded.table["_arrival"].to_pylist() == [NOON, NOON]
    assert sorted(letter.reason[:8] for letter in decoded.dead) == ["No event", "Wrong ty"]


@pytest.mark.parametrize("declared", ["x", 1.5, None, True, datetime(2024, 5, 1, tzinfo=UTC)], ids=repr)
def test_a_declared_arrival_that_is_no_whole_number_is_refused_and_stops_no_stream(declared):
    frame = pa.table({"at": pa.array([NOON]), "_arrival": pa.array([declared])})
    with pytest.raises(LogError, match="expected int64, microseconds"):
        encode_history(STREAM, frame)
    sink = pa.BufferOutputStream()  # as a foreign producer writes it
    with pa.ipc.new_stream(sink, frame.schema) as writer:
        writer.write_table(frame)
    decoded = decode(STREAM, records([Batch(sink.getvalue().to_pybytes(), "arrow", 1)]))
    assert [letter.reason[:28] for letter in decoded.dead] == ["Wrong type: column '_arrival"][: declared is not None]


def test_history_cannot_arrive_after_it_was_loaded():
    minutes = 60_000_000
    arrivals = [NOON, NOON + 5 * minutes, NOON + 5 * minutes + 1, 2**62, None]
    frame = pa.table({"at": pa.array([NOON] * 5), "_arrival": pa.array(arrivals)})
    decoded = decode(STREAM, records(encode_history(STREAM, frame)))
    assert decoded.table["_arrival"].to_pylist() == [NOON, NOON + 5 * minutes, NOON]
    assert [(letter.position, letter.arrival) for letter in decoded.dead] == [(2, NOON), (3, NOON)]
    assert all("declared arrival" in letter.reason for letter in decoded.dead)


def test_only_history_may_declare_its_arrival():
    frame = pa.table({"at": pa.array([NOON]), "_arrival": pa.array([5])})
    with pytest.raises(LogError, match="_arrival"):
        encode(STREAM, frame)
    assert decode(STREAM, records(encode_history(STREAM, frame))).dead[0].arrival == 5
    (row,) = decode_lines(line(_arrival=5)).table.to_pylist()
    assert row["_arrival"] == NOON


def test_equal_keys_meet_in_one_partition_whatever_the_form():
    rows = [GOOD | {"id": f"p{n}"} for n in range(200)] + [GOOD | {"id": None}]
    dicts = partition_of(STREAM, rows, 4)
    frame = partition_of(STREAM, pa.Table.from_pylist(rows), 4)
    assert [partition for partition, _ in dicts] == [0, 1, 2, 3]
    for (one, of_dicts), (other, of_frame) in zip(dicts, frame, strict=True):
        assert one == other
        assert [row["id"] for row in of_dicts] == of_frame["id"].to_pylist()
    users = EventStream("u", time="at", partition_by="user_id", schema={"user_id": "int64", "at": "timestamp"})
    numbers = [{"user_id": n, "at": NOON} for n in range(-50, 50)]
    of_dicts = {row["user_id"]: p for p, part in partition_of(users, numbers, 3) for row in part}
    of_frame = {
        n: p for p, part in partition_of(users, pa.Table.from_pylist(numbers), 3) for n in part["user_id"].to_pylist()
    }
    assert of_dicts == of_frame and len(of_dicts) == 100


def test_rows_without_a_partition_key_take_partitions_in_turn():
    stream = EventStream("clicks", time="at", schema={"at": "timestamp"})
    taken = [partition_of(stream, [{"at": NOON}], 3)[0][0] for _ in range(6)]
    assert sorted(taken) == [0, 0, 1, 1, 2, 2]
    assert partition_of(stream, [], 3) == []


def test_dead_letters_are_read_back_as_they_were():
    letters = [DeadLetter("payments", 1, 5, "because", 'pay"load\n', NOON), DeadLetter("payments", 0, 6, "ü", "", 0)]
    assert dead_letters(records(dead_batches(letters))) == letters
    assert dead_letters(records(dead_batches(letters), skip=1)) == letters[1:]


@pytest.mark.parametrize("declared", [-1, 0, -(10**15)])
def test_history_may_have_arrived_before_1970(declared):
    frame = pa.table({"at": pa.array([declared]), "_arrival": pa.array([declared])})
    assert decode(STREAM, records(encode_history(STREAM, frame))).table["_arrival"].to_pylist() == [declared]
