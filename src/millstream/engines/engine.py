"""What an engine is asked: by definitions about SQL, by batch computing for rows, by the fold for a micro-batch.

An engine knows nothing of definitions: it is given SQL text, in the dialect that definitions are written in, and rows.
Another engine than DuckDB translates the text, and refuses at `plan` what it cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from millstream.errors import MillstreamError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

#: The column that carries when a row of a source could be known, where a query passes it on.
KNOWN = "_known"
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last instant (µs) of the years 1 to 9999: ISO-8601 and other engines go no further."""

Fault = Literal["row", "memory", "query", "machine"]
"""Whose fault a failure is: a value in some row, the memory (of which a row may ask for more than there is), the query,
which does not fit what it reads, or the machine: its disks, an interruption."""


@dataclass(frozen=True)
class Asked:
    """What a query is asked over: its interval, and which rows it sees.

    Args:
        start: `$start` (µs).
        end: `$end` (µs).
        until: rows that could be known by then (µs) are seen; `end` if it is not given.
        since: only rows that could be known after this instant (µs) are seen.
        known: whether sources also show the column `_known`: when (timestamp) each row could be known.
    """

    start: int
    end: int
    until: int | None = None
    since: int | None = None
    known: bool = False


@dataclass(frozen=True)
class Known:
    """When a row could be known: `delay` (µs) after the instant in a column."""

    column: str
    delay: int = 0


@dataclass(frozen=True)
class Stored:
    """A table where it is stored.

    Args:
        path: Parquet files (a file, a folder, a pattern) or a database's file.
        inner: the table in a database's file; "" for Parquet files.
        columns: by name, the type ("int64" ...) of each column that has to be of that type.
        convert: brings rows as they are stored to those types, without the rows that do not fit.
    """

    path: Path
    inner: str
    columns: Mapping[str, str]
    convert: Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, eq=False)
class QuerySource:
    """A source of a query: its rows, or where they are stored.

    Args:
        name: the name by which the query calls it.
        rows: the rows, where they are in memory.
        stored: where they are stored, else.
        known: when each row could be known; all of them always could if it is left out.
        again: whether later queries are likely to be given the very same `rows`.
    """

    name: str
    rows: pa.Table | None = None
    stored: Stored | None = None
    known: Known | None = None
    again: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a query: its type ("int64" ...), None where that is none of ours, and what the engine calls it."""

    name: str
    kind: str | None
    said: str


@dataclass(frozen=True)
class Words:
    """The words of an SQL dialect that definitions must know, in lower case.

    Args:
        volatile: functions whose value is not fixed by their arguments.
        bare: those of them that are called without parentheses.
        tables: functions that may stand where a table does, and make rows of their arguments alone.
        reserved: words that are a column's name only in double quotes.
    """

    volatile: frozenset[str]
    bare: frozenset[str]
    tables: frozenset[str]
    reserved: frozenset[str]


class Refused(Exception):
    """An engine's reason against a text of SQL.

    Args:
        said: what the engine said.
        because: "column" where a column is unknown, "aggregate", "window", "rows" where one row would become several,
            "syntax"; "" for another reason.
        column: the unknown column.
    """

    def __init__(self, said: str, because: str = "", column: str = "") -> None:
        super().__init__(said)
        self.because, self.column = because, column


class Dialect(Protocol):
    """The SQL that definitions are written in; asked when a definition is built, without any rows.

    Attributes:
        name: what SQLGlot calls it.
    """

    name: str

    def words(self) -> Words:
        """The words that are not what they seem; asked for every text of SQL."""
        ...

    def check(self, query: str) -> None:
        """Refuse a query that is not one SELECT; whether its tables and columns are there is not asked.

        Raises:
            Refused: with the engine's reason, or without a word where it is another statement, or several.
        """
        ...

    def describe(self, query: str, tables: Mapping[str, Mapping[str, str]]) -> Sequence[Column]:
        """The columns of a query, in which `$start` and `$end` are instants, over tables of typed columns.

        Asked once `check` has passed the query.

        Raises:
            Refused: with the engine's reason.
        """
        ...

    def takes(self, kind: str, text: str) -> bool:
        """Whether a text can become a value of a type ("int64" ...); asked for what is compared with a column."""
        ...


class BatchEngine(Protocol):
    """Runs the SQL of definitions over rows. Any thread may ask, and a child process after a fork."""

    dialect: Dialect

    def run(self, query: str, sources: Sequence[QuerySource], asked: Asked) -> pa.Table:
        """The rows of a query over its sources as they could be known by then.

        Asked for each run of a batch group, and again for parts of the rows where one fails.

        Args:
            query: the SQL, which was checked; it has `$start` and `$end` for the ends of its interval, and reaches
                nothing but its sources.
            sources: what it reads, each by its name.
            asked: the interval, and which rows of the sources are seen.

        Raises:
            MillstreamError: when a source cannot be read.
            Exception: when the query fails: what `fault` can judge.
        """
        ...

    def misfits(self, source: QuerySource) -> pa.Table | None:
        """Rows, as they are stored, among which are all that do not fit the types of a stored source; None for none.

        Asked once for each run.

        Raises:
            MillstreamError: when the source cannot be read.
        """
        ...

    def evaluate(self, expressions: Sequence[str], rows: pa.Table) -> pa.Table:
        """One column per expression and one row per row, in order: what is asked of every micro-batch.

        Raises:
            Exception: when an expression fails: what `fault` can judge.
        """
        ...

    def fault(self, error: BaseException) -> Fault:
        """Whose fault it is that `run` or `evaluate` failed; asked before any row is blamed."""
        ...


def unreadable(name: str, error: BaseException) -> MillstreamError:
    """A table's rows cannot be read."""
    return MillstreamError(
        f"Table '{name}' cannot be read: {first_line(error)}.",
        "its path names Parquet files or a table of a DuckDB file, and its columns are those it declares.",
    )


def missing(name: str, path: Path) -> MillstreamError:
    """There is no file where a table is said to be."""
    return MillstreamError(
        f"Table '{name}': there is no '{path}'.",
        "paths of tables start from the project's folder; write the file there.",
    )
