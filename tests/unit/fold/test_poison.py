"""Whatever an engine raises for a row is that row's dead letter, and its neighbours read as if it had not been there."""

from __future__ import annotations

import random

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engines.duckdb import engine
from millstream.engines.duckdb.engine import DuckDB
from millstream.errors import MillstreamError
from millstream.fold import prepare
from millstream.fold.row_errors import halved

SCHEMA = {
    "user_id": "int64",
    "n": "int64",
    "x": "float64",
    "s": "string",
    "b": "bool",
    "t": "timestamp",
    "at": "timestamp",
}
STREAM = ms.EventStream("s", time="at", schema=SCHEMA)
USER = ms.Entity("user", keys={"user_id": "int64"})
HOUR = 3_600_000_000
LEAST, GREATEST = -(2**63), 2**63 - 1
TEXTS = [
    "", " ", "(", "[", "*", "\\", "%", "%Q", "{", "{}", "{:d}", "%d", "a", "-", "0", "-1", "1e400", "nan", "inf",
    "infinity", "-infinity", "9223372036854775808", "\x00", "a\x00b", "\u200f", "\U0001f600", "e\u0301",
    "2024-02-30", "2024-13-01", "99999-01-01", "24:00:00", "epoch", "null", "true", "year", "fortnight", "DE'--",
    "{\"a\":", "{\"a\": 1}", "[1,2", "[1, 2]", "0x1g", "=", "YQ==", "YQ=", "ff", "fg", "UTC", "Mars/Phobos", "$[",
    "$.a", "(?P<", "a{1000}",
    "\ufdfa" * 50, "x" * 10_000,
]  # fmt: skip
#: (n, x, s, t in µs) that a producer may send.
POISON = [
    *((n, 1.0, "1", HOUR) for n in (0, -1, LEAST, GREATEST, 2**31, -(2**31), 2**53 + 1, 10**9, 300, 64)),
    *((1, x, "1", HOUR) for x in (0.0, -0.0, -1.0, 1e308, -1e308, 5e-324, 1e19, -1e19, 2.0**63, 0.5, 1e6)),
    *((1, 1.0, text, HOUR) for text in TEXTS),
    *((1, 1.0, "1", t) for t in (0, -1, -62_135_596_800_000_000, 253_402_300_799_999_999, 9_000_000_000_000_000)),
    (None, None, None, None), (LEAST, -1e308, "\x00", -1), (GREATEST, 1e308, "(", 253_402_300_799_999_999),
]  # fmt: skip
HEALTHY = [(7, 2.5, "12", 10 * HOUR), (3, 4.0, "0", 20 * HOUR), (5, 16.0, "2024", 30 * HOUR)]
EXPRESSIONS = [
    expression.strip()
    for expression in r"""
    1 // n ; 100 % n ; n * n ; n * 1000000007 ; n + 9223372036854775807 ; -n ; abs(n) ; 1 << n ; n >> 1 ;
    factorial(n::int) ; gcd(n, 12) ; lcm(n, 12) ; n::smallint ; n::utinyint ; x::int ; x::bigint ; x::decimal(9, 2) ;
    sqrt(x) ; ln(x) ; log(x, n) ; pow(x, n) ; exp(x) ; asin(x) ; acosh(x) ; round(x, n::int) ; x // n ; gamma(x) ;
    lgamma(x) ; bin(n)::bigint ; chr(n::int) ; s::int ; s::double ; s::date ; s::timestamptz ; epoch(s::time) ;
    epoch(s::interval) ; s::boolean ; s::hugeint ; s::uuid::varchar ; strptime(s, '%Y') ; try_cast(s as int) ;
    strftime(t, s) ; date_trunc(s, t) ; date_part(s, t) ; t + to_years(n::int) ; t + to_days(n::int) ;
    t + to_microseconds(n) ; t - interval 5000 years ; epoch_us(t) ; make_date(n::int, 1, 1) ; make_timestamp(n) ;
    to_timestamp(x) ; epoch_ms(n) ; timezone(s, t) ; regexp_extract(s, s) ; regexp_matches('abc', s) ;
    s similar to s ; s like s escape '%' ; regexp_replace(s, '(a', s) ; regexp_replace('abc', s, 'x', 'g') ;
    format(s, n) ; printf(s, n) ; printf('%d', n) ; json_extract(s, '$.a')::varchar ; json_extract_string(s, s) ;
    s::json::varchar ; json_array_length(s) ; from_base64(s)::varchar ; unhex(s)::varchar ; decode(s::blob) ;
    encode(s)::varchar ; s[n] ; left(s, n) ; right(s, n) ; substring(s, n, n) ; lpad(s, n::int % 1000, 'x') ;
    instr(s, 'a') ; ascii(s) ; unicode(s) ; bar(x, 0, n, 10) ; list_extract([1, 2], n) ; [n][1] ;
    array_extract(s, n) ; string_split(s, ',')[n] ; list_sum(range(n % 100)) ; bit_count(n) ; nullif(n, 0) ;
    greatest(n, x) ; hash(s) % 1000 ; md5(s) ; levenshtein(s, 'abc') ; jaccard(s, 'abc') ; hamming(s, 'ab') ;
    translate(s, 'a', '') ; url_decode(s) ; parse_path(s)[1] ; trim(s, s) ; strip_accents(s) ;
    icu_sort_key(s, 'de')
    """.split(" ;")  # noqa: SIM905
]


