"""From stored payloads to typed rows, each judged by itself: good, or wrong for a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.types import Mask, from_arrow, from_python, in_json, value_schema
from millstream.buffer.codec.values import TEXTS, Unfit, fit, reason
from millstream.definitions.data_types import arrow_type, where
from millstream.definitions.schema import digits_of
from millstream.definitions.source import EventStream

UNDECLARED = int(np.iinfo(np.int64).min)
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_PYTHON_TYPES: dict[str, Any] = {
    "int64": _Int64 | None,
    "float64": float | None,
    "string": str | None,
    "bool": bool | None,
    "timestamp": str | _Int64 | None,
    **dict.fromkeys(TEXTS, str | None),
    **dict.fromkeys(("list<float32>", "list<float64>"), list[float | None] | None),
    "list<int64>": list[_Int64 | None] | None,
    "list<string>": list[str | None] | None,
}
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, Any], float_hook=lambda text: _number(text))
_DECIMALS = msgspec.json.Encoder(decimal_format="number")
_REFUSALS = (msgspec.DecodeError, UnicodeError, ValueError, RecursionError)


@dataclass(frozen=True)
class Parsed:
    """The rows of a payload.

    Args:
        table: the good rows, typed, with `rest`.
        rows: for each of them, which row of the payload it is.
        bad: the others: row of the payload, and what is wrong with it.
        arrivals: for each good row the declared arrival in microseconds, or `UNDECLARED`; None when none is declared.
    """

    table: pa.Table
    rows: npt.NDArray[np.int64]
    bad: list[tuple[int, str]]
    arrivals: npt.NDArray[np.int64] | None = None


def parse_json(stream: EventStream, lines: Sequence[bytes]) -> Parsed:
    """Parse one JSON object a line."""
    reader = _reader(tuple(stream.schema.items()))
    try:
        events = [reader.exact.decode(line) for line in lines]
        rests: list[str | None] | None = None
        rows = np.arange(len(lines), dtype=np.int64)
        bad: list[tuple[int, str]] = []
    except _REFUSALS:
        events, rests, rows, bad = _one_by_one(reader, lines)
    columns, wrong = [], []
    for index, (name, kind) in enumerate(stream.schema.items()):
        attribute = f"f{index}"
        values = [getattr(event, attribute) for event in events]
        column, mask = from_python(values, kind)
        columns.append(column)
        wrong.append(_Wrong(name, kind, mask, values))
    columns.append(pa.nulls(len(events), pa.string()) if rests is None else pa.array(rests, pa.string()))
    return _sorted_out(pa.Table.from_arrays(columns, schema=value_schema(stream)), rows, bad, wrong)


def parse_arrow(stream: EventStream, table: pa.Table) -> Parsed:
    """Bring an Arrow table to the stream's schema; fields that came before their column was declared are in `rest`."""
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:  # which one is meant cannot be known
        return _all_wrong(stream, len(table), f"Two columns are named '{twice}'.")
    columns: list[pa.Array] = []
    wrong: list[_Wrong] = []
    for name, kind in stream.schema.items():
        if name not in table.column_names:
            columns.append(pa.nulls(len(table), arrow_type(kind)))
            continue
        given = _whole(table, name)
        column, mask = from_arrow(given, kind)
        columns.append(column)
        wrong.append(_Wrong(name, kind, mask, given))
    columns.append(_rest(stream, table))
    rows = np.arange(len(table), dtype=np.int64)
    bad = _take_out_of_rest(stream, columns)
    arrivals = None
    if "_arrival" in table.column_names:
        given = _whole(table, "_arrival")
        declared, mask = from_arrow(given, "int64")
        arrivals = declared.fill_null(UNDECLARED).to_numpy(zero_copy_only=False)
        wrong.append(_Wrong("_arrival", "int64", mask, given))
    parsed = _sorted_out(pa.Table.from_arrays(columns, schema=value_schema(stream)), rows, [], wrong, arrivals)
    return _without(parsed, bad) if bad else parsed


