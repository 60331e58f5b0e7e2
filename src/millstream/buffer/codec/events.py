"""Events as the layers see them: rows go in through `encode`, typed tables come out of `decode`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.codec.read import UNDECLARED, Parsed, as_sent, parse_arrow, parse_json, row_text
from millstream.buffer.codec.types import PLACE, event_schema
from millstream.buffer.codec.write import encode, encode_history, encode_lines, partition_of
from millstream.buffer.log import Batch, Encoding, Records
from millstream.buffer.parts import LARGEST
from millstream.clock import to_datetime
from millstream.definitions.durations import text
from millstream.definitions.source import EventStream
from millstream.errors import LogError

__all__ = [
    "DeadLetter",
    "Decoded",
    "dead_batches",
    "dead_letters",
    "decode",
    "encode",
    "encode_history",
    "encode_lines",
    "event_schema",
    "partition_of",
    "redecode",
    "refused",
    "retaken",
]

REFUSED = pa.schema([*PLACE, ("payload", pa.string())])
_PARSED = 1 << 27
"""About how many bytes of Arrow are parsed at once; a column of text cannot be larger than 2^31."""
_Ints = npt.NDArray[np.int64]


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that could not be taken, kept with its reason.

    Args:
        stream: the stream it was sent to.
        partition: the partition it is in.
        position: its position there.
        reason: what is wrong, in one sentence.
        payload: the event as it was sent, as text.
        arrival: when it arrived, in microseconds.
    """

    stream: str
    partition: int
    position: int
    reason: str
    payload: str
    arrival: int


@dataclass(frozen=True)
class Decoded:
    """Events read from the log: the good ones as a table (see `event_schema`), the others as dead letters.

    Both are in the order of the records they came from.
    """

    table: pa.Table
    dead: list[DeadLetter]


def decode(stream: EventStream, records: Sequence[Records]) -> Decoded:
    """Decode records of a stream's topic into typed events and dead letters.

    What becomes of an event depends on the event and its stamps alone, so a replay in other batches decides the same.
    An absent field is null, an unknown one goes into `rest` as JSON. Dead are: what is not JSON or has a wrong type, an
    event without its event time, and one whose time is beyond its arrival by more than the stream's `future`.

    Args:
        stream: the stream the records are of.
        records: what reads of the log gave, of any of its partitions.

    Raises:
        LogError: when a record is not a batch of events.

    Example:
        >>> import numpy as np
        >>> from millstream.buffer.codec.events import decode
        >>> from millstream.buffer.log import Batch, Records
        >>> from millstream.definitions.source import EventStream
        >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
        >>> lines = b'{"user_id": 1, "at": "2024-01-01"}' + b'\\n' + b'{"user_id": "x"}'
        >>> read = Records.of("clicks", 0, Batch(lines, "json", 2), np.array([5, 8]), 1704067200000000)
        >>> decoded = decode(clicks, [read])
        >>> decoded.table.select(["user_id", "_position"]).to_pylist()
        [{'user_id': 1, '_position': 5}]
        >>> [(letter.position, letter.reason) for letter in decoded.dead]
        [(8, "Wrong type: column 'user_id' does not hold a whole number of 64 bits.")]
    """
    tables: list[pa.Table] = []
    dead: list[DeadLetter] = []
    for piece in _pieces(stream, records):
        table, letters = _placed(stream, piece)
        tables.append(table)
        dead.extend(letters)
    if not tables:
        return Decoded(event_schema(stream).empty_table(), dead)
    return Decoded(tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks(), dead)


def redecode(stream: EventStream, table: pa.Table) -> pa.Table:
    """Events that were decoded by another definition of their stream, as `decode` would give them by this one.

    What the other one had no column for is in `rest`; what it refused is not among them.

    Args:
        stream: the stream as it is to be read.
        table: decoded events, with `rest` and where each was taken.

    Returns:
        pa.Table: events with the schema of `event_schema`, in the order of the table.
    """
    given = [name for name in (*stream.schema, "rest") if name in table.column_names]
    parsed = parse_arrow(stream, table.select(given))
    return _in_time(stream, parsed, table.select(PLACE.names).cast(PLACE).take(pa.array(parsed.rows)))


def _in_time(stream: EventStream, parsed: Parsed, places: pa.Table) -> pa.Table:
    """Parsed rows with where each was taken, without those whose event time cannot be."""
    arrivals, appended = (np.asarray(places[name]).astype(np.int64) for name in ("_arrival", "_appended"))
    keep = np.ones(len(parsed.rows), np.bool_)
    for index, _ in _out_of_time(stream, parsed.table, arrivals, appended):
        keep[index] = False
    found = pa.Table.from_arrays([*parsed.table.columns, *places.columns], schema=event_schema(stream))
    return found if keep.all() else found.filter(pa.array(keep))


