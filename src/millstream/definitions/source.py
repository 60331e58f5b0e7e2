"""Sources: streams of events and tables of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath

from millstream.calls import checked_class, whole
from millstream.definitions.durations import Duration, micros, text
from millstream.definitions.frozen import check_about, check_name, freeze
from millstream.definitions.schema import ID_TYPES, LIST_TYPES, TYPES, Schema, check_schema, require_column
from millstream.errors import DefinitionError


@checked_class
@dataclass(frozen=True, init=False)
class EventStream:
    """Events that arrive one after another: payments, logins, departures.

    Declare one for every kind of event that features are computed of, or that are examples or labels of a model.

    Args:
        name: its name, and that of its topic.
        schema: the type of each column: "int64", "float64", "string", "bool", "timestamp",
            "date", "uuid", "bytes", "decimal(p, s)", or a list as "list<float64>".
        time: the timestamp column that says when an event happened.
        deduplicate: an id column: an event whose id occurred in the same partition shortly before is a repeat.
        within: how long before at the most, 24 hours unless given.
        available: the timestamp column with the arrival of history that is loaded.
        delay: without such a column, how long after its time loaded history arrived; at once unless given.
        future: how far ahead of its arrival an event's time may be, 5 minutes unless given; one beyond it is a dead
            letter.
        partition_by: the column of which equal values are kept in one partition; that of `deduplicate` unless given.
        partitions: how many partitions its topic has at least: it may grow, and does where this is more than it has; the
            project's setting, when it is made, unless given.
        retention: how long the log keeps what has been archived, 7 days unless given.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: when a column is missing or has the wrong type, or a duration is none.

    >>> clicks = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
    >>> clicks.future
    300000000
    """

    name: str
    schema: Schema
    time: str
    deduplicate: str | None
    within: int
    available: str | None
    delay: int
    future: int
    partition_by: str | None
    partitions: int | None
    retention: int
    owner: str
    description: str
    tags: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *,
        schema: Mapping[str, str],
        time: str,
        deduplicate: str | None = None,
        within: Duration = "24h",
        available: str | None = None,
        delay: Duration = "0s",
        future: Duration = "5m",
        partition_by: str | None = None,
        partitions: int | None = None,
        retention: Duration = "7d",
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"EventStream '{check_name('EventStream', name)}'"
        columns = check_schema(thing, schema, types=(*TYPES, *LIST_TYPES))
        require_column(thing, columns, time, "time", ("timestamp",))
        if available is not None:
            require_column(thing, columns, available, "available", ("timestamp",))
        if deduplicate is not None:
            require_column(thing, columns, deduplicate, "deduplicate", ID_TYPES)
        if partition_by is not None:
            require_column(thing, columns, partition_by, "partition_by", TYPES)
        if partitions is not None:
            partitions = whole(thing, "partitions", partitions, 1, 1024, "leave it out for the setting.")
        freeze(self, name=name, schema=columns, time=time, deduplicate=deduplicate, available=available)
        freeze(self, partition_by=partition_by or deduplicate, partitions=partitions)
        freeze(self, within=micros(within, thing, "within"), delay=micros(delay, thing, "delay"))
        freeze(self, future=micros(future, thing, "future"), retention=micros(retention, thing, "retention"))
        freeze(self, **check_about(thing, owner, description, tags))
        self._check_spans(thing)

    def _check_spans(self, thing: str) -> None:
        if self.deduplicate and self.within > self.retention:
            raise DefinitionError.expected(
                thing,
                "within",
                text(self.within),
                f"a span no longer than retention, {text(self.retention)}",
                f'raise retention to "{text(self.within)}" or more.',
            )

    def reads(self, other: EventStream) -> bool:
        """Whether reading by this definition gives all that reading by another one of the same stream gives.

        A group version keeps the definition it was made with: when its stream is declared anew, with other columns or
        another rule for repeats, the version goes on as it began.
        """
        rules = ("time", "deduplicate", "future")
        alike = all(getattr(self, rule) == getattr(other, rule) for rule in rules)
        within = self.deduplicate is None or self.within == other.within
        return alike and within and other.schema.items() <= self.schema.items()


@checked_class
@dataclass(frozen=True, init=False)
class Table:
    """Rows that are read as a whole: a Parquet file or folder, or a table of a DuckDB file.

    Where they are, the project's settings say: `[tables.accounts] path = "accounts.parquet"`. A table that moves is the
    same table: no value is computed anew.

    Args:
        name: its name, which queries use.
        path: the short form of the setting, for a table of which the settings say nothing; relative to the project's
            folder: `accounts.parquet`, `rows/*.parquet` or `bank.duckdb#accounts`.
        time: the timestamp column that dates a row.
        available: the timestamp column that says when a reader could know a row.
        delay: without such a column, how long after its time a reader could, such as "1h"; at once unless given.
        schema: the type of each column; may be left out for tables that queries read: then `plan` reads it.
        owner: who answers for it.
        description: what it is.
        tags: words to find it by.

    Raises:
        DefinitionError: when a column is missing from a declared schema.

    >>> Table("accounts", path="accounts.parquet", time="updated_at", delay="1h").delay
    3600000000
    """

    name: str
    path: str | None
    time: str | None
    available: str | None
    delay: int
    schema: Schema | None
    owner: str
    description: str
    tags: tuple[str, ...]

    def __init__(
        self,
        name: str,
        *,
        path: str | PathLike[str] | None = None,
        time: str | None = None,
        available: str | None = None,
        delay: Duration = "0s",
        schema: Mapping[str, str] | None = None,
        owner: str = "",
        description: str = "",
        tags: Iterable[str] = (),
    ) -> None:
        thing = f"Table '{check_name('Table', name)}'"
        columns = None if schema is None else check_schema(thing, schema, types=(*TYPES, *LIST_TYPES))
        for argument, column in (("time", time), ("available", available)):
            if column is not None and columns is not None:
                require_column(thing, columns, column, argument, ("timestamp",))
            elif column is not None and not isinstance(column, str):
                raise DefinitionError.expected(thing, argument, column, "the name of a column")
        path = fspath(path) if isinstance(path, PathLike) else path
        if path is not None and (not isinstance(path, str) or not path):
            raise DefinitionError.expected(thing, "path", path, "a path", f'write path="{name}.parquet".')
        freeze(self, name=name, path=path, time=time, available=available, schema=columns)
        freeze(self, delay=micros(delay, thing, "delay"), **check_about(thing, owner, description, tags))


Source = EventStream | Table
