"""What a query's text says of it: whether it looks at rows one by one, and how it takes the rows of its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millstream.definitions.expressions import bind_interval
from millstream.definitions.source import EventStream, Source
from millstream.engines.embedded import DIALECT
from millstream.engines.engine import KNOWN

#: The column that carries the instant by which a query takes rows into its interval.
DATED = "_dated"


def dated(source: Source) -> bool:
    """Whether a source shows other rows at other instants: streams do, and tables that say when rows are known."""
    return isinstance(source, EventStream) or bool(source.time or source.available)


def row_by_row(query: str, sources: Sequence[Source]) -> bool:
    """Whether each row of a query comes from one row of its only source: no join, aggregate, window, order or limit.

    >>> from millstream.definitions.source import Table
    >>> accounts = [Table("accounts", path="accounts.parquet")]
    >>> row_by_row("select id, upper(tier) as tier from accounts where id > 0", accounts)
    True
    >>> row_by_row("select id, count(*) as n from accounts group by id", accounts)
    False
    """
    if len(sources) != 1:
        return False
    import sqlglot
    from sqlglot import exp

    parsed = sqlglot.parse_one(query.strip().rstrip(";"), read=DIALECT.name)
    if not isinstance(parsed, exp.Select) or len(list(parsed.find_all(exp.Table))) != 1:
        return False
    clauses = ("joins", "group", "having", "distinct", "windows", "qualify", "limit", "offset", "laterals", "sample")
    across = (exp.AggFunc, exp.Window, exp.Query, exp.Explode, exp.Unnest, exp.Anonymous, exp.TableSample)
    inner = [node for node in parsed.find_all(*across) if node is not parsed]
    return not inner and not any(parsed.args.get(clause) for clause in clauses)


def interval_column(query: str) -> tuple[str, bool] | None:
    """The column by which a row-by-row query takes the rows of its interval, and whether `:end` itself is among them.

    None when the query uses `:start` and `:end` in another way than `column >= :start and column < :end` or
    `column > :start and column <= :end`.

    >>> interval_column("select id from t where at >= :start and at < :end and id > 0")
    ('at', False)
    >>> interval_column("select id, :end as asked from t where at > :start") is None
    True
    """
    import sqlglot
    from sqlglot import exp

    where = sqlglot.parse_one(query.strip().rstrip(";"), read=DIALECT.name).args.get("where")
    found: dict[str, exp.Expression] = {}
    for part in where.this.flatten() if where and isinstance(where.this, exp.And) else []:
        if isinstance(part, exp.GT | exp.GTE | exp.LT | exp.LTE) and isinstance(part.expression, exp.Placeholder):
            found[part.expression.name] = part
    uses = len(list(sqlglot.parse_one(query.strip().rstrip(";"), read=DIALECT.name).find_all(exp.Placeholder)))
    first, last = found.get("start"), found.get("end")
    if first is None or last is None or uses != 2 or not isinstance(first.this, exp.Column) or first.this != last.this:
        return None
    if isinstance(first, exp.GTE) and isinstance(last, exp.LT):
        return first.this.name, False
    return (first.this.name, True) if isinstance(first, exp.GT) and isinstance(last, exp.LTE) else None


def with_known(query: str, by: str | None = None) -> str:
    """A row-by-row query that also passes on `_known` and, as `_dated`, the column `by`.

    >>> with_known("select id from accounts")
    'SELECT id, _known FROM accounts'
    >>> with_known("select id from t where seen >= :start and seen < :end", "seen")
    'SELECT id, _known, "seen" AS _dated FROM t WHERE seen >= $start AND seen < $end'
    """
    import sqlglot

    parsed: Any = sqlglot.parse_one(bind_interval(query.strip().rstrip(";"))[0], read=DIALECT.name)
    parsed = parsed if parsed.is_star else parsed.select(KNOWN)
    return str((parsed.select(f'"{by}" as {DATED}') if by else parsed).sql(dialect=DIALECT.name))


def compares_only(query: str) -> bool:
    """Whether a query does nothing with `:start` and `:end` but compare columns with them.

    >>> compares_only("select id, :end as asked from t where seen < :end")
    False
    """
    import sqlglot
    from sqlglot import exp

    parsed = sqlglot.parse_one(query.strip().rstrip(";"), read=DIALECT.name)
    comparisons = (exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between)
    return all(isinstance(one.parent, comparisons) for one in parsed.find_all(exp.Placeholder))
