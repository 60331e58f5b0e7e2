"""Aggregations that tell values apart: how many differ, which are most frequent, where they lie, which came last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from numbers import Real

from millstream.calls import checked_class, whole
from millstream.definitions.aggregation import STRING_BYTES, OfExpression, Window
from millstream.definitions.durations import Duration
from millstream.definitions.expressions import is_column
from millstream.definitions.frozen import freeze
from millstream.errors import DefinitionError

#: How many different values a key may have in a window, unless told otherwise.
CATEGORIES = 256
MOST_CATEGORIES = 65_536
MOST_ROWS = 1_000


class DistinctCount(OfExpression):
    """How many different values there are: exact up to 256 in the window, an estimate beyond. 0 when there is none.

    Use it for "how many devices in 24 hours". Beyond 256 values the estimate is that of 4,096 HyperLogLog registers
    (Ertl, 2017), with a standard error of 1.6 %; which of the two it is, and its bits, follow from the values alone. Its
    state is one int64 per value and tile, 411 int64 at most.

    >>> DistinctCount("device_id", over="24h").kind
    'distinct_count'
    """

    kind = "distinct_count"


@checked_class
@dataclass(frozen=True, init=False)
class Quantile(OfExpression):
    """Where the given share of the values lies, interpolated linearly as NumPy does; null when there is none.

    Use it where a mean is led astray by a few large payments. Exact up to 64 values in the window; beyond, each of the two
    neighbouring values is off by less than 1 % of its magnitude, and magnitudes below 2**-64 are 0 (buckets of DDSketch,
    Masson and others, 2019). Its state is two int64 per value or bucket and tile.

    Args:
        q: the share, from 0 to 1, or several of them, each of which makes a column: 0.95 gives `amount_p95`. The others
            are those of every aggregation.

    >>> Quantile("amount", q=[0.5, 0.95], over="24h").q
    (0.5, 0.95)
    """

    kind = "quantile"

    q: tuple[float, ...]

    def __init__(
        self,
        expression: str,
        *,
        q: float | Sequence[float],
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        shares = tuple(q) if isinstance(q, Sequence) and not isinstance(q, str | bytes) else (q,)
        for share in shares:
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                hint = "write q=0.95, or q=[0.5, 0.95]."
                raise DefinitionError.expected("Quantile", "q", q, "shares from 0 to 1", hint)
        if not shares:
            raise DefinitionError.expected("Quantile", "q", q, "at least one share", "write q=0.95.")
        freeze(self, q=tuple(float(share) for share in shares))


class Median(OfExpression):
    """The middle value, or the mean of the two in the middle: the quantile of one half; null when there is none.

    >>> Median("amount", over="30d").kind
    'median'
    """

    kind = "median"


@checked_class
@dataclass(frozen=True, init=False)
class _OfCategories(OfExpression):
    categories: int
    max_bytes: int

    def __init__(
        self,
        expression: str,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        categories: int = CATEGORIES,
        max_bytes: int = STRING_BYTES,
    ) -> None:
        thing = type(self).__name__
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, categories=whole(thing, "categories", categories, 1, MOST_CATEGORIES))
        freeze(self, max_bytes=whole(thing, "max_bytes", max_bytes, 1, 1024))


class Entropy(_OfCategories):
    """Shannon's entropy, in bits, of the shares that the values have; null when there is none, or too many differ.

    Use it for how spread out a user's merchants or countries are. Its state is an int64 more per value and tile than the
    value takes.

    Args:
        categories: how many different values a key may have in a window; with more the feature is null.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> Entropy("merchant_id", over="30d").categories
    256
    """

    kind = "entropy"


class Mode(_OfCategories):
    """The most frequent value, of equally frequent ones the smallest; null when there is none, or too many differ.

    Args:
        categories: how many different values a key may have in a window; with more the feature is null.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> Mode("country", over="30d").max_bytes
    39
    """

    kind = "mode"


@checked_class
@dataclass(frozen=True, init=False)
class Lag(OfExpression):
    """The n-th newest value that is not null, by event time and then by value; null when there are fewer.

    Use it for "the payment before the last". `Lag(x, n=1)` is `Last(x)`. Its state is n entries of a time, a value and a
    count per tile at most.

    Args:
        n: which one, 1 for the newest; at most 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> Lag("amount", n=2).n
    2
    """

    kind = "lag"

    n: int
    max_bytes: int

    def __init__(
        self,
        expression: str,
        n: int = 1,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int = STRING_BYTES,
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, n=whole("Lag", "n", n, 1, MOST_ROWS), max_bytes=whole("Lag", "max_bytes", max_bytes, 1, 1024))


@checked_class
@dataclass(frozen=True, init=False)
class _Several(OfExpression):
    k: int
    max_bytes: int

    def __init__(
        self,
        expression: str,
        k: int = 5,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int = STRING_BYTES,
    ) -> None:
        thing = type(self).__name__
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, k=whole(thing, "k", k, 1, MOST_ROWS), max_bytes=whole(thing, "max_bytes", max_bytes, 1, 1024))


@checked_class
@dataclass(frozen=True, init=False)
class _InOrder(_Several):
    expression: str | tuple[str, ...]  # type: ignore[assignment]

    def __init__(
        self,
        expression: str | Sequence[str],
        k: int = 5,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int = STRING_BYTES,
    ) -> None:
        several = isinstance(expression, Sequence) and not isinstance(expression, str | bytes)
        read = _columns(type(self).__name__, expression) if several else ()
        first = read[0] if read else expression
        super().__init__(first, k, over=over, where=where, name=name, hop=hop, delay=delay, max_bytes=max_bytes)  # type: ignore[arg-type]
        if read:
            freeze(self, expression=read)

    @property
    def values(self) -> tuple[str, ...]:
        """The expressions whose values it takes of each event, in order."""
        return (self.expression,) if isinstance(self.expression, str) else self.expression


def _columns(thing: str, given: Sequence[str]) -> tuple[str, ...]:
    """Several columns, whose names are those of the fields of an element."""
    hint = f'write ms.{thing}(["amount", "country"], k=20).'
    for one in given:
        if not isinstance(one, str) or not is_column(one):
            hint = "name the expression in derive=, and list that name." if isinstance(one, str) else hint
            raise DefinitionError.expected(thing, "expression", one, "a column, of which a field has its name", hint)
    if not given or len({one.strip().lower() for one in given}) < len(given):
        raise DefinitionError.expected(thing, "expression", list(given), "columns, each once", hint)
    return tuple(one.strip() for one in given)


class LastK(_InOrder):
    """The list of the newest values that are not null, newest first; of one instant the larger first. Empty of nothing.

    Use it for "the last five amounts", as columns of a model by `.spread()` or as an array in an on-demand feature. Of
    several columns it is a list of structs, for a sequence model: an event of which all are null is skipped. Its state is k
    entries of a time, a value and a count per tile at most.

    Args:
        expression: a column or an SQL expression, or a list of columns.
        k: how many at most, 5 unless given, up to 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> LastK("amount", k=3, over="24h").k
    3
    >>> LastK(["amount", "country"], k=20).expression
    ('amount', 'country')
    """

    kind = "last_k"


class FirstK(_InOrder):
    """The list of the oldest values that are not null, oldest first; of one instant the smaller first. Empty of nothing.

    Use it for how a customer began. Of several columns it is a list of structs: an event of which all are null is skipped.
    Its state is k entries of a time, a value and a count per tile at most.

    Args:
        expression: a column or an SQL expression, or a list of columns.
        k: how many at most, 5 unless given, up to 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> FirstK("merchant_id", k=3).kind
    'first_k'
    """

    kind = "first_k"


class LastDistinctK(_Several):
    """The list of the different values seen most recently, each once, newest first; of one instant the larger first.

    Use it for the last devices or countries of a user. Empty of nothing. Its state is k entries of a value and a time per
    tile at most.

    Args:
        k: how many at most, 5 unless given, up to 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> LastDistinctK("country", over="30d").k
    5
    """

    kind = "last_distinct_k"


@checked_class
class _Edge(_Several):
    def __init__(
        self,
        expression: str,
        k: int = 3,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int = STRING_BYTES,
    ) -> None:
        super().__init__(expression, k, over=over, where=where, name=name, hop=hop, delay=delay, max_bytes=max_bytes)


class MaxK(_Edge):
    """The list of the greatest values, repeats kept, greatest first. Empty of nothing.

    Strings are in the order of their UTF-8 bytes, false comes before true. Its state is k entries of a value and a count
    per tile at most.

    Args:
        k: how many at most, 3 unless given, up to 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> MaxK("amount", over="30d").k
    3
    """

    kind = "max_k"


class MinK(_Edge):
    """The list of the least values, repeats kept, least first. Empty of nothing.

    Strings are in the order of their UTF-8 bytes, false comes before true. Its state is k entries of a value and a count
    per tile at most.

    Args:
        k: how many at most, 3 unless given, up to 1,000.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> MinK("amount", over="30d").kind
    'min_k'
    """

    kind = "min_k"


@checked_class
@dataclass(frozen=True, init=False)
class TopK(_OfCategories):
    """The list of the most frequent values, most frequent first, of equally frequent ones the smaller first.

    Use it for a user's usual countries or merchants. Empty of nothing, and null when too many differ. Its state is an
    int64 more per value and tile than the value takes.

    Args:
        k: how many at most, 3 unless given, up to 1,000.
        categories: how many different values a key may have in a window; with more the feature is null.
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> TopK("country", over="30d").k
    3
    """

    kind = "top_k"

    k: int

    def __init__(
        self,
        expression: str,
        k: int = 3,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        categories: int = CATEGORIES,
        max_bytes: int = STRING_BYTES,
    ) -> None:
        super().__init__(
            expression, over=over, where=where, name=name, hop=hop, delay=delay, categories=categories,
            max_bytes=max_bytes,
        )  # fmt: skip
        freeze(self, k=whole("TopK", "k", k, 1, MOST_ROWS))


@checked_class
@dataclass(frozen=True, init=False)
class Histogram(OfExpression):
    """How many values lie in each bin, as NumPy counts: from each edge up to the next, the last one with its end.

    Use it for the shape of a user's amounts. A list of counts, zeros of nothing; values below the first edge or above the
    last are not counted. Its state is one int64 per bin and tile.

    Args:
        bins: the edges, ascending, from 2 to 1,001 of them; the others are those of every aggregation.

    >>> Histogram("amount", bins=[0, 10, 100], over="30d").bins
    (0.0, 10.0, 100.0)
    """

    kind = "histogram"

    bins: tuple[float, ...]

    def __init__(
        self,
        expression: str,
        *,
        bins: Sequence[float],
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        wanted = f"from 2 to {MOST_ROWS + 1:,} ascending numbers"
        edges = tuple(bins) if isinstance(bins, Iterable) and not isinstance(bins, str | bytes | Mapping) else ()
        hint = "write bins=[0, 10, 100], which makes two bins."
        numbers = all(isinstance(edge, Real) and not isinstance(edge, bool) and isfinite(edge) for edge in edges)
        if not numbers or not 2 <= len(edges) <= MOST_ROWS + 1 or any(b <= a for a, b in pairwise(edges)):
            raise DefinitionError.expected("Histogram", "bins", bins, wanted, hint)
        freeze(self, bins=tuple(float(edge) for edge in edges))


#: Those whose columns are lists.
LISTS = (FirstK, LastDistinctK, LastK, MaxK, MinK, TopK)
VALUES = (DistinctCount, Entropy, Lag, Median, Mode, Quantile, Histogram, *LISTS)
#: The kinds of columns that these come to.
VALUE_KINDS = frozenset(one.kind for one in VALUES)


def percent(share: float) -> str:
    """Return what a share is called in a column's name.

    >>> percent(0.95), percent(0.999), percent(0.5)
    ('p95', 'p99_9', 'p50')
    """
    text = f"{round(100 * share, 10):.10f}".rstrip("0").rstrip(".")
    return "p" + text.replace(".", "_")