def refused(records: Sequence[Records], letters: Sequence[DeadLetter]) -> pa.Table:
    """What `decode` could not take of some records, so that another definition of their stream can: see `retaken`."""
    payloads = {
        (some.partition, first): (encoding, appended)
        for some in records
        for first, encoding, appended in zip(some.firsts.tolist(), some.encodings, some.appended.tolist(), strict=True)
    }
    starts = sorted(payloads)
    rows = []
    for letter in letters:
        encoding, appended = payloads[starts[bisect_right(starts, (letter.partition, letter.position)) - 1]]
        text, arrival = letter.payload, None
        if encoding == "arrow":
            text, arrival = as_sent(text)
        rows.append((letter.partition, letter.position, arrival, appended, text))
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), REFUSED, strict=True)], REFUSED
    )


def retaken(stream: EventStream, table: pa.Table) -> pa.Table:
    """The events among those once `refused` that this definition of their stream takes, as `decode` gives them."""
    parsed = parse_json(stream, [text.encode() for text in table["payload"].to_pylist()])
    places = table.select(PLACE.names).take(pa.array(parsed.rows))
    arrival = pc.coalesce(places["_arrival"], places["_appended"])
    return _in_time(stream, parsed, places.set_column(2, PLACE.field("_arrival"), arrival))


def dead_batches(letters: Sequence[DeadLetter], largest: int = LARGEST) -> list[Batch]:
    """Make batches of dead letters, for the topic `dead.{stream}`.

    Args:
        letters: the letters; one that alone is larger than a batch may be carries the beginning of its event, and says so.
        largest: the most bytes of a batch, as the log says (1 MB).
    """
    batches, lines, size = list[Batch](), list[bytes](), 0
    for letter in letters:
        line = _letter_line(letter, largest)
        if lines and size + len(line) > largest:
            batches.append(Batch(b"\n".join(lines), "json", len(lines)))
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    return [*batches, Batch(b"\n".join(lines), "json", len(lines))] if lines else batches


def _letter_line(letter: DeadLetter, largest: int) -> bytes:
    line = msgspec.json.encode(letter)
    kept = min(len(letter.payload), largest)
    while len(line) > largest and kept:
        kept //= 2
        said = f"{letter.payload[:kept]} ... (cut: {len(letter.payload):,} characters)"
        line = msgspec.json.encode(msgspec.structs.replace(letter, payload=said, reason=letter.reason[: kept + 100]))
    return line


def dead_letters(records: Sequence[Records]) -> list[DeadLetter]:
    """Read dead letters back from the records of their topic."""
    decoder = msgspec.json.Decoder(DeadLetter)
    read = (some for some in records if len(some))
    return [decoder.decode(line) for some in read for line in b"\n".join(some.payloads).split(b"\n")[some.skip :]]


@dataclass(frozen=True)
class _Piece:
    """Rows of one encoding that are parsed at once, where each lies, and the source to quote a wrong one from."""

    parsed: Parsed
    partitions: _Ints
    positions: _Ints
    appended: _Ints
    source: Sequence[bytes] | pa.Table

    def quoted(self, row: int) -> str:
        """The row as it was sent."""
        if isinstance(self.source, pa.Table):
            return row_text(self.source, row)
        return self.source[row].decode(errors="replace")


def _pieces(stream: EventStream, records: Sequence[Records]) -> list[_Piece]:
    """Small batches are parsed together: one event a batch must not cost one parse an event."""
    pieces: list[_Piece] = []
    every = (run for some in records for run in _runs(some))
    for encoding, group in groupby(every, key=lambda run: run.encoding):
        runs = list(group)
        if encoding == "json":
            lines = [line for run in runs for line in run.lines()]
            pieces.append(_Piece(parse_json(stream, lines), *_places(runs), lines))
        elif encoding == "arrow":
            for table, together in _tables(runs):
                pieces.append(_Piece(parse_arrow(stream, table), *_places(together), table))
        else:
            raise LogError(
                f"Stream '{stream.name}': the records at {runs[0].places[1][0]} of partition {runs[0].of.partition} are "
                f"encoded as '{encoding}'.",
                "append events with `millstream.buffer.codec.events.encode`.",
            )
    return pieces


@dataclass(frozen=True)
class _Run:
    """Payloads of one encoding that follow each other (an Arrow one is alone), `skip` rows of the first left out.

    `places` are the partition, the position and the append time (µs) of each row.
    """

    of: Records
    encoding: Encoding
    payloads: list[bytes]
    counts: _Ints
    places: tuple[_Ints, _Ints, _Ints]
    skip: int

    def lines(self) -> list[bytes]:
        """The lines asked for; a payload with another number of lines than it says has nothing to give but itself."""
        found: list[bytes] = []
        for payload, count in zip(self.payloads, self.counts.tolist(), strict=True):
            lines = payload.split(b"\n")
            found += lines if len(lines) == count else [payload, *[b""] * (count - 1)]
        return found[self.skip :] if self.skip else found

    def table(self) -> pa.Table:
        """The rows of an Arrow payload."""
        try:
            table = pa.ipc.open_stream(self.payloads[0]).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise LogError(
                f"Topic '{self.of.topic}', partition {self.of.partition}: batch {self.places[1][0]} is not Arrow "
                f"({error}).",
                "append Arrow batches with `millstream.buffer.codec.events.encode`.",
            ) from error
        return table.slice(self.skip)


