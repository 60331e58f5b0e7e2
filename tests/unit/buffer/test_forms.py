"""A row decides the same in whatever form it comes: dicts, JSON, Arrow of any encoding, pandas, Polars, NumPy."""

import json
import math
import warnings
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from millstream.buffer.codec.events import decode, encode, encode_history, encode_lines, partition_of
from millstream.buffer.codec.frames import check_columns, taken
from millstream.buffer.log import Records
from millstream.definitions.source import EventStream
from millstream.errors import LogError

NOON = 1_714_564_800_000_000
SCHEMA = {"n": "int64", "x": "float64", "s": "string", "b": "bool", "t": "timestamp", "at": "timestamp"}
STREAM = EventStream("events", time="at", schema=SCHEMA)
AT = "2024-05-01T12:00:00Z"


def decided(batches, stream=STREAM):
    """What becomes of each row: its values, or the reason of its dead letter."""
    records, position = [], 0
    for batch in batches:
        records.append(Records.of(stream.name, 0, batch, np.arange(position, position + batch.count), NOON))
        position += batch.count
    found = decode(stream, records)
    columns = [*stream.schema, "_position"]
    rows = {row.pop("_position"): row for row in found.table.select(columns).to_pylist()}
    return [rows.get(place) for place in range(position)], {one.position: one.reason for one in found.dead}


def json_lines(rows):
    return encode_lines("\n".join(json.dumps(row, default=str) for row in rows).encode())


def arrow(rows):
    return pa.Table.from_pylist(rows)


def encoded_arrow(rows):
    """Dictionaries, views and runs: what engines hand out that Arrow's own functions do not take."""
    table = arrow(rows)
    for place, field in enumerate(table.schema):
        column = table[field.name].combine_chunks()
        if pa.types.is_string(field.type):
            column = column.cast(pa.string_view())
        elif pa.types.is_integer(field.type):
            column = column.dictionary_encode()
        elif pa.types.is_floating(field.type):
            column = pc.run_end_encode(column)
        table = table.set_column(place, field.name, column)
    return table


def chunked(rows):
    return pa.concat_tables([arrow(rows), arrow(rows)]).slice(len(rows))


def numpy_dicts(rows):
    plain = {int: np.int64, float: np.float64, bool: np.bool_, str: np.str_}
    small = -(2**63), 2**63
    return [
        {
            name: value
            if type(value) not in plain or (type(value) is int and not small[0] <= value < small[1])
            else plain[type(value)](value)
            for name, value in row.items()
        }
        for row in rows
    ]


def polars_frame(rows):
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


