"""Aggregations made of aggregations: what one comes to beside another, and the request beside what was usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from millstream.calls import checked_class
from millstream.definitions.aggregation import Aggregation, OfExpression, Window
from millstream.definitions.durations import Duration
from millstream.definitions.frozen import check_name, freeze
from millstream.definitions.values import Quantile
from millstream.errors import DefinitionError


@checked_class
@dataclass(frozen=True, init=False)
class Combined(Aggregation):
    """What every aggregation of two others has; its windows, filters and hops are theirs.

    Args:
        a: the first aggregation, of one window.
        b: the second one, of one window, which may be another.
        name: the column's name.

    Raises:
        DefinitionError: without a name, and for an aggregation of several windows or of others.

    """

    a: Aggregation
    b: Aggregation
    name: str
    expression: str | None = field(init=False, repr=False)
    over: tuple[str | None, ...] = field(init=False, repr=False)
    where: str | None = field(init=False, repr=False)
    hop: int | None = field(init=False, repr=False)
    delay: int = field(init=False, repr=False)

    def __init__(self, a: Aggregation, b: Aggregation, *, name: str) -> None:
        thing = type(self).__name__
        example = f'write ms.{thing}(ms.Sum("amount", over="1h"), ms.Sum("amount", over="30d"), name="...").'
        if name is None:
            raise DefinitionError.expected(thing, "name", None, "a name, for it has none of its own", example)
        label = f"{thing} '{check_name(thing, name)}'"
        for argument, part in (("a", a), ("b", b)):
            _check_part(label, argument, part, example)
        freeze(self, a=a, b=b, name=name, expression=None, over=(), where=None, hop=None, delay=0)

    @property
    def values(self) -> tuple[str, ...]:
        """The expressions and the filters of both, in order."""
        return tuple(sql for part in (self.a, self.b) for sql in (*part.values, part.where) if sql)


def _check_part(thing: str, argument: str, part: object, example: str) -> None:
    if isinstance(part, Combined | ZScore):
        hint = "make each of them a feature, and combine these in an on-demand feature."
        given = type(part).__name__
        raise DefinitionError.expected(
            thing, argument, given, "an aggregation of events, not one of aggregations", hint
        )
    if not isinstance(part, Aggregation):
        raise DefinitionError.expected(thing, argument, part, "an aggregation", example)
    if isinstance(part, Quantile) and len(part.q) != 1:
        hint = f"make one {thing.split()[0]} for each share."
        raise DefinitionError.expected(thing, f"q of {argument}", list(part.q), "one share", hint)
    if len(part.over) != 1:
        windows = ["all time" if one is None else str(one) for one in part.over]
        hint = f"make one {thing.split()[0]} for each window."
        raise DefinitionError.expected(thing, f"over of {argument}", windows, "one window", hint)
    if part.name is not None:
        raise DefinitionError.expected(
            thing,
            f"name of {argument}",
            part.name,
            "none, for it is no column",
            "leave it out; list it as well to have it.",
        )


class Ratio(Combined):
    """One aggregation by another; null where the second is null or 0.

    Use it for the last hour beside what is usual, or one sum as a share of another. It is worked out of the two values
    as they are read, each rounded, so it costs what they keep and no more.

    >>> from millstream import Sum
    >>> Ratio(Sum("amount", over="1h"), Sum("amount", over="30d"), name="surge").kind
    'ratio'
    """

    kind = "ratio"


class Difference(Combined):
    """One aggregation less another; null where either is null.

    Use it for how far the latest is from the mean, in the unit of both. It is worked out of the two values as they are
    read, each rounded, so it costs what they keep and no more.

    >>> from millstream import Last, Mean
    >>> Difference(Last("amount"), Mean("amount", over="30d"), name="step").kind
    'difference'
    """

    kind = "difference"


@checked_class
@dataclass(frozen=True, init=False)
class ZScore(OfExpression):
    """How many sample standard deviations a number of the request lies above the mean; null without one, or when it is 0.

    Use it for "is this amount unusual for this user". A view that reads it has a request field of that name. It is worked
    out of the rounded mean and deviation; its state is theirs, 8 int64 per tile.

    Args:
        request: the field of the view's request that holds the number; the others are those of every aggregation.

    >>> ZScore("amount", request="amount", over="30d").request
    'amount'
    """

    kind = "zscore"

    request: str

    def __init__(
        self,
        expression: str,
        *,
        request: str,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        if not isinstance(request, str) or not request.isidentifier():
            hint = 'write ms.ZScore("amount", request="amount", over="30d").'
            raise DefinitionError.expected("ZScore", "request", request, "the name of a field of the request", hint)
        freeze(self, request=request)


COMBINED = (Difference, Ratio, ZScore)