def table(rows):
    columns = list(zip(*rows, strict=True))
    count, hour = len(rows), np.full(len(rows), 100 * HOUR)
    return pa.table({
        "user_id": np.arange(count), "n": pa.array(columns[0], pa.int64()), "x": pa.array(columns[1], pa.float64()),
        "s": pa.array(columns[2], pa.string()), "b": pa.array([True] * count),
        "t": pa.array(columns[3], pa.timestamp("us", "UTC")),
        "at": pa.array(hour, pa.timestamp("us", "UTC")), "_arrival": hour, "_partition": np.zeros(count, np.int64),
        "_position": np.arange(count),
    })  # fmt: skip


def groups(expression):
    """The expression in a derived column and in a filter, where it can stand."""
    found = []
    for options in (
        {"derive": {"d": expression}, "features": [ms.Last("d")]},
        {"where": f"({expression}) is not null", "features": [ms.Count()]},
    ):
        try:
            found.append(ms.StreamFeatureGroup("g", entity=USER, source=STREAM, **options))
        except MillstreamError:
            continue  # it is refused when it is declared
    return found


def lanes(prepared):
    return {key: prepared.lanes[prepared.codes == code].tolist() for code, key in enumerate(prepared.keys)}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_no_value_stops_a_stream_or_changes_its_neighbours(expression):
    poison = random.Random(expression).sample(POISON, 5)
    rows = [row for place, one in enumerate(poison) for row in (one, HEALTHY[place % 3])]
    given = table(rows)
    for group in groups(expression)[:1]:
        (found,) = prepare([group], STREAM, given)
        (alone,) = prepare([group], STREAM, given.take(pa.array(range(1, len(rows), 2))))
        assert {row // 2 for row, _ in found.dead if row % 2} == {row for row, _ in alone.dead}
        healthy, without = lanes(found), lanes(alone)
        assert {key: healthy[key] for key in without} == without


def test_an_expression_that_fails_without_a_row_makes_dead_letters_of_all():
    (found,) = prepare(groups("n + 9223372036854775807")[:1], STREAM, table([(n, 1.0, "1", HOUR) for n in (1, 2, -3)]))
    assert [row for row, _ in found.dead] == [0, 1]


def test_a_connection_that_has_ended_is_replaced():
    group = groups("n + 1")[0]
    (before,) = prepare([group], STREAM, table(HEALTHY))
    engine._evaluating().close()
    (after,) = prepare([group], STREAM, table(HEALTHY))
    assert lanes(after) == lanes(before)


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (duckdb.ConversionException("x"), "row"), (duckdb.FatalException("x"), "row"), (duckdb.InternalException("x"), "row"),
        (duckdb.OutOfRangeException("x"), "row"), (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), "row"),
        (pa.ArrowInvalid("x"), "row"), (OverflowError("x"), "row"), (RuntimeError("x"), "row"),
        (duckdb.IOException("x"), "machine"), (duckdb.InterruptException("x"), "machine"),
        (duckdb.PermissionException("x"), "machine"),
        (duckdb.BinderException("x"), "query"), (duckdb.OutOfMemoryException("x"), "memory"), (MemoryError("x"), "memory"),
        (FileNotFoundError("x"), "machine"), (KeyboardInterrupt(), "machine"), (duckdb.ConnectionException("x"), "machine"),
    ],
)  # fmt: skip
def test_what_the_machine_fails_at_is_no_rows_fault(error, whose):
    assert DuckDB().fault(error) == whose


def test_rows_that_ask_for_too_much_memory_are_told_from_a_machine_that_has_none():
    def tight(first, size, guilty):
        if any(row in guilty for row in range(first, first + size)):
            raise MemoryError("too little")

    found, guilty = halved(5, lambda first, size: tight(first, size, {2}))
    assert list(guilty) == [2] and sum(size for _, size, _ in found) == 4
    with pytest.raises(MemoryError):
        halved(5, lambda first, size: tight(first, size, range(5)))
