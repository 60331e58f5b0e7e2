"""DuckDB as a batch engine: queries over views of their sources, and the expressions of micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from millstream.engines.duckdb.connection import PerThread, connect, ends_connection, fault, lock
from millstream.engines.duckdb.dialect import DIALECT
from millstream.engines.duckdb.views import Views, misfits, reached
from millstream.engines.engine import Asked, Dialect, Fault, QuerySource, unreadable
from millstream.errors import MillstreamError

if TYPE_CHECKING:
    import pyarrow as pa

_views = PerThread(Views)
#: One thread, so that rows keep their order and small batches stay cheap.
_evaluating: PerThread[Any] = PerThread(lambda: lock(connect(threads=1)))


class DuckDB:
    """DuckDB within the process; each thread has its own connections, and a new one in place of one that has ended.

    >>> import pyarrow as pa
    >>> DuckDB().evaluate(["n + 1"], pa.table({"n": [1, 2]})).column(0).to_pylist()
    [2, 3]
    """

    dialect: Dialect = DIALECT

    def run(self, query: str, sources: Sequence[QuerySource], asked: Asked) -> pa.Table:
        """The rows of a query, once more on another connection where it ends its own; see `BatchEngine.run`."""
        try:
            return _run(query, sources, asked)
        except Exception as error:
            if not ends_connection(error):
                raise
        return _run(query, sources, asked)

    def misfits(self, source: QuerySource) -> pa.Table | None:
        """Rows of a stored source among which are all that do not fit; all of them where only Arrow can say."""
        if source.stored is None:
            return None
        views = Views(locked=False)
        try:
            return misfits(views, source)
        except MillstreamError:
            raise
        except Exception as error:
            raise unreadable(source.name, error) from error
        finally:
            views.connection.close()

    def evaluate(self, expressions: Sequence[str], rows: pa.Table) -> pa.Table:
        """One column per expression, once more on another connection where that ends the one it is on."""
        try:
            return _evaluate(expressions, rows)
        except Exception as error:
            if not ends_connection(error):
                raise
        return _evaluate(expressions, rows)

    def close(self) -> None:
        """Let go of this thread's connections; the next query opens its own."""
        _views.forget()
        _evaluating.forget()

    def fault(self, error: BaseException) -> Fault:
        """Whose fault it is that a query failed."""
        return fault(error)


def _run(query: str, sources: Sequence[QuerySource], asked: Asked) -> pa.Table:
    from millstream.clock import to_datetime  # NumPy is loaded with the first query

    instants = {"start": to_datetime(asked.start), "end": to_datetime(asked.end)}
    with _shown(sources, asked) as connection:
        [statement] = connection.extract_statements(query)
        params = {one: instant for one, instant in instants.items() if one in statement.named_parameters}
        return _rows(connection.sql(query, params=params))


def _evaluate(expressions: Sequence[str], rows: pa.Table) -> pa.Table:
    connection = _evaluating()
    selected = ", ".join(f"({sql}) as c{place}" for place, sql in enumerate(expressions))
    try:
        connection.register("events", rows)
        found = _rows(connection.sql(f"select {selected} from events"))
    except Exception as error:
        if ends_connection(error):
            _evaluating.forget()
        else:
            connection.unregister("events")
        raise
    connection.unregister("events")
    return found


def _rows(relation: Any) -> pa.Table:
    """The rows of a query; its UUIDs, which DuckDB gives out as text, as Arrow has them."""
    kinds, found = [str(kind) for kind in relation.types], relation.to_arrow_table()
    for place, name in enumerate(found.column_names):
        if kinds[place] == "UUID":
            from millstream.engines.uuid_texts import uuids_of_texts

            texts = found.column(place).combine_chunks()
            found = found.set_column(place, name, uuids_of_texts(texts)[0])
    return found


@contextmanager
def _shown(sources: Sequence[QuerySource], asked: Asked) -> Iterator[Any]:
    """A connection on which each source is a view under its own name.

    It is this thread's, unless sources are read from where they are stored: files are let go of after each query.
    """
    stored = [source for source in sources if source.stored is not None]
    views = Views(locked=False) if stored else _views()
    try:
        views.see(asked)
        for source in sources:
            _show(views, source, asked)
        if stored:
            lock(views.connection, *reached(stored))
        yield views.connection
    except Exception as error:
        if ends_connection(error):
            _views.forget()
        raise
    finally:
        if stored:
            views.connection.close()
        elif _views.holds(views):
            for source in sources:
                views.let_go(source.name)


def _show(views: Views, source: QuerySource, asked: Asked) -> None:
    try:
        views.show(source, asked)
    except MillstreamError:
        raise
    except Exception as error:
        raise unreadable(source.name, error) from error
