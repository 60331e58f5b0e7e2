"""Dates, UUIDs and bytes: what is one, in whatever form a row comes, and what makes its row a dead letter."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import millstream as ms
from millstream.buffer.codec.read import as_sent, parse_arrow, parse_json, row_text
from millstream.buffer.codec.types import from_arrow
from millstream.buffer.codec.values import Unfit, fit
from millstream.buffer.codec.write import encode, encode_history, partition_of, partitions_of_lines
from millstream.definitions.data_types import arrow_type, as_text

CARD = UUID("00112233-4455-6677-8899-AABBCCDDEEFF")
DIGITS = "00112233445566778899aabbccddeeff"
#: By type: a value as Python gives it, as JSON does (None: it cannot), and what it is; `Unfit` for what it is not.
VALUES: dict[str, list[tuple[Any, Any, Any]]] = {
    "date": [
        (date(2024, 2, 29), "2024-02-29", date(2024, 2, 29)),
        (date(1, 1, 1), "0001-01-01", date(1, 1, 1)),
        (date(9999, 12, 31), "9999-12-31", date(9999, 12, 31)),
        (date(1969, 12, 31), "1969-12-31", date(1969, 12, 31)),
        (datetime(1969, 12, 31), "1969-12-31T00:00:00", date(1969, 12, 31)),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00Z", date(2024, 2, 29)),
        (datetime(2024, 2, 29, 0, 0, 0, 1), "2024-02-29T00:00:00.000001", Unfit),
        (np.datetime64("2024-02-29"), "2024-02-29", date(2024, 2, 29)),
        ("2024-02-30", "2024-02-30", Unfit),
        ("0000-01-01", "0000-01-01", Unfit),
        ("10000-01-01", "10000-01-01", Unfit),
        ("20240229", "20240229", Unfit),
        ("2024-W01-1", "2024-W01-1", Unfit),
        ("2024-2-9", "2024-2-9", Unfit),
        ("2024-02-29T00:00:00+02:00", "2024-02-29T00:00:00+02:00", Unfit),
        (" 2024-02-29", " 2024-02-29", Unfit),
        ("2024-02-29\n", "2024-02-29\n", Unfit),
        ("", "", Unfit),
        (19_782, 19_782, Unfit),
        (1.5, 1.5, Unfit),
        (True, True, Unfit),
        (float("nan"), None, None),
        (None, None, None),
    ],
    "uuid": [
        (CARD, str(CARD), CARD),
        (str(CARD).upper(), str(CARD).upper(), CARD),
        (DIGITS, DIGITS, CARD),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000", UUID(int=0)),
        (UUID(int=2**128 - 1), "ffffffff-ffff-ffff-ffff-ffffffffffff", UUID(int=2**128 - 1)),
        (CARD.bytes, str(CARD), CARD),
        ("{" + str(CARD) + "}", "{" + str(CARD) + "}", Unfit),
        (f"urn:uuid:{CARD}", f"urn:uuid:{CARD}", Unfit),
        (DIGITS[:31] + "g", DIGITS[:31] + "g", Unfit),
        (DIGITS[:31], DIGITS[:31], Unfit),
        (DIGITS + "\n", DIGITS + "\n", Unfit),
        (str(CARD).replace("-", "", 1), str(CARD).replace("-", "", 1), Unfit),
        ("", "", Unfit),
        (7, 7, Unfit),
        (b"short", "c2hvcnQ=", Unfit),
        (float("inf"), None, None),
        (None, None, None),
    ],
    "bytes": [
        (b"", "", b""),
        (b"\0", "AA==", b"\0"),
        (b"\xff" * 16, "/////////////////////w==", b"\xff" * 16),
        (bytearray(b"hello"), "aGVsbG8=", b"hello"),
        (memoryview(b"hello"), "aGVsbG8=", b"hello"),
        ("aGVsbG8=", "aGVsbG8=", b"hello"),
        ("aGVsbG8", "aGVsbG8", Unfit),
        ("aGVs bG8=", "aGVs bG8=", Unfit),
        ("aGVsbG8=\n", "aGVsbG8=\n", Unfit),
        ("_-_-", "_-_-", Unfit),
        ("é", "é", Unfit),
        (7, 7, Unfit),
        (float("nan"), None, None),
        (None, None, None),
    ],
    "decimal(10, 2)": [
        (Decimal("12.34"), 12.34, Decimal("12.34")),
        (Decimal("-12.3400"), "-12.3400", Decimal("-12.34")),
        (12.34, "12.34", Decimal("12.34")),
        (7, 7, Decimal("7.00")),
        (np.int32(-7), -7, Decimal("-7.00")),
        ("1e3", 1e3, Decimal("1000.00")),
        ("+.5", "0.5", Decimal("0.50")),
        (Decimal("-0.00"), "-0", Decimal("0.00")),
        (-0.0, -0.0, Decimal("0.00")),
        (Decimal("99999999.99"), "99999999.99", Decimal("99999999.99")),
        (Decimal("100000000"), "100000000", Unfit),
        (Decimal("0.001"), "0.001", Unfit),
        (0.1 + 0.2, 0.1 + 0.2, Unfit),
        (Decimal("1e400"), "1e400", Unfit),
        ("1_000", "1_000", Unfit),
        ("NaN", "NaN", Unfit),
        (" 1", " 1", Unfit),
        ("", "", Unfit),
        ("1.", "1.", Decimal("1.00")),
        (True, True, Unfit),
        (date(2024, 1, 1), "2024-01-01", Unfit),
        (Decimal("NaN"), None, None),
        (float("-inf"), None, None),
        (None, None, None),
    ],
    "decimal(38, 0)": [
        (10**38 - 1, 10**38 - 1, Decimal(10**38 - 1)),
        (-(10**38) + 1, str(-(10**38) + 1), Decimal(-(10**38) + 1)),
        (10**38, 10**38, Unfit),
        (2**53 + 1, 2**53 + 1, Decimal(2**53 + 1)),
        (None, None, None),
    ],
    "decimal(38, 38)": [
        (Decimal(f"0.{'9' * 38}"), f"0.{'9' * 38}", Decimal(f"0.{'9' * 38}")),
        (Decimal(1), "1", Unfit),
        (0, 0, Decimal(0)),
    ],
    "list<float64>": [
        ([1.5, None, float("nan"), float("inf"), -0.0], [1.5, None, None, None, -0.0], [1.5, None, None, None, 0.0]),
        (np.array([1.0, 2.0]), [1, 2.0], [1.0, 2.0]),
        ((1, Decimal("2.5")), [1, 2.5], [1.0, 2.5]),
        ([], [], []),
        ([None], [None], [None]),
        ([True], [True], Unfit),
        (["1"], ["1"], Unfit),
        ([[1.0]], [[1.0]], Unfit),
        (1.5, 1.5, Unfit),
        ("[1]", "[1]", Unfit),
        ({"a": 1}, {"a": 1}, Unfit),
        (float("nan"), None, None),
        (None, None, None),
    ],
    "list<float32>": [
        ([0.1, 1e39, 16_777_217], [0.1, 1e39, 16_777_217], [float(np.float32(0.1)), None, 16_777_216.0]),
        (np.array([0.1], np.float32), [0.1], [float(np.float32(0.1))]),
        (["x"], ["x"], Unfit),
    ],
    "list<int64>": [
        ([2**63 - 1, -(2**63), 7.0, None], [2**63 - 1, -(2**63), 7.0, None], [2**63 - 1, -(2**63), 7, None]),
        ([2**63], [2**63], Unfit),
        ([1.5], [1.5], Unfit),
        ([], [], []),
    ],
    "list<string>": [
        (["", "é", None, "x" * 300], ["", "é", None, "x" * 300], ["", "é", None, "x" * 300]),
        ([1], [1], Unfit),
        ("abc", "abc", Unfit),
        ([], [], []),
    ],
}  # fmt: skip
SINGLE = [kind for kind in VALUES if not kind.startswith("list")]
CASES = [(kind, *case) for kind, cases in VALUES.items() for case in cases]


def stream_of(kind: str) -> ms.EventStream:
    return ms.EventStream("s", time="at", schema={"v": kind, "at": "timestamp"})


def judged(parsed: Any) -> list[Any]:
    """The values of the good rows; of wrong ones the reason."""
    found: dict[int, Any] = dict(zip(parsed.rows.tolist(), parsed.table["v"].to_pylist(), strict=True))
    return [value for _, value in sorted({**found, **dict(parsed.bad)}.items())]


def of_dicts(kind: str, values: list[Any]) -> list[Any]:
    stream = stream_of(kind)
    [batch] = encode(stream, [{"v": value, "at": 5_000_000} for value in values])
    return judged(parse_json(stream, batch.payload.split(b"\n")))


@pytest.mark.parametrize(("kind", "given", "written", "expected"), CASES)
def test_a_value_is_judged_alike_as_a_dict_as_json_and_alone(
    kind: str, given: Any, written: Any, expected: Any
) -> None:
    line = json.dumps({"v": written, "at": 5_000_000}).encode()
    found = [*of_dicts(kind, [given]), *judged(parse_json(stream_of(kind), [line]))]
    if expected is Unfit:
        assert all("Wrong type: column 'v' does not hold" in one for one in found), found
        with pytest.raises(Unfit):
            fit(given, kind)
    else:
        assert found == [expected, expected]
        assert fit(given, kind) == expected and type(fit(given, kind)) is type(expected)


@pytest.mark.parametrize("kind", VALUES)
def test_a_wrong_value_costs_its_own_row_only_and_a_right_one_is_written_as_its_text(kind: str) -> None:
    given, wanted = [case[0] for case in VALUES[kind]], [case[2] for case in VALUES[kind]]
    found = of_dicts(kind, given)
    assert [one if wanted[i] is not Unfit else Unfit for i, one in enumerate(found)] == wanted
    good = [one for one in wanted if one is not Unfit]
    if kind in SINGLE:
        assert [None if one is None else fit(as_text(one), kind) for one in good] == good
    assert not any("E" in str(as_text(one)) for one in good if isinstance(one, Decimal))


def decimal_forms(kind: str) -> list[tuple[pa.Array, list[Any]]]:
    texts = [case[0] for case in VALUES[kind] if isinstance(case[0], str)]
    told = [case[2] for case in VALUES[kind] if isinstance(case[0], str)]
    mine = [(pa.array(texts, form), told) for form in (pa.string(), pa.large_string(), pa.string_view())]
    mine += [(pa.nulls(2), [None, None]), (pa.array([True, None]), [Unfit, None]), (pa.array([b"1"]), [Unfit])]
    if kind != "decimal(10, 2)":
        return mine
    values = [Decimal("-1.10"), None, Decimal("1.105"), Decimal("99999999.99"), Decimal("100000000")]
    wanted = [Decimal("-1.10"), None, Unfit, Decimal("99999999.99"), Unfit]
    mine += [(pa.array(values, form), wanted) for form in (pa.decimal128(38, 3), pa.decimal256(76, 20))]
    mine += [(pa.array([7, 10**8, None], form), [7, Unfit, None]) for form in (pa.int64(), pa.uint32())]
    return [*mine, (pa.array([0.1, 12.345, float("nan"), -0.0]), [Decimal("0.10"), Unfit, None, Decimal(0)])]


def list_forms(kind: str) -> list[tuple[pa.Array, list[Any]]]:
    none = [(pa.nulls(2), [None, None]), (pa.array([1.5, None]), [Unfit, None]), (pa.array(["[1]"]), [Unfit])]
    texts = [["a", None], None, [], ["b"]]
    if kind == "list<string>":
        forms = (pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string_view()))
        return [*none, *((pa.array(texts, form), texts) for form in forms), (pa.array([[1], None]), [Unfit, None])]
    rows, wanted = [[1.5, None, float("nan")], None, [], [2.0]], [[1.5, None, None], None, [], [2.0]]
    wholes = [[1, None], None, [2], []]
    forms = (pa.list_(pa.int8()), pa.large_list(pa.int64()), pa.list_view(pa.int64()), pa.list_(pa.decimal128(20, 0)))
    mine = [(pa.array(wholes, form), wholes) for form in forms]
    mine += [
        (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), [[1, 2], None]),
        (pa.array(texts), [Unfit, None, [], Unfit]),
    ]
    mine.append((pa.array([[9], *wholes])[1:], wholes))
    if kind == "list<int64>":
        return [*none, *mine, (pa.array([[1.0, float("nan")], [1.5], None]), [[1, None], Unfit, None])]
    return [*none, *mine, *((pa.array(rows, pa.list_(form)), wanted) for form in (pa.float32(), pa.float64()))]


def arrow_forms(kind: str) -> list[tuple[pa.Array, list[Any]]]:
    """Columns of Arrow's, and what they are as a type; `Unfit` where a value is none."""
    if kind not in SINGLE:
        return list_forms(kind)
    days = [date(1, 1, 1), None, date(1969, 12, 31), date(9999, 12, 31)]
    midnights = [datetime(2024, 2, 29), datetime(1969, 12, 31), datetime(1969, 12, 31, 12), None]
    texts = [case[0] for case in VALUES[kind] if isinstance(case[0], str)]
    told = [case[2] for case in VALUES[kind] if isinstance(case[0], str)]
    common = [(pa.array(texts, form), told) for form in (pa.string(), pa.large_string(), pa.string_view())]
    common += [(pa.array(texts).dictionary_encode(), told), (pa.nulls(2), [None, None])]
    common += [(pa.array([1.5, float("nan"), None]), [Unfit, None, None]), (pa.array([1, None]), [Unfit, None])]
    if kind == "date":
        wanted = [date(2024, 2, 29), date(1969, 12, 31), Unfit, None]
        mine = [(pa.array(days, pa.date32()), days), (pa.array(days, pa.date64()), days)]
        mine += [
            (pa.array(midnights, pa.timestamp(unit, zone)), wanted)
            for unit in ("s", "us", "ns")
            for zone in (None, "UTC")
        ]
        far = pa.array([3_000_000, -800_000, None], pa.int32()).cast(pa.date32())
        return [*common, *mine, (far, [Unfit, Unfit, None]), (pa.array([True]), [Unfit])]
    if kind == "uuid":
        raw, ids = [CARD.bytes, None, b"\0" * 16], [CARD, None, UUID(int=0)]
        forms = (pa.uuid(), pa.binary(16), pa.binary(), pa.large_binary(), pa.binary_view())
        mine = [
            (pa.array(raw, pa.binary(16)).cast(pa.uuid()), ids),
            *((pa.array(raw, form), ids) for form in forms[1:]),
        ]
        return [*common, *mine, (pa.array([b"", b"\0" * 15, b"\0" * 17, CARD.bytes]), [Unfit, Unfit, Unfit, CARD])]
    if kind.startswith("decimal"):
        return decimal_forms(kind)
    raw = [b"", None, b"\0", b"\xff" * 17]
    mine = [(pa.array(raw, form), raw) for form in (pa.binary(), pa.large_binary(), pa.binary_view())]
    return [*common, *mine, (pa.array([b"ab", None], pa.binary(2)), [b"ab", None]), (pa.array([True]), [Unfit])]


