"""From a producer's rows to batches for the log.

Dicts are stored as they were given, so that a wrong one can become a dead letter with its own text; data frames are
stored as Arrow.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.columns import from_arrow
from millstream.buffer.log import Batch
from millstream.buffer.parse import parse_json
from millstream.clock import to_micros
from millstream.definitions.source import EventStream
from millstream.errors import LogError

BATCH_ROWS = 50_000
Rows = Any  # a sequence of dicts, or any data frame that speaks Arrow


def encode(stream: EventStream, rows: Rows) -> list[Batch]:
    """Make batches of events for the log.

    Args:
        stream: the stream they are sent to.
        rows: dicts, or an Arrow table, a pandas or Polars frame, or anything with `__arrow_c_stream__`.

    Returns:
        list[Batch]: of at most 50,000 events each; none for no rows.

    Raises:
        LogError: when the rows are neither, or declare an arrival, which only loaded history may.

    Example:
        >>> from millstream.buffer.encoding import encode
        >>> from millstream.definitions.source import EventStream
        >>> clicks = EventStream("clicks", time="at", schema={"at": "timestamp"})
        >>> encode(clicks, [{"at": "2024-01-01"}])
        [Batch(payload=b'{"at":"2024-01-01"}', encoding='json', count=1)]
    """
    given = _plain_rows(stream, rows)
    if not isinstance(given, pa.Table):
        return list(_json_batches(stream, given))
    if "_arrival" in given.column_names:
        raise LogError(
            f"Stream '{stream.name}': column '_arrival' is Millstream's own; live events arrive when they are taken.",
            "rename the column, or load the rows as history.",
        )
    return list(_arrow_batches(given))


def encode_history(stream: EventStream, rows: Rows) -> list[Batch]:
    """Make batches of loaded history, whose arrival is declared rather than stamped.

    The arrival is the stream's `available` column, where it is not null; else the event time plus the stream's `delay`.
    A column `_arrival` (microseconds) in a frame goes before both. Arguments, result and errors are those of `encode`.
    """
    table = _plain_rows(stream, rows)
    wrong: list[Batch] = []
    if not isinstance(table, pa.Table):
        lines = [line for batch in _json_batches(stream, table) for line in batch.payload.split(b"\n")]
        parsed = parse_json(stream, lines)
        table = parsed.table
        wrong = list(_line_batches([lines[row] for row, _ in parsed.bad]))
    if "_arrival" not in table.column_names:
        table = table.append_column("_arrival", _arrival(stream, table))
    if not pa.types.is_integer(table["_arrival"].type):
        raise LogError(
            f"Stream '{stream.name}': column '_arrival' was given {table['_arrival'].type}; expected int64, microseconds.",
            "leave it out for the stream's own rule, or cast it.",
        )
    return [*_arrow_batches(table), *wrong]


def encode_lines(payload: bytes) -> list[Batch]:
    """Make batches of newline-delimited JSON as it came, without blank lines; what is no JSON becomes a dead letter."""
    return list(_line_batches([line for line in payload.split(b"\n") if line.strip()]))


def partition_of(stream: EventStream, rows: Rows, partitions: int) -> list[tuple[int, Rows]]:
    """Divide rows among the partitions of a stream's topic, keeping their order.

    Equal values of the stream's `partition_by` go to the same partition, whatever form the rows come in; without one,
    all rows go together to one partition after another.

    Returns:
        list[tuple[int, rows]]: partition and rows, dicts or an Arrow table, for each partition that gets any.
    """
    given = _plain_rows(stream, rows)
    if len(given) == 0:
        return []
    if partitions == 1:
        return [(0, given)]
    if stream.partition_by is None:
        return [(next(_rotation) % partitions, given)]
    if isinstance(given, pa.Table):
        codes = (
            np.array([crc32(value or b"") for value in _key_bytes(given, stream.partition_by)], np.int64) % partitions
        )
        return [(int(code), given.filter(pa.array(codes == code))) for code in np.unique(codes)]
    divided: dict[int, list[Any]] = {}
    for row in given:
        value = row.get(stream.partition_by) if isinstance(row, Mapping) else None
        divided.setdefault(crc32(_key_text(value)) % partitions, []).append(row)
    return sorted(divided.items())


_rotation = count(os.getpid())  # so that many short-lived producers do not all begin with the same partition


def _key_text(value: Any) -> bytes:
    """A partition key as the bytes that are hashed: the same for a value in a dict and in a frame."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return b""
    if isinstance(value, bool | np.bool_):
        return b"true" if value else b"false"
    return str(value).encode(errors="replace")


