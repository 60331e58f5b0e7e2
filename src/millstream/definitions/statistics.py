"""Aggregations of shape and of two numbers: moments, how two numbers vary together, shares and rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.calls import checked_class
from millstream.definitions.aggregation import Aggregation, OfEvents, OfExpression, Window
from millstream.definitions.durations import Duration, micros
from millstream.definitions.frozen import freeze
from millstream.definitions.over import Session, rows_and_time
from millstream.errors import DefinitionError


class Skewness(OfExpression):
    """The skewness of a number, corrected for bias as pandas' `skew`; null below three values or without variance.

    Use it to tell a user whose payments have a few large ones among many small from one whose payments are alike. The
    adjusted Fisher-Pearson coefficient, formed from exact sums (Joanes and Gill, 1998). Its state is a count and
    sums of the first three powers, 14 int64 per tile.

    >>> Skewness("amount", over="30d").kind
    'skewness'
    """

    kind = "skewness"


class Kurtosis(OfExpression):
    """The excess kurtosis of a number, corrected for bias as pandas' `kurt`; null below four values or without variance.

    Use it where rare extremes tell more than the spread. Formed from exact sums (Joanes and Gill, 1998). Its state is
    a count and sums of the first four powers, 22 int64 per tile.

    >>> Kurtosis("amount", over="30d").kind
    'kurtosis'
    """

    kind = "kurtosis"


class GeometricMean(OfExpression):
    """The geometric mean of a positive number; null when there is none, or when one is not positive.

    Use it for amounts that differ by factors, where one large payment should not make the mean. Each logarithm is
    rounded once to 2**-64. Its state is two counts and a sum, 5 int64 per tile.

    >>> GeometricMean("amount", over="30d").kind
    'geometric_mean'
    """

    kind = "geometric_mean"


@checked_class
@dataclass(frozen=True, init=False)
class _OfTwo(Aggregation):
    other: str

    def __init__(
        self,
        expression: str,
        other: str,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        for argument, given in (("expression", expression), ("other", other)):
            if not isinstance(given, str) or not given.strip():
                what = "a column or an SQL expression"
                raise DefinitionError.expected(type(self).__name__, argument, given, what)
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, other=other)


class Covariance(_OfTwo):
    """The sample covariance of two numbers, over the events that have both; null below two.

    Formed from exact sums and rounded at the end. Its state is a count, two sums and a sum of products, 11 int64 per tile.

    Args:
        other: the second number, a column or an SQL expression; the others are those of every aggregation.

    >>> Covariance("amount", "balance", over="30d").other
    'balance'
    """

    kind = "covariance"


class Correlation(_OfTwo):
    """Pearson's correlation of two numbers, over the events that have both; null below two, or when one is constant.

    Use it for what used to go together and no longer does, as amount and balance. Formed from exact sums. Its state
    is a count, two sums and three sums of products, 19 int64 per tile.

    Args:
        other: the second number, a column or an SQL expression; the others are those of every aggregation.

    >>> Correlation("amount", "balance", over="30d").kind
    'correlation'
    """

    kind = "correlation"


@checked_class
class Share(OfEvents):
    """The share of the group's events that meet a condition; null when there is none.

    Use it for "declined of all payments". An event for which the condition is null does not meet it. Its state is two
    counts, 2 int64 per tile.

    Args:
        where: the condition, in SQL; the others are those of every aggregation.

    >>> Share(where="status = 'declined'", name="declined_share", over="24h").kind
    'share'
    """

    kind = "share"

    def __init__(
        self,
        *,
        where: str,
        over: Window | Sequence[Window] = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        if where is None:
            hint = """write ms.Share(where="status = 'declined'", over="24h")."""
            raise DefinitionError.expected("Share", "where", where, "a condition in SQL", hint)
        super().__init__(over=over, where=where, name=name, hop=hop, delay=delay)


@checked_class
@dataclass(frozen=True, init=False)
class Rate(OfEvents):
    """How many events there are per span of time: their count by the length of the window. 0.0 when there is none.

    Use it to hold windows of different lengths against each other. Its state is a count, 1 int64 per tile.

    Args:
        per: the span of time that the rate is for.
        over: one window or several; each has a length. The others are those of every aggregation.

    >>> Rate(per="1h", over=["5m", "24h"]).over
    ('5m', '24h')
    """

    kind = "rate"

    per: int

    def __init__(
        self,
        *,
        per: Duration,
        over: Window | Sequence[Window],
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(over=over, where=where, name=name, hop=hop, delay=delay)
        if any(window is None or isinstance(window, Session) or rows_and_time(window)[0] for window in self.over):
            hint = 'write ms.Rate(per="1h", over="24h").'
            raise DefinitionError.expected("Rate", "over", over, "windows of a length, for a rate divides by it", hint)
        span = micros(per, "Rate", "per")
        if span == 0:
            raise DefinitionError.expected("Rate", "per", per, "a positive duration", 'write per="1h".')
        freeze(self, per=span)


class Age(OfEvents):
    """Seconds since the earliest event of the window, of all time unless told; null when there is none.

    Use it for how long a user, or a card with a merchant, has been known. Its state is an instant, 1 int64 per tile.

    >>> Age().over
    (None,)
    """

    kind = "age"


STATISTICS = (Age, Correlation, Covariance, GeometricMean, Kurtosis, Rate, Share, Skewness)