def _take_out_of_rest(stream: EventStream, columns: list[pa.Array]) -> dict[int, str]:
    """Complete columns, `rest` last, by what is in `rest` under their names; returns the rows that have a wrong value.

    A field is there when its column was declared after the row was parsed. It is judged as it would be today.
    """
    rest, bad = columns[-1], dict[int, str]()
    pairs = zip(stream.schema.items(), columns, strict=False)
    late = {name: kind for (name, kind), column in pairs if column.null_count and rest.null_count < len(rest)}
    named = np.zeros(len(rest), np.bool_)
    for name in late:
        field = f"{json.dumps(name, ensure_ascii=False)}:"
        named |= pc.fill_null(pc.match_substring(rest, field), False).to_numpy(zero_copy_only=False)
    places: list[int] = np.flatnonzero(named).tolist()
    if not places:
        return bad
    reader, taken, left = _reader(tuple(late.items())), list[Any](), dict[int, str | None]()
    for place in places:
        try:
            event, left[place] = _tolerated(reader, rest[place].as_py().encode())
            taken.append((place, event))
        except _Guilty as error:
            bad[place] = str(error)
        except _REFUSALS:
            continue  # what a frame calls `rest` need not be JSON
    rows = pa.array([place for place, _ in taken], pa.int64())
    everywhere = pc.index_in(pa.array(np.arange(len(rest))), value_set=rows)
    for index, (name, kind) in enumerate(late.items()):
        values = [getattr(event, f"f{index}") for _, event in taken]
        found, mask = from_python(values, kind)
        for row, why in _Wrong(name, kind, mask, values).reasons():
            bad.setdefault(taken[row][0], why)
        column = list(stream.schema).index(name)
        columns[column] = where(columns[column].is_valid(), columns[column], found.take(everywhere))
    remaining = pa.array([left.get(place) for place, _ in taken], pa.string())
    columns[-1] = pc.if_else(everywhere.is_valid(), remaining.take(everywhere), rest)
    return bad


def _without(parsed: Parsed, bad: Mapping[int, str]) -> Parsed:
    """The rows of a payload without those that are wrong for another reason too; the first reason counts."""
    keep = ~np.isin(parsed.rows, list(bad))
    found = sorted({**bad, **dict(parsed.bad)}.items())
    arrivals = None if parsed.arrivals is None else parsed.arrivals[keep]
    return Parsed(parsed.table.filter(pa.array(keep)), parsed.rows[keep], found, arrivals)


