"""SQL over one row in compiled form, for rows that come one at a time: what a request costs has no room for a query.

The form covers what has one meaning in both languages: columns, literals, comparisons, three-valued logic, arithmetic,
CASE, COALESCE, NULLIF, IN, BETWEEN, hours and a few more. Before it is used it is held to the engine's SQL on made-up rows.
Everything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from millstream.definitions.made_up import POOLS
from millstream.engines.embedded import DIALECT, EMBEDDED
from millstream.errors import DefinitionError, first_line

if TYPE_CHECKING:
    from sqlglot import exp

_HOUR = 3_600_000_000
_ROWS = 97  # a prime, so that columns go through their made-up values at different paces
#: Digits of a decimal that float64 has in full: the quotient of two numbers that it has exactly is rounded once.
_DIGITS = 15


@dataclass(frozen=True)
class RowExpression:
    """An expression over one row, compiled.

    Attributes:
        sql: its text.
        kind: the schema type of its value.
        value: of a row by lower-cased column names, None for null; instants as µs. Raises `ArithmeticError` where SQL
            fails on the row.
    """

    sql: str
    kind: str
    value: Callable[[Mapping[str, Any]], Any]


class _NoForm(Exception):
    """What has no compiled form, in words."""


@lru_cache(maxsize=1024)
def compile_expression(
    thing: str, argument: str, sql: str, columns: tuple[tuple[str, str], ...], written: str | None = None
) -> RowExpression:
    """Return the compiled form of an expression.

    Args:
        thing: whose expression it is, for errors.
        argument: where it was given, for errors.
        sql: the expression.
        columns: the name and the type of each column that it may read.
        written: what was written where `sql` was made of it, for errors; `sql` itself unless given.

    Raises:
        DefinitionError: where it has no such form; the error names the part.

    >>> found = compile_expression("Group 'x'", "where", "amount > 0 and status <> 'void'",
    ...     (("amount", "float64"), ("status", "string")))
    >>> found.value({"amount": 2.5, "status": "paid"}), found.value({"amount": 2.5, "status": None})
    (True, None)
    """
    import sqlglot
    from sqlglot import exp

    types = {name.lower(): kind for name, kind in columns}
    bare = sql.strip().strip('"').lower()
    parsed = exp.column(bare) if bare in types else sqlglot.parse_one(sql, read=DIALECT.name)
    try:
        text, kind = _Translated(types).of(parsed)
        kind = {"whole": "int64", "decimal": "float64"}.get(kind, kind)
        if kind == "null":
            raise _NoForm("a null that has no type")
        found = RowExpression(sql, kind, eval(compile(f"lambda r: {text}", f"<{sql}>", "eval"), dict(_MEANING)))
        if bare not in types:
            _held_to_sql(found, parsed, columns)
    except _NoForm as none:
        raise DefinitionError.bad_sql(
            thing, argument, written or sql, f"has no compiled form, which a row of the request needs: {none}",
            "read the group without with_request(), or have the producer send the value as a column.",
        ) from None  # fmt: skip
    return found


class _Translated:
    """An expression as Python's text, and its kind: a schema type, or "whole", "decimal" or "null" of literals."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types

    def of(self, node: exp.Expr) -> tuple[str, str]:
        """A node of the parsed expression, by the method that is named as its kind; `_NoForm` where there is none."""
        from sqlglot import exp

        make = getattr(self, f"_{type(node).__name__.lower()}", None)
        if make is not None:
            found: tuple[str, str] = make(node)
            return found
        compared: dict[type[Any], str] = {
            exp.EQ: "eq",
            exp.NEQ: "ne",
            exp.LT: "lt",
            exp.LTE: "le",
            exp.GT: "gt",
            exp.GTE: "ge",
        }
        if type(node) in compared:
            return self._compared(compared[type(node)], node.this, node.args["expression"])
        if isinstance(node, exp.Add | exp.Sub | exp.Mul):
            return self._computed(node)
        raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")

    def _column(self, node: exp.Column) -> tuple[str, str]:
        return f"r[{node.name.lower()!r}]", self._types[node.name.lower()]

    def _paren(self, node: exp.Paren) -> tuple[str, str]:
        return self.of(node.this)

    def _null(self, _: exp.Null) -> tuple[str, str]:
        return "None", "null"

    def _boolean(self, node: exp.Boolean) -> tuple[str, str]:
        return repr(bool(node.this)), "bool"

    def _literal(self, node: exp.Literal) -> tuple[str, str]:
        if node.is_string:
            return repr(node.this), "string"
        written = node.this
        if written.isdigit():
            if int(written) >= 2**31:
                raise _NoForm(f"`{written}`, a literal beyond 2**31")
            return written, "whole"
        if "e" in written.lower():
            return repr(float(written)), "float64"
        if len(written.replace(".", "").lstrip("0")) > _DIGITS:
            raise _NoForm(f"`{written}`, a literal of more than {_DIGITS} digits")
        return repr(float(written)), "decimal"

    def _neg(self, node: exp.Neg) -> tuple[str, str]:
        text, kind = self.of(node.this)
        if kind not in ("whole", "decimal", "int64", "float64"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"minus({text})", kind

    def _and(self, node: exp.And) -> tuple[str, str]:
        return f"both({self._condition(node.this)}, {self._condition(node.expression)})", "bool"

    def _or(self, node: exp.Or) -> tuple[str, str]:
        return f"either({self._condition(node.this)}, {self._condition(node.expression)})", "bool"

    def _not(self, node: exp.Not) -> tuple[str, str]:
        return f"no({self._condition(node.this)})", "bool"

    def _condition(self, node: exp.Expr) -> str:
        text, kind = self.of(node)
        if kind not in ("bool", "null"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}` as a condition")
        return text

    def _is(self, node: exp.Is) -> tuple[str, str]:
        from sqlglot import exp

        text, kind = self.of(node.this)
        if isinstance(node.expression, exp.Null) or (kind == "bool" and isinstance(node.expression, exp.Boolean)):
            return f"({text} is {self.of(node.expression)[0]})", "bool"
        raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")

    def _between(self, node: exp.Between) -> tuple[str, str]:
        low, high = (self._compared(op, node.this, node.args[end])[0] for op, end in (("ge", "low"), ("le", "high")))
        return f"both({low}, {high})", "bool"

    def _in(self, node: exp.In) -> tuple[str, str]:
        if not node.expressions:
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        every = [self.of(one) for one in (node.this, *node.expressions)]
        kind = self._common(node, *(kind for _, kind in every))
        wanted, *listed = (_as(text, of, kind) for text, of in every)
        return f"among({wanted}, ({', '.join(listed)},))", "bool"

    def _case(self, node: exp.Case) -> tuple[str, str]:
        last = self.of(node.args["default"]) if node.args.get("default") is not None else ("None", "null")
        every = [(one.this, self.of(one.args["true"])) for one in node.args["ifs"]]
        kind = self._common(node, last[1], *(value[1] for _, value in every))
        text = _as(last[0], last[1], kind)
        for condition, value in reversed(every):
            met = self._compared("eq", node.this, condition)[0] if node.this is not None else self._condition(condition)
            text = f"({_as(value[0], value[1], kind)} if {met} is True else {text})"
        return text, kind

    def _if(self, node: exp.If) -> tuple[str, str]:
        other = node.args.get("false")
        yes, no = self.of(node.args["true"]), ("None", "null") if other is None else self.of(other)
        kind = self._common(node, yes[1], no[1])
        text = f"({_as(yes[0], yes[1], kind)} if {self._condition(node.this)} is True else {_as(no[0], no[1], kind)})"
        return text, kind

    def _coalesce(self, node: exp.Coalesce) -> tuple[str, str]:
        every = [self.of(one) for one in (node.this, *node.expressions)]
        kind = self._common(node, *(kind for _, kind in every))
        return f"first({', '.join(_as(text, of, kind) for text, of in every)})", kind

    def _dpipe(self, node: exp.DPipe) -> tuple[str, str]:
        (left, a), (right, b) = self.of(node.this), self.of(node.expression)
        if (a, b) != ("string", "string"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"joined({left}, {right})", "string"

    def _cast(self, node: exp.Cast) -> tuple[str, str]:
        from sqlglot import exp

        text, kind = self.of(node.this)
        wide = node.args["to"].this
        if wide == exp.DataType.Type.DOUBLE and kind in ("int64", "float64", "whole", "decimal", "bool"):
            return f"real({text})", "float64"
        if wide == exp.DataType.Type.BIGINT and kind in ("int64", "whole", "bool"):
            return f"integer({text})", "int64"
        raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")

    def _abs(self, node: exp.Abs) -> tuple[str, str]:
        text, kind = self.of(node.this)
        if kind not in ("int64", "float64"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"size({text})", kind

    def _nullif(self, node: exp.Nullif) -> tuple[str, str]:
        text, kind = self.of(node.this)
        same, _ = self._compared("eq", node.this, node.expression)
        return f"(None if {same} is True else {text})", kind

    def _anonymous(self, node: exp.Anonymous) -> tuple[str, str]:
        if node.name.lower() != "isfinite" or len(node.expressions) != 1:
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        text, kind = self.of(node.expressions[0])
        if kind not in ("float64", "decimal"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"finite({text})", "bool"

    def _length(self, node: exp.Length) -> tuple[str, str]:
        return f"length({self._only(node, 'string')})", "int64"

    def _hour(self, node: exp.Hour) -> tuple[str, str]:
        return f"hour({self._only(node, 'timestamp')})", "int64"

    def _dayofweek(self, node: exp.DayOfWeek) -> tuple[str, str]:
        return f"weekday({self._only(node, 'timestamp')})", "int64"

    def _only(self, node: exp.Expr, wanted: str) -> str:
        text, kind = self.of(node.this)
        if kind != wanted:
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return text

    def _div(self, node: exp.Div) -> tuple[str, str]:
        (left, a), (right, b) = self.of(node.this), self.of(node.expression)
        numbers = ("int64", "float64", "whole", "decimal")
        if a not in numbers or b not in numbers:
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"divided({left}, {right})", "float64"

    def _mod(self, node: exp.Mod) -> tuple[str, str]:
        (left, a), (right, b) = self.of(node.this), self.of(node.expression)
        if "float64" in (a, b):
            return f"rest({_as(left, a, 'float64')}, {_as(right, b, 'float64')})", self._common(node, a, b)
        if (a, b) != ("int64", "whole") or right == "0":
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        return f"whole_rest({left}, {right})", "int64"

    def _computed(self, node: exp.Binary) -> tuple[str, str]:
        (left, a), (right, b) = self.of(node.this), self.of(node.expression)
        kind = self._common(node, a, b)
        if kind not in ("int64", "float64"):
            raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`")
        name = {"Add": "plus", "Sub": "less", "Mul": "times"}[type(node).__name__]
        return f"{name}({_as(left, a, kind)}, {_as(right, b, kind)})", kind

    def _compared(self, name: str, one: exp.Expr, other: exp.Expr) -> tuple[str, str]:
        (left, a), (right, b) = self.of(one), self.of(other)
        kind = self._common(one, a, b)
        return f"{name}({_as(left, a, kind)}, {_as(right, b, kind)})", "bool"

    def _common(self, node: exp.Expr, *kinds: str) -> str:
        """The kind to which several are brought, as SQL does."""
        found = set(kinds) - {"null"}
        if len(found) <= 1:
            return found.pop() if found else "null"
        if found <= {"int64", "float64", "whole", "decimal"} and "float64" in found:
            return "float64"
        if found == {"int64", "whole"}:
            return "int64"
        if found == {"whole", "decimal"}:
            return "decimal"
        raise _NoForm(f"`{node.sql(dialect=DIALECT.name)}`, which mixes {' and '.join(sorted(found))}")


def _as(text: str, kind: str, wanted: str) -> str:
    return f"real({text})" if wanted in ("float64", "decimal") and kind not in (wanted, "null") else text


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, null where an argument is."""
    return lambda *given: None if None in given else function(*given)


def _in_range(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise OverflowError("a whole number beyond 64 bits")
    return value


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # to SQL a NaN is itself, and the greatest number


def _lower(a: Any, b: Any) -> bool:
    return bool(a < b or (a == a and b != b))


def _divided(a: float, b: float) -> float:
    a, b = float(a), float(b)
    if b:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _rest(a: float, b: float) -> float:
    """What is left of a division, of the sign of what is divided; no number where there is none, as in SQL."""
    return math.nan if b == 0 or math.isinf(a) else math.fmod(a, b)


def _whole_rest(a: int, b: int) -> int:
    return -(-a % abs(b)) if a < 0 else a % abs(b)


def _among(wanted: Any, listed: tuple[Any, ...]) -> bool | None:
    if wanted is None:
        return None
    if any(one is not None and _equal(wanted, one) for one in listed):
        return True
    return None if None in listed else False


_MEANING: Mapping[str, Any] = {
    "both": lambda a, b: False if a is False or b is False else None if a is None or b is None else True,
    "either": lambda a, b: True if a is True or b is True else None if a is None or b is None else False,
    "no": _strict(lambda a: not a),
    "eq": _strict(_equal),
    "ne": _strict(lambda a, b: not _equal(a, b)),
    "lt": _strict(_lower),
    "le": _strict(lambda a, b: not _lower(b, a)),
    "gt": _strict(lambda a, b: _lower(b, a)),
    "ge": _strict(lambda a, b: not _lower(a, b)),
    "plus": _strict(lambda a, b: _in_range(a + b)),
    "less": _strict(lambda a, b: _in_range(a - b)),
    "times": _strict(lambda a, b: _in_range(a * b)),
    "divided": _strict(_divided),
    "rest": _strict(_rest),
    "whole_rest": _strict(_whole_rest),
    "minus": _strict(lambda a: _in_range(-a)),
    "size": _strict(lambda a: _in_range(abs(a))),
    "real": _strict(float),
    "integer": _strict(int),
    "finite": _strict(math.isfinite),
    "length": _strict(len),
    "joined": _strict(lambda a, b: a + b),
    "hour": _strict(lambda at: at // _HOUR % 24),
    "weekday": _strict(lambda at: (at // (24 * _HOUR) + 4) % 7),
    "first": lambda *given: next((one for one in given if one is not None), None),
    "among": _among,
    "__builtins__": {},
}


def _held_to_sql(found: RowExpression, parsed: exp.Expr, columns: tuple[tuple[str, str], ...]) -> None:
    """Raise `_NoForm` where it does not give what the engine gives on made-up rows, bit for bit."""
    import numpy as np
    import pyarrow as pa
    from sqlglot import exp

    from millstream.definitions.data_types import arrow_type

    read = {column.name.lower() for column in parsed.find_all(exp.Column)}
    kinds = {name: kind for name, kind in columns if name.lower() in read}
    made: dict[str, list[Any]] = {"_": [None] * _ROWS}
    for place, (name, kind) in enumerate(kinds.items()):
        if kind not in POOLS:
            raise _NoForm(f"the type {kind} of '{name}'")
        literals = [one.this for one in parsed.find_all(exp.Literal) if one.is_string] if kind == "string" else []
        pool = [*POOLS[kind], *literals, None]
        made[name] = [pool[(row * (2 * place + 1) + row // len(pool) + 5 * place) % len(pool)] for row in range(_ROWS)]
    table = pa.table(
        {
            name: pa.array(values, arrow_type(kinds[name]) if name in kinds else pa.null())
            for name, values in made.items()
        }
    )
    try:
        column = EMBEDDED.evaluate([found.sql], table).column(0)
    except Exception as error:
        raise _NoForm(f"on made-up rows it fails: {first_line(error)}") from None
    column = column.cast(arrow_type(found.kind)) if found.kind != "timestamp" else column.cast(pa.int64())
    wanted = column.to_pylist()
    for row, one in enumerate(wanted):
        given = {name.lower(): values[row] for name, values in made.items()}
        got = found.value(given)
        same = got == one and isinstance(got, bool) == isinstance(one, bool)
        if isinstance(got, float) and isinstance(one, float):
            same = np.float64(got).tobytes() == np.float64(one).tobytes() or (got != got and one != one)
        if not same:
            raise _NoForm(f"for {given} it is {one!r}, and {got!r} compiled")