def _key_bytes(table: pa.Table, column: str) -> list[bytes | None]:
    if column not in table.column_names:
        return [None] * len(table)
    values = table[column]
    if pa.types.is_floating(values.type) or pa.types.is_nested(values.type) or pa.types.is_decimal(values.type):
        return [_key_text(value) for value in values.to_pylist()]
    texts: list[bytes | None] = pc.cast(pc.cast(values, pa.string()), pa.binary()).to_pylist()
    return texts


def _plain_rows(stream: EventStream, rows: Rows) -> pa.Table | Sequence[Any]:
    """The rows as Arrow if they are a frame; as dicts if they are dicts, or a frame of mixed Python objects."""
    if isinstance(rows, pa.Table):
        return _named_apart(stream, rows)
    if isinstance(rows, pa.RecordBatch):
        return _named_apart(stream, pa.Table.from_batches([rows]))
    if type(rows).__module__.partition(".")[0] == "pandas":
        _check_names(stream, list(map(str, rows.columns)))
        try:
            return pa.Table.from_pandas(rows, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return list(rows.to_dict("records"))
    if hasattr(rows, "__arrow_c_stream__"):
        return _named_apart(stream, pa.table(rows))
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        return rows
    raise LogError(
        f"Stream '{stream.name}' was given rows of type '{type(rows).__name__}'; expected dicts or a data frame.",
        "pass a list of dicts, or an Arrow table, pandas or Polars frame.",
    )


def _named_apart(stream: EventStream, table: pa.Table) -> pa.Table:
    _check_names(stream, table.column_names)
    return table


def _check_names(stream: EventStream, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LogError(
            f"Stream '{stream.name}' was given two columns named '{twice}'; expected each name once.",
            "rename or drop one of them; nothing was sent.",
        )


def _arrow_batches(table: pa.Table) -> Iterator[Batch]:
    for start in range(0, len(table), BATCH_ROWS):
        part = table.slice(start, BATCH_ROWS).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        yield Batch(sink.getvalue().to_pybytes(), "arrow", len(part))


def _json_batches(stream: EventStream, rows: Sequence[Any]) -> Iterator[Batch]:
    numeric = {name for name, kind in stream.schema.items() if kind == "float64"}
    encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=_plain)
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        try:
            payload = encoder.encode_lines(part).rstrip(b"\n")
            if b"null" in payload and any(_hides_nan(row, numeric) for row in part):
                raise ValueError("NaN would be written as null")
        except (TypeError, ValueError, RecursionError):
            payload = b"\n".join(_line(encoder, row, numeric) for row in part)
        yield Batch(payload, "json", len(part))


def _line_batches(lines: Sequence[bytes]) -> Iterator[Batch]:
    for start in range(0, len(lines), BATCH_ROWS):
        part = lines[start : start + BATCH_ROWS]
        yield Batch(b"\n".join(part), "json", len(part))


def _hides_nan(row: Any, numeric: set[str]) -> bool:
    """Whether a NaN that must become a dead letter, being no number's absence, would be written as null."""
    if not isinstance(row, Mapping):
        return False
    return any(isinstance(value, float) and math.isnan(value) for key, value in row.items() if key not in numeric)


def _line(encoder: msgspec.json.Encoder, row: Any, numeric: set[str]) -> bytes:
    """Encode one row whatever it holds; what JSON cannot say is said as text, to become a dead letter."""
    try:
        if not _hides_nan(row, numeric):
            return encoder.encode(row)
        return json.dumps(row, default=_plain).encode()
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_shown(row)).encode()


def _shown(row: Any) -> str:
    try:
        return repr(row)
    except Exception as error:  # a row may hold anything, such as a number too long to be written
        return f"a {type(row).__name__} that cannot be shown: {error}"


def _plain(value: Any) -> Any:
    """Values of NumPy and pandas as plain ones; anything else as an object, which no column takes."""
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else to_micros(value)
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if type(value) is dict:  # what this returned for a key, which JSON writes as text: it would be asked for ever
        raise TypeError("a key that is no text")
    return {"unreadable": _shown(value)}


def _arrival(stream: EventStream, table: pa.Table) -> pa.Array:
    """The declared arrival of each row in microseconds; null where its event time is wrong, as decoding will find."""
    arrival = pc.add(_micros(table, stream.time), stream.delay)
    return arrival if stream.available is None else pc.coalesce(_micros(table, stream.available), arrival)


def _micros(table: pa.Table, column: str) -> pa.Array:
    if column not in table.column_names:
        return pa.nulls(len(table), pa.int64())
    instants, _ = from_arrow(table[column].combine_chunks(), "timestamp")
    return instants.cast(pa.int64())