@pytest.mark.parametrize("kind", VALUES)
def test_columns_of_any_arrow_type_are_judged_value_by_value(kind: str) -> None:
    for column, wanted in arrow_forms(kind):
        found, wrong = from_arrow(column, kind)
        got = [Unfit if wrong is not None and wrong[i] else one.as_py() for i, one in enumerate(found)]
        assert got == wanted, column.type
        table = pa.table({"v": column, "at": pa.array([5_000_000] * len(column), pa.int64())})
        judgements = judged(parse_arrow(stream_of(kind), table))
        assert [one if wanted[i] is not Unfit else Unfit for i, one in enumerate(judgements)] == wanted


def test_pandas_and_polars_frames_of_them_are_taken() -> None:
    schema = {"d": "date", "u": "uuid", "b": "bytes", "at": "timestamp"}
    stream = ms.EventStream("s", time="at", schema=schema)
    row = {"d": date(2024, 2, 29), "u": CARD, "b": b"\0x", "at": datetime(2024, 3, 1, tzinfo=UTC)}
    nothing = {**dict.fromkeys(schema), "at": row["at"]}
    table = pa.table({name: pa.array([row[name], None]) for name in "db"}).append_column(
        "u", pa.array([CARD, None], pa.uuid())
    )
    frames = [pd.DataFrame([row, nothing]), pd.DataFrame({**row, "d": pd.Timestamp("2024-02-29")}, index=[0, 1])]
    frames += [pl.from_arrow(table).with_columns(pl.lit(row["at"]).alias("at")), pl.DataFrame([row, nothing])]  # type: ignore[union-attr]
    for frame in frames:
        [batch] = encode_history(stream, frame)
        parsed = parse_arrow(stream, pa.ipc.open_stream(batch.payload).read_all())
        assert parsed.bad == []
        assert {name: parsed.table[name][0].as_py() for name in "dub"} == {name: row[name] for name in "dub"}


