"""Expressions as they are evaluated: derived columns written out, and nothing read of numbers that are none.

SQL gives an infinity or NaN for `x / 0`, `ln(0)` or what overflows. A value is a finite number or null, so what reads such
a result, a condition or a function, reads null. What only adds to it, or multiplies it, is not finite either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from millstream.definitions.expressions import parsed_expression
from millstream.engines.embedded import DIALECT
from millstream.engines.engine import Refused

if TYPE_CHECKING:
    from sqlglot import exp


def inlined(
    sql: str, derive: tuple[tuple[str, str], ...], columns: Mapping[str, str], *, aggregated: bool = False
) -> str:
    """Return an expression over some columns with those that are derived written out, in SQL as the engine reads it.

    Args:
        sql: the expression.
        derive: derived columns and their expressions, in order.
        columns: the types of the columns of the source.
        aggregated: whether an aggregate takes what it gives, which looks itself whether that is finite, and counts.

    Returns:
        str: the SQL to evaluate.

    >>> inlined("k > 1", (("k", "amount / 1000"),), {"amount": "float64"})
    '(amount / 1000) > 1'
    >>> inlined("k > 1", (("k", "1 / amount"),), {"amount": "float64"})
    '(CASE WHEN ISFINITE(1 / amount) THEN 1 / amount END) > 1'
    >>> inlined("k", (("k", "1 / amount"),), {"amount": "float64"}, aggregated=True)
    '(1 / amount)'
    """
    from sqlglot import exp

    names = frozenset([*columns, *(name for name, _ in derive)])
    parsed = _parsed_in(sql, names)
    for name, definition in reversed(derive):
        inner = exp.paren(_parsed_in(definition, names))
        parsed = parsed.transform(
            lambda node, name=name, inner=inner: (
                inner.copy() if isinstance(node, exp.Column) and node.name.lower() == name.lower() else node
            )
        )
    return str(_with_nulls(parsed, columns, aggregated).sql(dialect=DIALECT.name))


def _parsed_in(sql: str, names: frozenset[str]) -> exp.Expr:
    """An expression as SQLGlot has it; a column alone is that column, also where its name is a word of SQL's own."""
    from sqlglot import exp

    bare = sql.strip()
    return exp.column(bare, quoted=True) if bare in names else parsed_expression(sql)


def _with_nulls(parsed: exp.Expr, columns: Mapping[str, str], aggregated: bool) -> exp.Expr:
    """The expression with null for each result in it that is read and not finite."""
    from sqlglot import exp

    whole = exp.paren(parsed)  # a copy, in which the expression itself has a place, too
    for node in reversed([node for node in whole.this.walk() if _may_overflow(node)]):
        reader, argument = _reader(node)
        if _keeps(reader, argument) or (reader is None and aggregated) or not _is_float(node, columns):
            continue
        finite = exp.Anonymous(this="isfinite", expressions=[node.copy()])
        node.replace(exp.Case(ifs=[exp.If(this=finite, true=node.copy())]))
    found: exp.Expr = whole.this
    return found


def _may_overflow(node: exp.Expr) -> bool:
    """Whether a node may be a number that is not finite though what it reads is."""
    from sqlglot import exp

    computed = exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod | exp.Pow | exp.Func | exp.Bracket | exp.Dot
    passed = (
        exp.Case | exp.If | exp.Coalesce | exp.Nullif | exp.Greatest | exp.Least | exp.Abs | exp.Round | exp.Predicate
    )
    return isinstance(node, computed) and not isinstance(node, passed) and not _is_share(node)


def _is_share(node: exp.Expr) -> bool:
    """Whether a node is a column divided by a number of 1 or more, which is as finite as the column."""
    from sqlglot import exp

    divisor = node.expression if isinstance(node, exp.Div) and isinstance(node.this, exp.Column) else None
    return isinstance(divisor, exp.Literal) and not divisor.is_string and float(divisor.this) >= 1


def _reader(node: exp.Expr) -> tuple[exp.Expr | None, str | None]:
    """What reads the value of a node, None for the whole expression, and as which of its arguments."""
    from sqlglot import exp

    while isinstance(node.parent, exp.Paren | exp.Neg):
        node = node.parent
    return node.parent, node.arg_key


def _keeps(reader: exp.Expr | None, argument: str | None) -> bool:
    """Whether what reads a number is not finite either where that is not, or asks for just this."""
    from sqlglot import exp

    if isinstance(reader, exp.Anonymous):
        return str(reader.name).lower() in ("isfinite", "isinf", "isnan")
    if isinstance(reader, exp.Div):
        return argument == "this"
    return isinstance(reader, exp.Add | exp.Sub | exp.Mul | exp.IsNan | exp.IsInf)


def _is_float(node: exp.Expr, columns: Mapping[str, str]) -> bool:
    """Whether a node is a binary floating-point number, which alone may be none that is finite."""
    try:
        [found] = DIALECT.describe(f"select ({node.sql(dialect=DIALECT.name)}) as x from events", {"events": columns})
    except Refused:  # a part that means nothing alone, as the body of a lambda
        return False
    return found.said in ("DOUBLE", "FLOAT")
