"""Aggregations: what is computed of the events in a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from millstream.calls import checked_class, whole
from millstream.definitions.durations import Duration, micros
from millstream.definitions.frozen import check_name, freeze
from millstream.definitions.over import Over, Session, check_moves, written
from millstream.errors import DefinitionError

Window = Over
#: How many UTF-8 bytes of a string are kept at most, unless told otherwise.
STRING_BYTES = 39


@checked_class
@dataclass(frozen=True, init=False)
class Aggregation:
    """What every aggregation has: an SQL expression over one event, its windows and its filter.

    Args:
        expression: a column, or an SQL expression over one event; `Count` may do without, `TimeSince` has none.
        over: one window such as "1h", "20 events", "20 events within 24h" or a `Session`, several, or None for all time; a
            list may hold None as well.
        where: a condition: events for which it is not true do not count.
        name: what the column's name begins with, which is otherwise made from the expression.
        hop: the step of the window's tail; by the window's length unless given.
        delay: leaves out the newest events, those within that span before the read.

    Raises:
        DefinitionError: for an argument that is none of these.

    """

    kind: ClassVar[str]

    expression: str | None
    over: tuple[str | Session | None, ...]
    where: str | None
    name: str | None
    hop: int | None
    delay: int

    def __init__(
        self,
        expression: str | None = None,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        thing = type(self).__name__
        if expression is not None and (not isinstance(expression, str) or not expression.strip()):
            raise DefinitionError.expected(thing, "expression", expression, "a column or an SQL expression")
        if where is not None and (not isinstance(where, str) or not where.strip()):
            hint = 'write where="amount > 0".'
            raise DefinitionError.expected(thing, "where", where, "a condition in SQL", hint)
        step = None if hop is None else micros(hop, thing, "hop")
        if step == 0:
            raise DefinitionError.expected(thing, "hop", hop, "a positive duration", "leave it out for the default.")
        freeze(self, expression=expression, over=_windows(thing, over), where=where, hop=step)
        freeze(self, name=None if name is None else check_name(thing, name), delay=micros(delay, thing, "delay"))
        check_moves(thing, self.over, self.hop, self.delay)

    @property
    def values(self) -> tuple[str, ...]:
        """The expressions whose values it takes of each event, in order."""
        return tuple(sql for sql in (self.expression, getattr(self, "other", None)) if sql)


def _windows(thing: str, over: Window | Sequence[Window]) -> tuple[str | Session | None, ...]:
    """Each window as it was written, so that it can end the column's name; every one is checked."""
    many = over if isinstance(over, Sequence) and not isinstance(over, str | bytes) else (over,)
    if not many:
        raise DefinitionError.expected(thing, "over", over, "at least one window", 'write over="1h", or leave it out.')
    return tuple(written(thing, window) for window in many)


class Count(Aggregation):
    """How many events there are, or how many have a value for `expression`. 0 when there is none.

    >>> Count(over=["5m", "1h"]).over
    ('5m', '1h')
    """

    kind = "count"


@checked_class
class OfExpression(Aggregation):
    """What every aggregation of a value has; the arguments are those of `Aggregation`."""

    def __init__(
        self,
        expression: str,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        if expression is None:
            raise DefinitionError.expected(type(self).__name__, "expression", None, "a column or an SQL expression")
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)


class Sum(OfExpression):
    """The sum of a number, exact whatever the order of events. 0 when there is none.

    >>> Sum("amount", over="24h").expression
    'amount'
    """

    kind = "sum"


class Mean(OfExpression):
    """The mean of a number; null when there is none.

    >>> Mean("amount", over="30d").kind
    'mean'
    """

    kind = "mean"


class Std(OfExpression):
    """The sample standard deviation of a number; null below two values.

    >>> Std("amount", over="30d").kind
    'std'
    """

    kind = "std"


class Var(OfExpression):
    """The sample variance of a number; null below two values.

    >>> Var("amount", over="30d").kind
    'var'
    """

    kind = "var"


@checked_class
@dataclass(frozen=True, init=False)
class _Extreme(OfExpression):
    max_bytes: int | None

    def __init__(
        self,
        expression: str,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, max_bytes=_most_bytes(type(self).__name__, max_bytes))