def _places(runs: Sequence[_Run]) -> tuple[_Ints, _Ints, _Ints]:
    """The places of the rows of some runs."""
    if len(runs) == 1:
        return runs[0].places
    partitions, positions, appended = zip(*(run.places for run in runs), strict=True)
    return np.concatenate(partitions), np.concatenate(positions), np.concatenate(appended)


def _tables(runs: Sequence[_Run]) -> Iterator[tuple[pa.Table, list[_Run]]]:
    """The rows of Arrow payloads that follow each other, as one table for all of the same types."""
    told: list[tuple[pa.Table, _Run, object]] = []
    size = 0
    for number, run in enumerate(runs):
        table = run.table()
        size += len(run.payloads[0])
        alone = number if "dictionary<" in str(table.schema) else None  # the values of one are not those of another
        told.append((table, run, (size // _PARSED, alone)))
    for _, group in groupby(told, key=lambda one: (one[0].schema, one[2])):
        tables, together, _ = zip(*group, strict=True)
        yield tables[0] if len(tables) == 1 else pa.concat_tables(tables), list(together)


def _runs(records: Records) -> Iterator[_Run]:
    """What a read gave, cut where the encoding changes."""
    wanted = records.counts.copy()
    wanted[:1] -= records.skip
    ends = np.cumsum(wanted)
    appended = np.repeat(records.appended, wanted)
    partitions = np.full(len(records), records.partition, np.int64)
    first = row = 0
    for encoding, group in groupby(records.encodings):
        same = len(list(group))
        for size in [1] * same if encoding == "arrow" else [same]:
            run, rows = slice(first, first + size), slice(row, int(ends[first + size - 1]))
            places = partitions[rows], records.positions[rows], appended[rows]
            skip = 0 if first else records.skip
            yield _Run(records, encoding, records.payloads[run], records.counts[run], places, skip)
            first, row = run.stop, rows.stop


def _placed(stream: EventStream, piece: _Piece) -> tuple[pa.Table, list[DeadLetter]]:
    """Add to each good row where it lies; take out those whose event time cannot be."""
    parsed = piece.parsed
    appended = piece.appended[parsed.rows]
    declared = parsed.arrivals
    arrivals = appended if declared is None else np.where(declared == UNDECLARED, appended, declared)
    dead = {row: (reason, int(piece.appended[row])) for row, reason in parsed.bad}
    keep = np.ones(len(parsed.rows), np.bool_)
    for index, reason in _out_of_time(stream, parsed.table, arrivals, appended):
        keep[index] = False
        dead[int(parsed.rows[index])] = (reason, int(min(arrivals[index], appended[index])))
    place = [piece.partitions[parsed.rows].astype(np.int32), piece.positions[parsed.rows], arrivals, appended]
    table = parsed.table
    for field, column in zip(PLACE, place, strict=True):
        table = table.append_column(field, pa.array(column))
    letters = [
        DeadLetter(
            stream.name, int(piece.partitions[row]), int(piece.positions[row]), reason, piece.quoted(row), arrival
        )
        for row, (reason, arrival) in sorted(dead.items())
    ]
    return (table if keep.all() else table.filter(pa.array(keep))), letters


def _out_of_time(stream: EventStream, table: pa.Table, arrivals: _Ints, appended: _Ints) -> list[tuple[int, str]]:
    """The rows whose event time is null or too far ahead of their arrival, or whose declared arrival lies ahead.

    A key's state forgets by its newest arrival: one in the year 2500 would empty the key's windows until then.
    """
    times = table[stream.time]
    missing = times.is_null().to_numpy() if times.null_count else np.zeros(len(table), np.bool_)
    micros = times.cast(pa.int64()).fill_null(0).to_numpy()
    ahead = ~missing & (micros - arrivals > stream.future)
    found = [(int(row), f"No event time: '{stream.time}' is null or absent.") for row in np.flatnonzero(missing)]
    for row in np.flatnonzero(ahead):
        found.append((int(row), _beyond(stream, int(micros[row]), int(arrivals[row]))))
    for row in np.flatnonzero(~missing & ~ahead & (arrivals - appended > stream.future)):
        found.append((int(row), _not_yet(stream, int(arrivals[row]), int(appended[row]))))
    return found


def _beyond(stream: EventStream, time: int, arrival: int) -> str:
    return (
        f"Too far in the future: '{stream.time}' is {_written(time)}, more than {text(stream.future)} "
        f"after its arrival at {_written(arrival)}."
    )


def _not_yet(stream: EventStream, arrival: int, appended: int) -> str:
    return (
        f"Too far in the future: its declared arrival is {_written(arrival)}, more than {text(stream.future)} "
        f"after it was loaded at {_written(appended)}."
    )


def _written(micros: int) -> str:
    """An instant as text; beyond the years a datetime can hold, as microseconds."""
    try:
        return to_datetime(micros).isoformat()
    except OverflowError:
        return f"{micros} microseconds"
