"""Runs of batch groups in the buffer: what one run returned, as one record of the group's staging topic."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pyarrow as pa

from millstream.buffer.parts import cut
from millstream.errors import CorruptState

_KEY = b"millstream.run"


class _Facts(msgspec.Struct):
    start: int
    end: int
    available: int
    snapshot: bool
    scheduled: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """The rows that one run of a batch group returned.

    Args:
        start: begin of its scheduled interval (µs), exclusive.
        end: end of the interval (µs).
        available: when readers could know the rows (µs): when they were computed, or the interval's end in a backfill.
        snapshot: whether the rows are everything there is at `end`, so that a key without a row has vanished.
        rows: the entity's join keys, `event_time` and `available_time` (int64, µs), and the features.
        scheduled: whether it moves the schedule of its group, as no run of a past interval does.
    """

    start: int
    end: int
    available: int
    snapshot: bool
    rows: pa.Table
    scheduled: bool = False


def encode_run(run: Run) -> bytes:
    """A run as an Arrow IPC stream, with its facts in the metadata of the schema.

    >>> run = Run(0, 10, 12, True, pa.table({"user_id": [1], "event_time": [10], "available_time": [12]}))
    >>> decode_run(encode_run(run)).end
    10
    """
    facts = msgspec.json.encode(_Facts(run.start, run.end, run.available, run.snapshot, run.scheduled))
    table = run.rows.replace_schema_metadata({_KEY: facts})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def run_payloads(run: Run, largest: int) -> list[bytes]:
    """A run as payloads of the staging topic: its record, in parts where that has more bytes than a log takes.

    Args:
        run: the run.
        largest: the most bytes of a payload, as the log says.
    """
    return cut(encode_run(run), encode_run(replace(run, rows=run.rows.slice(0, 0))), largest)


def decode_run(payload: bytes) -> Run:
    """The run that `encode_run` wrote. Raises `CorruptState` for anything else."""
    try:
        table = pa.ipc.open_stream(payload).read_all()
        facts = msgspec.json.decode((table.schema.metadata or {})[_KEY], type=_Facts)
    except (pa.ArrowInvalid, OSError, KeyError, msgspec.DecodeError) as error:
        raise CorruptState(
            f"Run of a batch group: the record does not hold one ({error}).",
            "check the versions of the writing workers.",
        ) from error
    rows = table.replace_schema_metadata(None)
    return Run(facts.start, facts.end, facts.available, facts.snapshot, rows, facts.scheduled)
