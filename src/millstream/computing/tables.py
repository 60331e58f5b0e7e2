"""Batch queries: what an engine is given to run SQL over tables and streams as they were known at an interval's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from millstream.buffer.codec.events import DeadLetter
from millstream.computing.table_rows import IN_MEMORY, declared, in_file, typed
from millstream.definitions.expressions import bind_interval
from millstream.definitions.source import EventStream, Source, Table
from millstream.engines.embedded import EMBEDDED
from millstream.engines.engine import FIRST, KNOWN, Asked, BatchEngine, Known, QuerySource, Stored, unreadable
from millstream.errors import MillstreamError

if TYPE_CHECKING:
    import pyarrow as pa

_ALWAYS = 253_402_300_799_000_000  # the last second of the year 9999, in µs


class EventReader(Protocol):
    """What batch computing asks of the history of events."""

    def read(
        self,
        stream: str | EventStream,
        *,
        upto: Mapping[int, int] | None = None,
        since: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """The events of a stream at positions from `since` to before `upto`, without repeats and dead letters.

        Args:
            stream: its name; or a definition of it, by which it is read.
            upto: by partition, the position before which to read, and nothing of a partition that is not named;
                everything to its end when left out.
            since: by partition, the first position to read; from the beginning where it names none.
        """
        ...


class Tables:
    """The sources of batch groups, as an engine is given them for one query at a time.

    Args:
        folder: what relative paths start from.
        history: the events of streams.
        paths: by name, where a table is; where its definition says unless given.
        engine: what runs the queries; the one within the process unless given.
    """

    def __init__(
        self,
        folder: Path,
        history: EventReader | None = None,
        *,
        paths: Mapping[str, str] | None = None,
        engine: BatchEngine | None = None,
    ) -> None:
        self._folder, self._history, self._paths = folder, history, dict(paths or {})
        self.engine = EMBEDDED if engine is None else engine

    def query(
        self, query: str, sources: Sequence[Source], asked: Asked, instead: Mapping[str, pa.Table] | None = None
    ) -> pa.Table:
        """The rows of a query over sources as they could be known.

        Args:
            query: the SQL, in which `:start` and `:end` are the ends of the interval.
            sources: what it reads, by their names.
            asked: the interval, and which rows are seen.
            instead: by name of a source, rows to take for all of its; none unless given.

        Raises:
            MillstreamError: when a table cannot be read.
            Exception: when the query fails: what the engine raises.
        """
        bound, _ = bind_interval(query.strip().rstrip(";"))
        given = [self._given(source, asked, instead or {}) for source in sources]
        return self.engine.run(bound, given, asked)

    def rows(self, source: Source, asked: Asked) -> pa.Table:
        """The rows of a source that are seen.

        Raises:
            MillstreamError: when it cannot be read, or its time is no instant.
        """
        try:
            return self.query(f"select * from {_name(source.name)}", [source], asked)
        except MillstreamError:
            raise
        except Exception as error:
            raise unreadable(source.name, error) from error

    def known_by(self, source: Table, instants: Sequence[int]) -> list[int]:
        """How many rows of a table, which says when, could be known by each of some instants (µs).

        Raises:
            MillstreamError: when it cannot be read.
        """
        told = _known(source)
        try:
            if told is not None and not self._stays(source):
                rows = in_file(source, self._place(source)[0])
                if told.column in rows.table.column_names:
                    ends = np.array(instants) - told.delay
                    return [int(count) for count in np.searchsorted(rows.instants(told.column), ends, "right")]
            counts = ", ".join(f"count(*) filter (epoch_us({KNOWN}) <= {instant})" for instant in instants)
            query, asked = f"select [{counts}] from {_name(source.name)}", Asked(FIRST, max(instants), known=True)
            (found,) = self.query(query, [source], asked).column(0).to_pylist()
        except MillstreamError:
            raise
        except Exception as error:
            raise unreadable(source.name, error) from error
        known: list[int] = found
        return known

    def misfits(self, source: Source, now: int) -> list[DeadLetter]:
        """A dead letter (stamped `now`, µs) for each row of a table that is not what the table declares."""
        if isinstance(source, EventStream):
            return []
        if not self._stays(source):
            return in_file(source, self._place(source)[0]).letters(source.name, now)
        stored = self.engine.misfits(QuerySource(source.name, stored=self._stored(source)))
        return [] if stored is None else typed(source, stored).letters(source.name, now)

    def first_known(self, source: Table) -> int | None:
        """When the first of a table's rows could be known (µs); None for no rows, or for a table that does not say."""
        if not (source.time or source.available):
            return None
        asked = Asked(0, 0, until=_ALWAYS, known=True)
        query = f"select epoch_us(min({KNOWN})) from {_name(source.name)}"
        first: int | None = self.query(query, [source], asked).column(0)[0].as_py()
        return first

    def _given(self, source: Source, asked: Asked, instead: Mapping[str, pa.Table]) -> QuerySource:
        """A source as an engine is given it."""
        if source.name in instead:
            return QuerySource(source.name, rows=instead[source.name])
        if isinstance(source, EventStream):
            return QuerySource(source.name, rows=self._events(source, asked))
        if self._stays(source):
            return QuerySource(source.name, stored=self._stored(source), known=_known(source))
        try:
            rows = in_file(source, self._place(source)[0]).table
        except MillstreamError:
            raise
        except Exception as error:
            raise unreadable(source.name, error) from error
        return QuerySource(source.name, rows=rows, known=_known(source), again=True)

    def _stays(self, source: Table) -> bool:
        """Whether a table is read where it is stored, because it is not a small file of Parquet."""
        path, inner = self._place(source)
        return bool(inner) or not (path.is_file() and path.stat().st_size <= IN_MEMORY)

    def _stored(self, source: Table) -> Stored:
        path, inner = self._place(source)
        return Stored(path, inner, declared(source), lambda rows: typed(source, rows).table)

    def _place(self, source: Table) -> tuple[Path, str]:
        """Where a table is: its file, folder or pattern, and its name within it if that is a database."""
        given = self._paths.get(source.name, source.path)
        if given is None:
            raise MillstreamError(
                f"Table '{source.name}': nothing says where it is.",
                f'say it in millstream.toml: `[tables.{source.name}]`, then `path = "{source.name}.parquet"`.',
            )
        path, _, inner = given.partition("#")
        return self._folder / path, inner

    def _events(self, stream: EventStream, asked: Asked) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._history is None:
            raise MillstreamError(
                f"Stream '{stream.name}': a batch query reads it, but there is no history to read it from.",
                "give the batch computer the project's history.",
            )
        events = self._history.read(stream.name)
        seen = pc.less_equal(events["_arrival"], asked.end if asked.until is None else asked.until)
        if asked.since is not None:
            seen = pc.and_(seen, pc.greater(events["_arrival"], asked.since))
        events = events.filter(seen)
        shown = events.select([*stream.schema, "rest"])
        if not asked.known:
            return shown
        return shown.append_column(KNOWN, events["_arrival"].cast(pa.timestamp("us", "UTC")))


def _known(table: Table) -> Known | None:
    """When a row of a table could be known."""
    if table.available:
        return Known(table.available)
    return Known(table.time, table.delay) if table.time else None


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
