"""From a producer's rows to batches for the log.

Dicts are stored as they were given, so that a wrong one can become a dead letter with its own text; data frames are
stored as Arrow.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from itertools import chain, count
from typing import Any
from uuid import UUID
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.frames import Rows, taken
from millstream.buffer.codec.read import parse_json
from millstream.buffer.codec.types import from_arrow
from millstream.buffer.codec.values import Unfit, fit, is_missing
from millstream.buffer.log import Batch
from millstream.buffer.parts import LARGEST
from millstream.definitions.source import EventStream
from millstream.errors import LogError

BATCH_ROWS = 50_000
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_PLAIN = {str, int, float, bool, type(None)}  # what JSON says as it is: NaN and infinities are null, as in a frame
_QUICK = {*_PLAIN, UUID, date}  # what it says at once as `_sayable` would


def encode(stream: EventStream, rows: Rows, largest: int | None = LARGEST) -> list[Batch]:
    """Make batches of events for the log.

    Args:
        stream: the stream they are sent to.
        rows: dicts, or an Arrow table, a pandas or Polars frame, or anything with `__arrow_c_stream__`.
        largest: the most bytes of a batch, as the log says (1 MB); None where no log takes them.

    Returns:
        list[Batch]: of at most 50,000 events each; none for no rows.

    Raises:
        LogError: when the rows are neither, or declare an arrival, which only loaded history may; or when one event
            alone is larger.

    Example:
        >>> from millstream.buffer.codec.write import encode
        >>> from millstream.definitions.source import EventStream
        >>> clicks = EventStream("clicks", time="at", schema={"at": "timestamp"})
        >>> encode(clicks, [{"at": "2024-01-01"}])
        [Batch(payload=b'{"at":"2024-01-01"}', encoding='json', count=1)]
    """
    given = taken(_thing(stream), rows)
    if not isinstance(given, pa.Table):
        return _within(_thing(stream), _json_batches(_in_text(stream, given)), largest)
    if "_arrival" in given.column_names:
        raise LogError(
            f"Stream '{stream.name}': column '_arrival' is Millstream's own; live events arrive when they are taken.",
            "rename the column, or load the rows as history.",
        )
    return _within(_thing(stream), _arrow_batches(given, largest), largest)


def encode_history(stream: EventStream, rows: Rows, largest: int | None = LARGEST) -> list[Batch]:
    """Make batches of loaded history, whose arrival is declared rather than stamped.

    The arrival is the stream's `available` column, where it is not null; else the event time plus the stream's `delay`.

    Args:
        stream: the stream.
        rows: what `encode` takes; a column `_arrival` (int64, µs) in a frame goes before both.
        largest: the most bytes of a batch, as the log says (1 MB); None where no log takes them.

    Returns:
        list[Batch]: in the rows' order, but dicts that do not fit the schema come last; none for no rows.

    Raises:
        LogError: when the rows are nothing that `encode` takes, `_arrival` is no integer, or one event alone is larger.
    """
    table = taken(_thing(stream), rows)
    wrong: list[Batch] = []
    if not isinstance(table, pa.Table):
        lines = [line for batch in _json_batches(_in_text(stream, table)) for line in batch.payload.split(b"\n")]
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
    return _within(_thing(stream), [*_arrow_batches(table, largest), *wrong], largest)


def encode_lines(payload: bytes, largest: int | None = LARGEST) -> list[Batch]:
    """Make batches of newline-delimited JSON as it came, without blank lines; what is no JSON becomes a dead letter.

    Args:
        payload: the lines.
        largest: the most bytes of a batch, as the log says (1 MB); None where no log takes them.

    Raises:
        LogError: when one line alone is larger.
    """
    return _within("Events", _line_batches([line for line in payload.split(b"\n") if line.strip()]), largest)


def partition_of(stream: EventStream, rows: Rows, partitions: int) -> list[tuple[int, Rows]]:
    """Divide rows among the partitions of a stream's topic, keeping their order.

    Equal values of the stream's `partition_by` go to the same partition, whatever form the rows come in; without one,
    all rows go together to one partition after another.

    Args:
        stream: the stream.
        rows: what `encode` takes.
        partitions: how many partitions its topic has now.

    Returns:
        list[tuple[int, rows]]: partition and rows, dicts or an Arrow table, for each partition that gets any.

    Raises:
        LogError: when the rows are nothing that `encode` takes.
    """
    given = taken(_thing(stream), rows)
    if len(given) == 0:
        return []
    if partitions == 1:
        return [(0, given)]
    if stream.partition_by is None:
        return [(next(_rotation) % partitions, given)]
    if isinstance(given, pa.Table):
        column = _key_bytes(given, stream.partition_by, stream.schema[stream.partition_by])
        codes = np.array([crc32(value or b"") for value in column], np.int64) % partitions
        return [(int(code), given.filter(pa.array(codes == code))) for code in np.unique(codes)]
    divided: dict[int, list[Any]] = {}
    kind = stream.schema[stream.partition_by]
    for row in given:
        value = row.get(stream.partition_by) if isinstance(row, Mapping) else None
        divided.setdefault(crc32(_key_text(value, kind)) % partitions, []).append(row)
    return sorted(divided.items())


def partitions_of_lines(stream: EventStream, lines: Sequence[bytes], partitions: int) -> list[int]:
    """For each event of JSON the partition in which `partition_of` puts the same event, by the column that decides it.

    Args:
        stream: the stream, which has a `partition_by`.
        lines: the events; one that is no JSON goes where one without a value goes.
        partitions: how many partitions there are.

    Returns:
        list[int]: a partition for each.

    Example:
        >>> clicks = EventStream("clicks", time="at", partition_by="user", schema={"user": "int64", "at": "timestamp"})
        >>> partitions_of_lines(clicks, [b'{"user": 7}', b'{"user": 7.0}', b'no JSON'], 4)
        [2, 2, 0]
    """
    assert stream.partition_by is not None
    column, kind = stream.partition_by, stream.schema[stream.partition_by]
    return [crc32(_key_text(_field(line, column), kind)) % partitions for line in lines]


def encode_frame(table: pa.Table, largest: int | None = LARGEST, thing: str = "Frame") -> list[Batch]:
    """Make batches of a table as it is, with the arrival that it declares, if it does.

    Args:
        table: the table.
        largest: the most bytes of a batch, as the log says (1 MB); None where no log takes them.
        thing: what the table is of, for an error.

    Raises:
        LogError: when one row alone is larger.
    """
    return _within(thing, _arrow_batches(table, largest), largest)


def _field(line: bytes, column: str) -> Any:
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.get(column) if isinstance(found, dict) else None


_rotation = count(os.getpid())  # so that many short-lived producers do not all begin with the same partition


def _key_text(value: Any, kind: str) -> bytes:
    """A partition key as the bytes that are hashed: the same for a value in a dict and in a frame."""
    with suppress(Unfit):  # its event becomes a dead letter, wherever that lies
        value = fit(value, kind)
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes):
        return value
    return str(value).encode(errors="replace")


def _key_bytes(table: pa.Table, column: str, kind: str) -> list[bytes | None]:
    if column not in table.column_names:
        return [None] * len(table)
    values, _ = from_arrow(table[column].combine_chunks(), kind)
    if kind not in ("int64", "string"):
        values = values.cast(pa.int64()) if kind == "timestamp" else values
        return [_key_text(value, kind) for value in values.to_pylist()]
    texts: list[bytes | None] = pc.cast(pc.cast(values, pa.string()), pa.binary()).to_pylist()
    return texts


def _thing(stream: EventStream) -> str:
    return f"Stream '{stream.name}'"


def _within(thing: str, batches: Iterable[Batch], largest: int | None) -> list[Batch]:
    """Batches cut into smaller ones, so that each has at most so many bytes."""
    if largest is None:
        return list(batches)
    fitting: list[Batch] = []
    for batch in batches:
        if len(batch.payload) <= largest:
            fitting.append(batch)
        elif batch.count == 1:
            raise LogError.too_large(f"{thing}: an event", len(batch.payload), largest)
        else:
            halves = _json_halves(batch) if batch.encoding == "json" else _arrow_halves(batch)
            fitting += _within(thing, halves, largest)
    return fitting


def _json_halves(batch: Batch) -> Iterator[Batch]:
    """The events of a batch in two, of about as many bytes each."""
    middle = len(batch.payload) // 2
    at = batch.payload.find(b"\n", middle)
    at = batch.payload.rfind(b"\n") if at < 0 else at
    first = batch.payload.count(b"\n", 0, at) + 1
    yield Batch(batch.payload[:at], "json", first)
    yield Batch(batch.payload[at + 1 :], "json", batch.count - first)


def _arrow_halves(batch: Batch) -> Iterator[Batch]:
    table, middle = pa.ipc.open_stream(batch.payload).read_all(), batch.count // 2
    yield _arrow_batch(table.slice(0, middle))
    yield _arrow_batch(table.slice(middle))


def _arrow_batches(table: pa.Table, largest: int | None = None) -> Iterator[Batch]:
    """Batches of about the size that is wanted; what a few long values make of one is seen once it is written."""
    rows = BATCH_ROWS
    if largest is not None and len(table):
        rows = max(1, min(rows, int(0.8 * largest * len(table) / max(1, table.nbytes))))
    for start in range(0, len(table), rows):
        yield _arrow_batch(table.slice(start, rows))


def _arrow_batch(table: pa.Table) -> Batch:
    part, sink = table.combine_chunks(), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as writer:
        writer.write_table(part)
    return Batch(sink.getvalue().to_pybytes(), "arrow", len(part))


def _json_batches(rows: Sequence[Any]) -> Iterator[Batch]:
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        try:
            if not set(map(type, chain.from_iterable(map(dict.values, part)))) <= _QUICK:
                raise TypeError("values that JSON would write otherwise than a frame holds them")
            payload = _ENCODER.encode_lines(part).rstrip(b"\n")
        except (TypeError, ValueError, RecursionError):
            payload = b"\n".join(map(_line, part))
        yield Batch(payload, "json", len(part))


def _in_text(stream: EventStream, rows: Sequence[Any]) -> Sequence[Any]:
    """Dicts with the bytes of those columns that take them as the text that JSON has of them."""
    kinds = {name: kind for name, kind in stream.schema.items() if kind in ("bytes", "uuid")}
    return [_row_in_text(kinds, row) for row in rows] if kinds else rows


def _row_in_text(kinds: Mapping[str, str], row: Any) -> Any:
    raw = {}
    for name in kinds if isinstance(row, dict) else ():
        value = row.get(name)
        if isinstance(value, bytes | bytearray | memoryview):
            raw[name] = bytes(value)
    texts = {name: b64encode(one).decode() for name, one in raw.items() if kinds[name] == "bytes"}
    texts |= {name: str(UUID(bytes=one)) for name, one in raw.items() if kinds[name] == "uuid" and len(one) == 16}
    return {**row, **texts} if texts else row


def _line_batches(lines: Sequence[bytes]) -> Iterator[Batch]:
    for start in range(0, len(lines), BATCH_ROWS):
        part = lines[start : start + BATCH_ROWS]
        yield Batch(b"\n".join(part), "json", len(part))


def _line(row: Any) -> bytes:
    """Encode one row whatever it holds; what JSON cannot say is said as text, to become a dead letter."""
    try:
        return _ENCODER.encode(_sayable(row))
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(row, default=_sayable).encode()  # keeps half a surrogate pair, as what it is
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_shown(row)).encode()


def _shown(row: Any) -> str:
    try:
        return repr(row)
    except Exception as error:  # a row may hold anything, such as a number too long to be written
        return f"a {type(row).__name__} that cannot be shown: {error}"


def _sayable(value: Any) -> Any:
    """Values of NumPy, pandas and Python as JSON has them; anything else as an object, which no column takes."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {_name(key): _sayable(one) for key, one in value.items()}
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return [_sayable(one) for one in value]
    if is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[us]") if _in_years(value) else value)
    if isinstance(value, np.generic):
        return _sayable(value.item()) if type(value.item()) is not type(value) else float(value)
    if isinstance(value, str | int | float | Decimal | UUID):
        return str(value) if isinstance(value, str | UUID) else value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return {"unreadable": _shown(value)}


def _name(key: Any) -> str:
    if isinstance(key, str | int | float):
        return str(key)
    raise TypeError("a key that is no text")


def _in_years(instant: np.datetime64) -> bool:
    return bool(-1969 <= instant.astype("datetime64[Y]").astype(np.int64) <= 8029)


def _arrival(stream: EventStream, table: pa.Table) -> pa.Array:
    """The declared arrival of each row in microseconds; null where its event time is wrong, as decoding will find."""
    arrival = pc.add(_micros(table, stream.time), stream.delay)
    return arrival if stream.available is None else pc.coalesce(_micros(table, stream.available), arrival)


def _micros(table: pa.Table, column: str) -> pa.Array:
    if column not in table.column_names:
        return pa.nulls(len(table), pa.int64())
    instants, _ = from_arrow(table[column].combine_chunks(), "timestamp")
    return instants.cast(pa.int64())