def _most_bytes(thing: str, given: int | None) -> int | None:
    return None if given is None else whole(thing, "max_bytes", given, 1, 1024)


class Min(_Extreme):
    """The smallest value, of the type of what it is taken of; null when there is none.

    Strings are in the order of their UTF-8 bytes, false comes before true.

    Args:
        max_bytes: a string longer than that in UTF-8 (39 unless told) makes its event a dead letter; the others are
            those of every aggregation.

    >>> Min("amount", over="30d").kind
    'min'
    """

    kind = "min"


class Max(_Extreme):
    """The largest value, of the type of what it is taken of; null when there is none.

    Strings are in the order of their UTF-8 bytes, false comes before true.

    Args:
        max_bytes: a string longer than that in UTF-8 (39 unless told) makes its event a dead letter; the others are
            those of every aggregation.

    >>> Max("amount", over="30d").kind
    'max'
    """

    kind = "max"


@checked_class
@dataclass(frozen=True, init=False)
class _Chosen(OfExpression):
    by: str
    max_bytes: int | None

    def __init__(
        self,
        expression: str,
        by: str,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
        max_bytes: int | None = None,
    ) -> None:
        thing = type(self).__name__
        if not isinstance(by, str) or not by.strip():
            hint = f'write ms.{thing}("country", by="amount").'
            raise DefinitionError.expected(thing, "by", by, "a column or an SQL expression", hint)
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, by=by, max_bytes=_most_bytes(thing, max_bytes))

    @property
    def values(self) -> tuple[str, ...]:
        """What is kept, and by what it is chosen."""
        return (*super().values, self.by)


class ArgMin(_Chosen):
    """The value of the event where another one is least; null when no event has both.

    Use it for "the country of the smallest payment". Of events with the same least value the latest counts, and of
    those of one instant the one with the larger value of `expression`.

    Args:
        by: what is least there, a column or an SQL expression of any type.
        max_bytes: a string longer than that in UTF-8 (39 unless told), of either, makes its event a dead letter; the
            others are those of every aggregation.

    >>> ArgMin("country", by="amount", over="30d").by
    'amount'
    """

    kind = "arg_min"


class ArgMax(_Chosen):
    """The value of the event where another one is greatest; null when no event has both.

    Use it for "the country of the largest payment". Of events with the same greatest value the latest counts, and of
    those of one instant the one with the larger value of `expression`.

    Args:
        by: what is greatest there, a column or an SQL expression of any type.
        max_bytes: a string longer than that in UTF-8 (39 unless told), of either, makes its event a dead letter; the
            others are those of every aggregation.

    >>> ArgMax("country", by="amount", over="30d").kind
    'arg_max'
    """

    kind = "arg_max"


@checked_class
@dataclass(frozen=True, init=False)
class _Dated(OfExpression):
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
        max_bytes: int = STRING_BYTES,
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, max_bytes=whole(type(self).__name__, "max_bytes", max_bytes, 1, 1024))


class First(_Dated):
    """The value, not null, of the earliest event by event time; equal times are settled by the smaller value.

    Args:
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> First("country", over="30d").max_bytes
    39
    """

    kind = "first"


class Last(_Dated):
    """The value, not null, of the latest event by event time; equal times are settled by the larger value.

    Args:
        max_bytes: a string longer than that in UTF-8 makes its event a dead letter; the others are those of every
            aggregation.

    >>> Last("country").over
    (None,)
    """

    kind = "last"


@checked_class
class OfEvents(Aggregation):
    """What every aggregation of events alone has, whose values it does not look at; the arguments are `Aggregation`'s."""

    def __init__(
        self,
        *,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(None, over=over, where=where, name=name, hop=hop, delay=delay)


class TimeSince(OfEvents):
    """Seconds since the latest event; null when there is none.

    >>> TimeSince(where="status = 'declined'", name="since_declined").kind
    'time_since'
    """

    kind = "time_since"


AGGREGATIONS = (ArgMax, ArgMin, Count, First, Last, Max, Mean, Min, Std, Sum, TimeSince, Var)