def into_rest(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Decoded events with the values of some columns in `rest`, as if their stream had not declared them."""
    columns = {name: [_field(value) for value in table[name]] for name in names}
    rests = []
    for place, rest in enumerate(table["rest"].to_pylist()):
        row = {name: values[place] for name, values in columns.items() if values[place] is not None}
        joined = f"{_as_json(row)[:-1]},{rest[1:]}" if row and rest and rest[:1] == "{" and rest != "{}" else None
        rests.append(joined or (_as_json(row) if row else rest))
    remaining = table.drop_columns([*names, "rest"])
    return remaining.append_column("rest", pa.array(rests, pa.string()))


def _all_wrong(stream: EventStream, rows: int, reason: str) -> Parsed:
    bad = [(row, reason) for row in range(rows)]
    return Parsed(value_schema(stream).empty_table(), np.zeros(0, np.int64), bad)


def row_text(table: pa.Table, row: int) -> str:
    """Return one row of a table as JSON text, for a dead letter."""
    values = zip(table.column_names, table.columns, strict=True)
    return "{" + ",".join(f"{json.dumps(name)}:{_as_json(plain_value(column[row]))}" for name, column in values) + "}"


def as_sent(text: str) -> tuple[str, int | None]:
    """A row of a frame as one JSON object of its fields, from its `row_text`, and the arrival that it declared."""
    fields = _FIELDS.decode(text)
    arrival, rest = fields.pop("_arrival", None), fields.get("rest")
    if isinstance(rest, str) and rest[:1] == "{":
        del fields["rest"]
        fields |= _FIELDS.decode(rest)
    whole = {
        name: int(v) if isinstance(v, float | Decimal) and v == int(v) else v
        for name, v in fields.items()
        if v is not None
    }
    return _as_json(whole), arrival


def plain_value(value: pa.Scalar) -> Any:
    """Return a value as Python has it, or where Python has none (the year 300,000, broken UTF-8) as Arrow writes it."""
    if value.type in _FINE and value.is_valid:  # Python's instants are no finer than a microsecond, as are ours
        value = value.cast(pa.timestamp("us", value.type.tz), safe=False)
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return str(value.value) if pa.types.is_temporal(value.type) else pa.array([value], value.type).to_string()


def _field(value: pa.Scalar) -> Any:
    """A value for `rest`: a whole number of a frame is one for every type of number, however the frame held it."""
    plain = plain_value(value)
    return int(plain) if isinstance(plain, float) and plain.is_integer() and abs(plain) < 2**63 else plain


_FINE = (pa.timestamp("ns"), pa.timestamp("ns", "UTC"))


def _as_json(value: Any) -> str:
    return _JSON.encode(value).decode()


_JSON = msgspec.json.Encoder(enc_hook=repr, decimal_format="number")


@dataclass(frozen=True)
class _Reader:
    """Decoders of one schema: one refuses unknown fields, so that they are noticed at no cost; one ignores them."""

    schema: tuple[tuple[str, str], ...]
    known: frozenset[str]
    event: type[msgspec.Struct]
    exact: msgspec.json.Decoder[Any]
    tolerant: msgspec.json.Decoder[Any]


@lru_cache(maxsize=256)
def _reader(schema: tuple[tuple[str, str], ...]) -> _Reader:
    fields = [(f"f{index}", _PYTHON_TYPES.get(kind, msgspec.Raw), None) for index, (_, kind) in enumerate(schema)]
    names = {f"f{index}": name for index, (name, _) in enumerate(schema)}
    # Events hold no references to each other: leaving them out of garbage collection makes decoding several times
    # faster.
    exact = msgspec.defstruct("Event", fields, rename=names, gc=False, forbid_unknown_fields=True)
    tolerant = msgspec.defstruct("Event", fields, rename=names, gc=False)
    return _Reader(
        schema,
        frozenset(name for name, _ in schema),
        tolerant,
        msgspec.json.Decoder(exact),
        msgspec.json.Decoder(tolerant),
    )


def _one_by_one(
    reader: _Reader, lines: Sequence[bytes]
) -> tuple[list[Any], list[str | None], npt.NDArray[np.int64], list[tuple[int, str]]]:
    """Read lines of which at least one is wrong, has unknown fields, or writes a value in an unusual way."""
    events: list[Any] = []
    rests: list[str | None] = []
    rows: list[int] = []
    bad: list[tuple[int, str]] = []
    for index, line in enumerate(lines):
        try:
            event, rest = _tolerated(reader, line)
        except _Guilty as error:
            bad.append((index, str(error)))
            continue
        except _REFUSALS as error:
            bad.append((index, _refused(line, error)))
            continue
        events.append(event)
        rests.append(rest)
        rows.append(index)
    return events, rests, np.array(rows, np.int64), bad


def _refused(line: bytes, error: Exception) -> str:
    """Why a line cannot be read: half of a surrogate pair, which a parser calls this or that, or what it says."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "Not a JSON object: a string holds half of a surrogate pair, which is no character."
    except (ValueError, RecursionError):
        pass
    return f"Not a JSON object: {error}."


def _tolerated(reader: _Reader, line: bytes) -> tuple[Any, str | None]:
    """Read one line, with its unknown fields as JSON."""
    try:
        return reader.exact.decode(line), None
    except _REFUSALS:
        pass
    fields = _read(line)
    unknown = {name: value for name, value in fields.items() if name not in reader.known}
    try:
        event = reader.tolerant.decode(line)
    except _REFUSALS:
        event = _judged(reader, fields, line)
    return event, _rest_of(line, unknown) if unknown else None


def _number(text: str) -> float | Decimal:
    """A number with a point, no digit of which is lost; with an exponent, it was a float when it was written."""
    return float(text) if "e" in text or "E" in text else Decimal(text)


def _read(line: bytes) -> dict[str, Any]:
    try:
        return _FIELDS.decode(line)
    except msgspec.ValidationError:
        raise
    except _REFUSALS:
        if b"NaN" not in line and b"Infinity" not in line:  # not JSON, yet what Python and others write
            raise
    fields = json.loads(line, parse_float=_number)
    if not isinstance(fields, dict):
        raise ValueError(f"Expected `object`, got `{type(fields).__name__}`")
    json.dumps(fields, ensure_ascii=False, default=str).encode()  # refuses half a surrogate pair, which is no text
    return fields


def _rest_of(line: bytes, unknown: Mapping[str, Any]) -> str:
    """The unknown fields as they were written, where JSON can be cut there."""
    try:
        raw = _RAW.decode(line)
        return msgspec.json.encode({name: raw[name] for name in unknown}).decode()
    except _REFUSALS:
        return _DECIMALS.encode(unknown).decode()


def _judged(reader: _Reader, fields: Mapping[str, Any], line: bytes) -> Any:
    """The event of fields of which at least one is not of its column's plain type; each is judged by itself."""
    values: dict[str, Any] = {}
    for index, (name, kind) in enumerate(reader.schema):
        value = _exactly(line, name, fields.get(name)) if digits_of(kind) else fields.get(name)
        written = kind in ("timestamp", *TEXTS) and isinstance(value, str)  # text is read as that of a frame is
        try:
            fitted = value if written else fit(value, kind)
        except Unfit:
            raise _Guilty(reason(name, kind, value)) from None
        if written:
            mask = from_python([value], kind)[1]
            if mask is not None and mask[0]:
                raise _Guilty(reason(name, kind))
        values[f"f{index}"] = fitted
    return reader.event(**values)


def _exactly(line: bytes, name: str, read: Any) -> Any:
    """A field of a line with every digit that it has there, or as it was read, where that is no JSON."""
    try:
        return in_json(_RAW.decode(line)[name])
    except (*_REFUSALS, KeyError, ArithmeticError):
        return read


class _Guilty(Exception):
    """A line is an object with a value that does not fit its column; says which."""


@dataclass(frozen=True)
class _Wrong:
    """Which values of a column are wrong (`mask` None: none is), and the values as they were given."""

    name: str
    kind: str
    mask: Mask | None
    given: Sequence[Any] | pa.Array

    def reasons(self) -> Iterator[tuple[int, str]]:
        """Each row with a wrong value, and why."""
        for row in [] if self.mask is None else np.flatnonzero(self.mask).tolist():
            value = self.given[row]
            yield row, reason(self.name, self.kind, plain_value(value) if isinstance(value, pa.Scalar) else value)


def _sorted_out(
    table: pa.Table,
    rows: npt.NDArray[np.int64],
    bad: list[tuple[int, str]],
    wrong: Sequence[_Wrong],
    arrivals: npt.NDArray[np.int64] | None = None,
) -> Parsed:
    """Take the rows with a wrong value out of the table; the first wrong column gives the reason."""
    guilty: dict[int, str] = {}
    for column in wrong:
        for row, why in column.reasons():
            guilty.setdefault(row, why)
    if not guilty:
        return Parsed(table, rows, bad, arrivals)
    keep = np.ones(len(table), np.bool_)
    keep[list(guilty)] = False
    bad = sorted(bad + [(int(rows[index]), why) for index, why in guilty.items()])
    return Parsed(table.filter(pa.array(keep)), rows[keep], bad, None if arrivals is None else arrivals[keep])


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _rest(stream: EventStream, table: pa.Table) -> pa.Array:
    """The columns that the schema does not know, as JSON; a `rest` that is text already stays as it is."""
    unknown = [name for name in table.column_names if name not in stream.schema and name != "_arrival"]
    if unknown == ["rest"] and table["rest"].type == pa.string():
        return _whole(table, "rest")
    if not unknown:
        return pa.nulls(len(table), pa.string())
    columns = {name: [_field(value) for value in table[name]] for name in unknown}
    rows = ({name: values[i] for name, values in columns.items() if values[i] is not None} for i in range(len(table)))
    return pa.array([_as_json(row) if row else None for row in rows], pa.string())