FRAMES = [arrow, encoded_arrow, chunked, pd.DataFrame, polars_frame, numpy_dicts, lambda rows: arrow(rows).to_reader()]
WHOLE = "Wrong type: column 'n' does not hold a whole number of 64 bits."
NUMBER = "Wrong type: column 'x' does not hold a number."
TEXT = "Wrong type: column 's' does not hold text."
TRUTH = "Wrong type: column 'b' does not hold true or false."
INSTANT = "Wrong type: column 't' does not hold an instant of the years 1 to 9999 (ISO-8601, or microseconds since the epoch)."
CASES = [
    ("n", 7, 7),
    ("n", 7.0, 7),
    ("n", 7.5, WHOLE),
    ("n", -(2.0**63), -(2**63)),
    ("n", 2.0**63, WHOLE),
    ("n", 2**53 + 1, 2**53 + 1),
    ("n", math.nan, None),
    ("n", math.inf, None),
    ("n", "7", WHOLE),
    ("n", True, WHOLE),
    ("n", Decimal(7), 7),
    ("n", Decimal("7.00"), 7),
    ("n", Decimal("7.5"), WHOLE),
    ("n", Decimal(2**63 - 1), 2**63 - 1),
    ("n", Decimal(2**63), WHOLE),
    ("x", 7, 7.0),
    ("x", 2**53 + 1, 2.0**53),
    ("x", math.inf, None),
    ("x", -math.inf, None),
    ("x", math.nan, None),
    ("x", Decimal("2.5"), 2.5),
    ("x", "2.5", NUMBER),
    ("x", True, NUMBER),
    ("s", "é😀", "é😀"),
    ("s", "", ""),
    ("s", math.nan, None),
    ("s", 5, TEXT),
    ("s", True, TEXT),
    ("b", True, True),
    ("b", 1, TRUTH),
    ("b", "true", TRUTH),
    ("b", math.nan, None),
    ("t", AT, datetime(2024, 5, 1, 12, tzinfo=UTC)),
    ("t", NOON, datetime(2024, 5, 1, 12, tzinfo=UTC)),
    ("t", float(NOON), datetime(2024, 5, 1, 12, tzinfo=UTC)),
    ("t", -1, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ("t", "1965-03-01", datetime(1965, 3, 1, tzinfo=UTC)),
    ("t", "2024-02-30", INSTANT),
    ("t", 1.5, INSTANT),
    ("t", True, INSTANT),
    ("t", 2**62, INSTANT),
    ("t", math.nan, None),
    ("t", NOON // 10**6, "Wrong unit: column 't' holds 1714564800, which looks like seconds since the epoch; "
                         "expected microseconds or ISO-8601."),
    ("t", NOON // 10**3, "Wrong unit: column 't' holds 1714564800000, which looks like milliseconds since the epoch; "
                         "expected microseconds or ISO-8601."),
    ("t", NOON * 10**3, "Wrong unit: column 't' holds 1714564800000000000, which looks like nanoseconds since the epoch; "
                        "expected microseconds or ISO-8601."),
]  # fmt: skip


def rows_of(column, value):
    return [{"at": AT, column: value}, {"at": AT, column: value}]


@pytest.mark.parametrize(("column", "value", "expected"), CASES)
def test_a_value_decides_the_same_in_every_form(column, value, expected):
    rows = rows_of(column, value)
    forms = [encode(STREAM, rows), json_lines(rows) if not isinstance(value, Decimal) else encode(STREAM, rows)]
    forms += [encode(STREAM, form(rows)) for form in FRAMES]
    forms += [encode_history(STREAM, rows), encode_history(STREAM, arrow(rows))]
    said = isinstance(expected, str) and expected.startswith("Wrong")
    for batches in forms:
        found, dead = decided(batches)
        if said:
            assert dead == {0: expected, 1: expected}
        else:
            assert dead == {}
            assert [row[column] for row in found] == [expected] * 2


@pytest.mark.parametrize(
    ("column", "frame", "expected"),
    [
        ("t", pa.array([NOON * 1000 + 999], pa.timestamp("ns")), datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("t", pa.array([-1], pa.timestamp("ns", "UTC")), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("t", "1969-12-31T23:59:59.999999999", datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("t", pd.Timestamp(-1), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("t", np.datetime64(-1, "ns"), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("t", np.datetime64("1970-01-01T00:20"), datetime(1970, 1, 1, 0, 20, tzinfo=UTC)),
        ("t", np.datetime64("NaT"), None),
        ("t", pd.NaT, None),
        ("t", pa.array([NOON // 1000], pa.timestamp("ms", "Asia/Tokyo")), datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("t", pa.array([NOON // 10**6], pa.timestamp("s")), datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("t", pa.array([date(1965, 3, 1)]), datetime(1965, 3, 1, tzinfo=UTC)),
        ("t", date(1965, 3, 1), datetime(1965, 3, 1, tzinfo=UTC)),
        ("t", pa.array([2**62], pa.timestamp("s")), INSTANT),
        ("t", pa.array([5], pa.duration("us")), INSTANT),
        ("n", pa.array([Decimal(2**70)], pa.decimal256(50, 0)), WHOLE),
        ("n", pd.NA, None),
        ("n", pd.array([7], "Int64"), 7),
        ("n", pd.array([None], "Int64"), None),
        ("n", pl.Series([2**70], dtype=pl.Int128), WHOLE),
        ("n", pl.Series([7], dtype=pl.Int128), 7),
        ("n", pl.Series([7], dtype=pl.Object), 7),
        ("s", pl.Series(["a"], dtype=pl.Categorical), "a"),
        ("s", pl.Series(["a"], dtype=pl.Enum(["a", "b"])), "a"),
        ("s", pd.Categorical(["a"]), "a"),
        ("s", pd.array(["a"], "string"), "a"),
        ("s", b"a", TEXT),
        ("s", pa.array([b"a"], pa.binary_view()), TEXT),
        ("s", pa.array(["a"], pa.large_string()), "a"),
        ("s", pa.nulls(1, pa.dictionary(pa.int8(), pa.string())), None),
        ("s", pd.Period("2024-01", "M"), TEXT),
        ("b", pd.array([True], "boolean"), True),
        ("x", np.float32(2.5), 2.5),
        ("x", pd.array([2.5], "Float64"), 2.5),
        ("x", pa.array([np.float16(2.5)]), 2.5),
        ("x", np.longdouble(2.5), 2.5),
        ("x", timedelta(1), NUMBER),
        ("x", 10**400, None),
    ],
)  # fmt: skip
def test_what_only_some_libraries_have_is_read_too(column, frame, expected):
    if isinstance(frame, pa.Array):
        rows = pa.table({"at": [AT], column: frame})
    elif isinstance(frame, pl.Series):
        rows = pl.DataFrame({"at": [AT], column: frame})
    elif isinstance(frame, pd.api.extensions.ExtensionArray):
        rows = pd.DataFrame({"at": [AT], column: frame})
    else:
        rows = [{"at": AT, column: frame}]
        framed, said = decided(encode(STREAM, pd.DataFrame(rows)))
        assert (framed[0] or {}).get(column, said.get(0)) == expected
    (row,), dead = decided(encode(STREAM, rows))
    assert (row[column] if row else dead[0]) == expected


def test_lone_surrogates_are_dead_letters_in_dicts_and_frames():
    for rows in ([{"at": AT, "s": "\ud800"}], pd.DataFrame({"at": [AT], "s": ["\ud800"]}, dtype=object)):
        (row,), dead = decided(encode(STREAM, rows))
        assert row is None
        assert dead[0] == "Not a JSON object: a string holds half of a surrogate pair, which is no character."


@pytest.mark.parametrize(
    "frame",
    [pl.DataFrame, pd.DataFrame, arrow, encoded_arrow, lambda rows: pl.DataFrame(rows).cast({"s": pl.Categorical})],
)
@pytest.mark.parametrize("column", ["s", "n"])
def test_equal_keys_go_to_one_partition_in_every_form(frame, column):
    stream = EventStream("parts", time="at", partition_by=column, schema=SCHEMA)
    rows = [{"at": AT, "s": f"k{i}", "n": i} for i in range(20)]

    def placed(given):
        return {
            row[column]: partition
            for partition, part in partition_of(stream, given, 4)
            for row in decided(encode(stream, part), stream)[0]
        }

    expected = placed(rows)
    assert placed(frame(rows)) == expected
    assert placed([row | {"n": float(row["n"])} for row in rows]) == expected


def test_frames_without_rows_or_columns_give_nothing():
    for frame in (pa.table({}), pd.DataFrame(), pl.DataFrame(), arrow([{"at": AT}]).slice(1), []):
        assert encode(STREAM, frame) == []
    with pytest.raises(LogError, match="3 rows without a column"):
        encode(STREAM, pd.DataFrame(index=range(3)))


def test_columns_may_have_names_that_are_no_text():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,), dead = decided(encode(STREAM, pd.DataFrame({"at": [AT], 5: [1], ("a", 1): [2], None: [3]})))
    assert (row["at"], dead) == (datetime(2024, 5, 1, 12, tzinfo=UTC), {})


def test_two_columns_of_one_name_are_refused():
    for frame in (pa.table([[1], [2]], names=["n", "n"]), pd.DataFrame([[1, 2]], columns=[1, "1"])):
        with pytest.raises(LogError, match="two columns named"):
            encode(STREAM, frame)


NO_FRAMES = [
    pl.Series([1]), pl.DataFrame({"n": [1]}).lazy(), pd.Series([1]), pa.chunked_array([[1]]), np.zeros(3), iter([]), {1},
    5, None, "x", b"x", datetime(2024, 1, 1, tzinfo=UTC),
]  # fmt: skip


@pytest.mark.parametrize("rows", NO_FRAMES)
def test_what_is_no_frame_is_refused(rows):
    with pytest.raises(LogError):
        taken("Stream 'events'", rows)


def test_a_needed_column_that_no_row_has_is_refused():
    def check(given):
        check_columns("Stream 'events'", taken("it", given), SCHEMA, lambda: ["at", "n"])

    with pytest.raises(LogError, match=r"(?s)'n', which is needed.*'N_' to be 'n'|'n', which is needed"):
        check(pa.table({"at": [AT], "N_": [1]}))
    schema = {"user_id": "int64", "amount": "float64", "at": "timestamp"}
    for given in (pd.DataFrame({"at": [AT], "userid": [1]}), [{"at": AT, "userid": 1}]):
        with pytest.raises(LogError, match=r"(?s)no row has the column 'user_id'.*did you mean 'userid'"):
            check_columns("it", taken("it", given), schema, lambda: ["at", "user_id"])
    with pytest.warns(UserWarning, match="is 'amunt' meant to be 'amount'"):
        check_columns("it", [{"at": AT, "user_id": 1, "amunt": 2.0}], schema, lambda: ["at", "user_id"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_columns("it", [{"at": AT}], schema, lambda: ["at", "user_id"])  # an absent field is null
        check_columns("it", [{"at": AT}, {"at": AT, "user_id": 1, "amount": 2.0}], schema, lambda: ["at", "user_id"])
        check_columns("it", pa.table({}), schema, lambda: ["at", "user_id"])
