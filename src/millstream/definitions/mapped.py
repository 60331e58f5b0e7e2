"""Aggregations for each of some categories: maps from a category to what its events come to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from millstream.calls import checked_class, whole
from millstream.definitions.aggregation import (
    STRING_BYTES,
    Aggregation,
    Count,
    First,
    Last,
    Max,
    Mean,
    Min,
    Std,
    Sum,
    Window,
)
from millstream.definitions.durations import Duration, text
from millstream.definitions.frozen import freeze
from millstream.definitions.probes import check_request
from millstream.definitions.values import CATEGORIES, MOST_CATEGORIES, MOST_ROWS
from millstream.errors import DefinitionError

#: What can be taken of the events of each category.
_OF_EACH = (Count, First, Last, Max, Mean, Min, Std, Sum)


@checked_class
@dataclass(frozen=True, init=False)
class Mapped(Aggregation, ABC):
    """What every aggregation for each category has; the other arguments are those of `Aggregation`.

    Args:
        category: what tells the categories apart, a column or an SQL expression.
        k: how many categories at most, 50 unless given, up to 1,000.
        categories: how many different categories a key may have in a window; with more the feature is null.
        max_bytes: a category longer than that in UTF-8 makes its event a dead letter.

    """

    category: str
    k: int | None
    categories: int
    max_bytes: int
    expression: str | None = field(init=False, repr=False)

    def __init__(
        self,
        category: str,
        k: int = 50,
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
        if not isinstance(category, str) or not category.strip():
            hint = f'write ms.{thing}("country", ...).'
            raise DefinitionError.expected(thing, "category", category, "a column or an SQL expression", hint)
        super().__init__(category, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, category=category, k=whole(thing, "k", k, 1, MOST_ROWS))
        freeze(self, categories=whole(thing, "categories", categories, 1, MOST_CATEGORIES))
        freeze(self, max_bytes=whole(thing, "max_bytes", max_bytes, 1, 1024))

    @property
    @abstractmethod
    def of_each(self) -> Aggregation:
        """What is taken of the events of each category."""

    @property
    def values(self) -> tuple[str, ...]:
        """What tells the categories apart, and what is aggregated of each."""
        return (self.category, *self.of_each.values)


@checked_class
@dataclass(frozen=True, init=False)
class By(Mapped):
    """A map from each of the k categories with most events, in that order, to an aggregate of its events.

    Use it for "the mean amount for each country". Categories with equally many events are in the order of their values. An
    event whose category or value is null is skipped, and does not count for the k. Empty of nothing, and null when too many
    categories differ. Its state is the lanes of a value, an int64 and those of the aggregate per category and tile.

    Args:
        category: what tells the categories apart, a column or an SQL expression.
        aggregate: a `Count`, `Sum`, `Mean`, `Std`, `Min`, `Max`, `First` or `Last`, without window, filter, name, hop and
            delay of its own.
        k: how many categories at most, 50 unless given, up to 1,000.
        categories: how many different categories a key may have in a window; with more the feature is null.
        max_bytes: a category longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    Raises:
        DefinitionError: for another aggregate, or one that has a window, filter, name, hop or delay.

    >>> from millstream import Mean
    >>> By("country", Mean("amount"), over="30d").k
    50
    """

    kind = "by"

    aggregate: Aggregation

    def __init__(
        self,
        category: str,
        aggregate: Aggregation,
        k: int = 50,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        categories: int = CATEGORIES,
        max_bytes: int = STRING_BYTES,
    ) -> None:
        freeze(self, aggregate=_checked(aggregate))
        super().__init__(
            category, k, over=over, where=where, name=name, hop=hop, delay=delay, categories=categories,
            max_bytes=max_bytes,
        )  # fmt: skip

    @property
    def of_each(self) -> Aggregation:
        """What is taken of the events of each category."""
        return self.aggregate


def _checked(aggregate: object) -> Aggregation:
    """What may be taken of each category: an aggregation that says nothing but what it is of."""
    hint = 'write ms.By("country", ms.Sum("amount"), over="30d").'
    if not isinstance(aggregate, _OF_EACH):
        given = type(aggregate).__name__ if isinstance(aggregate, Aggregation) else aggregate
        what = "a Count, Sum, Mean, Std, Min, Max, First or Last"
        raise DefinitionError.expected("By", "aggregate", given, what, hint)
    said = {"where": aggregate.where, "name": aggregate.name}
    said["hop"] = None if aggregate.hop is None else text(aggregate.hop)
    said["delay"] = text(aggregate.delay) if aggregate.delay else None
    if aggregate.over != (None,):
        said["over"] = ", ".join("all time" if one is None else str(one) for one in aggregate.over)
    for argument, given in said.items():
        if given is not None:
            what = f"none, for that of By counts; give By {argument}= instead"
            raise DefinitionError.expected("By", f"{argument} of aggregate", given, what, hint)
    return aggregate


@checked_class
@dataclass(frozen=True, init=False)
class _MapOrProbe(Mapped, ABC):
    """A map, or with `request` what there is of the category that a field of the request names."""

    request: str | None

    def __init__(
        self,
        category: str,
        k: int | None,
        request: str | None,
        *,
        over: Window | Sequence[Window],
        where: str | None,
        name: str | None,
        hop: Duration | None,
        delay: Duration,
        categories: int,
        max_bytes: int,
    ) -> None:
        thing = type(self).__name__
        if request is not None and k is not None:
            hint = f"leave k out: ms.{thing}(..., request={request!r}) is one number, that of the request's category."
            raise DefinitionError.expected(thing, "k", k, "none, where a request is given", hint)
        freeze(self, request=None if request is None else check_request(thing, request))
        super().__init__(
            category, 50 if k is None else k, over=over, where=where, name=name, hop=hop, delay=delay,
            categories=categories, max_bytes=max_bytes,
        )  # fmt: skip
        if request is not None:
            freeze(self, k=None)


@checked_class
@dataclass(frozen=True, init=False)
class CountBy(_MapOrProbe):
    """A map from each of the k categories with most events, in that order, to how many there are; or that of one of them.

    Use it for "payments by country", or with `request` for how often this user has paid this payee. It is short for
    `By(category, Count())`, and keeps what `TopK` does; with `request` two int64 per category and tile, shared with `Seen`.

    Args:
        category: what tells the categories apart, a column or an SQL expression.
        k: how many categories at most, 50 unless given, up to 1,000.
        request: the field of the view's request, of the type of the category, whose events alone are counted: a number
            instead of a map, 0 where there is none, and null for a null field.
        categories: how many different categories a key may have in a window; with more the feature is null.
        max_bytes: a category longer than that in UTF-8 makes its event a dead letter; with `request` they have any length.
            The others are those of every aggregation.

    Raises:
        DefinitionError: for a request that is no name of a field, and for `k` beside it.

    >>> CountBy("country", over="30d").of_each.kind, CountBy("country", request="country").request
    ('count', 'country')
    """

    kind = "count_by"

    def __init__(
        self,
        category: str,
        k: int | None = None,
        *,
        request: str | None = None,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        categories: int = CATEGORIES,
        max_bytes: int = STRING_BYTES,
    ) -> None:
        super().__init__(
            category, k, request, over=over, where=where, name=name, hop=hop, delay=delay, categories=categories,
            max_bytes=max_bytes,
        )  # fmt: skip

    @property
    def of_each(self) -> Aggregation:
        """What is taken of the events of each category."""
        return Count()


@checked_class
@dataclass(frozen=True, init=False)
class SumBy(_MapOrProbe):
    """A map from each of the k categories with most events, in that order, to the sum of a number; or that of one of them.

    Use it for "spend by merchant", or with `request` for how much this user has paid this payee. It is short for
    `By(category, Sum(value))`: an event whose category or value is null is skipped, and does not count for the k. With
    `request` it keeps five int64 per category and tile.

    Args:
        category: what tells the categories apart, a column or an SQL expression.
        value: the number, a column or an SQL expression.
        k: how many categories at most, 50 unless given, up to 1,000.
        request: the field of the view's request, of the type of the category, whose events alone are summed: a number
            instead of a map, 0 where there is none, and null for a null field.
        categories: how many different categories a key may have in a window; with more the feature is null.
        max_bytes: a category longer than that in UTF-8 makes its event a dead letter; with `request` they have any length.
            The others are those of every aggregation.

    Raises:
        DefinitionError: for a request that is no name of a field, and for `k` beside it.

    >>> SumBy("merchant_id", "amount", over="30d").of_each.expression
    'amount'
    """

    kind = "sum_by"

    value: str

    def __init__(
        self,
        category: str,
        value: str,
        k: int | None = None,
        *,
        request: str | None = None,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        categories: int = CATEGORIES,
        max_bytes: int = STRING_BYTES,
    ) -> None:
        if not isinstance(value, str) or not value.strip():
            hint = 'write ms.SumBy("country", "amount", over="30d").'
            raise DefinitionError.expected("SumBy", "value", value, "a column or an SQL expression", hint)
        freeze(self, value=value)
        super().__init__(
            category, k, request, over=over, where=where, name=name, hop=hop, delay=delay, categories=categories,
            max_bytes=max_bytes,
        )  # fmt: skip

    @property
    def of_each(self) -> Aggregation:
        """What is taken of the events of each category."""
        return Sum(self.value)


MAPPED = (By, CountBy, SumBy)