def test_a_decimal_keeps_its_digits_in_json_whatever_the_row_has_beside_it() -> None:
    stream = stream_of("decimal(38, 19)")
    number = "-1234567890123456789.0123456789012345678"
    lines = [f'{{"v": {number}, "at": 5000000}}', f'{{"v": {number}, "at": 5000000, "more": [1]}}',
             '{"v": -1.2345678901234567890123456789012345678E18, "at": 5000000.0}']  # fmt: skip
    for line in lines:
        assert judged(parse_json(stream, [line.encode()])) == [Decimal(number)], line


def test_a_decimal_keeps_its_digits_where_its_row_was_refused_and_another_definition_takes_it() -> None:
    number = Decimal("1234567890123456789.0123456789012345678")
    table = pa.table({"v": [number], "at": pa.array([5_000_000]), "other": ["x"]})
    text, _ = as_sent(row_text(table, 0))
    stream = ms.EventStream("s", time="at", schema={"v": "decimal(38, 19)", "other": "string", "at": "timestamp"})
    assert judged(parse_json(stream, [text.encode()])) == [number]


@pytest.mark.parametrize("kind", [*SINGLE, "bool"])
def test_equal_values_go_to_one_partition_in_whatever_form_they_come(kind: str) -> None:
    stream = ms.EventStream("s", time="at", partition_by="v", schema={"v": kind, "at": "timestamp"})
    values = [True, False] if kind == "bool" else list({one[2] for one in VALUES[kind]} - {None, Unfit})
    for value in values:
        rows = [{"v": value, "at": 5}]
        table = pa.table({"v": pa.array([value], arrow_type(kind)), "at": [5]})
        line = json.dumps({"v": value if kind == "bool" else as_text(value), "at": 5}).encode()
        [(one, _)], [(two, _)] = partition_of(stream, rows, 7), partition_of(stream, table, 7)
        assert [one, two] == partitions_of_lines(stream, [line], 7) * 2


def test_bytes_are_no_text_and_text_is_no_decimal() -> None:
    stream = ms.EventStream("s", time="at", schema={"v": "string", "at": "timestamp"})
    [batch] = encode(stream, [{"v": b"ab", "at": 5_000_000}])
    assert "does not hold text" in judged(parse_json(stream, batch.payload.split(b"\n")))[0]
    with pytest.raises(Unfit):
        fit(Decimal("1.5"), "date")
