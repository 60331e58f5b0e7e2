"""Aggregations that forget: the newest events weigh most, and half as much with every half-life that passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from millstream.calls import checked_class
from millstream.definitions.aggregation import Aggregation
from millstream.definitions.durations import UNITS, Duration, micros, text
from millstream.definitions.frozen import freeze
from millstream.errors import DefinitionError

#: How many half-lives back events still weigh something: 2**-40 there.
HALF_LIVES = 40


@checked_class
@dataclass(frozen=True, init=False)
class Decayed(Aggregation):
    """What every aggregation that forgets has.

    An event weighs 2**-(n h / half_life), n being the whole hops h between its time and the read, and h the default hop
    of a window as long as the half-life. What is more than 40 half-lives back weighs nothing. Its state is a tile for
    each half-life that has events, 41 at most.

    Args:
        expression: a column, or an SQL expression over one event; `DecayedCount` may do without.
        half_life: after how long an event weighs half, such as "1h"; a second at least.
        where: a condition: events for which it is not true do not count.
        name: what the column's name begins with, which is otherwise made from the expression.

    Raises:
        DefinitionError: for an argument that is none of these. It has no window, no hop and no delay.

    """

    half_life: str
    over: tuple[str | None, ...] = field(init=False, repr=False)
    hop: int | None = field(init=False, repr=False)
    delay: int = field(init=False, repr=False)

    def __init__(
        self,
        expression: str | None = None,
        *,
        half_life: Duration,
        where: str | None = None,
        name: str | None = None,
        over: None = None,
        hop: None = None,
        delay: None = None,
    ) -> None:
        thing = type(self).__name__
        value = "" if self.kind == "decayed_count" else '"amount", '
        example = f'write ms.{thing}({value}half_life="1h").'
        if self.kind != "decayed_count" and expression is None:
            raise DefinitionError.expected(thing, "expression", None, "a column or an SQL expression", example)
        for argument, given in (("over", over), ("hop", hop), ("delay", delay)):
            if given is not None:
                what = "nothing: what it looks back on, and in which steps, follows from the half-life"
                raise DefinitionError.expected(thing, argument, given, what, example)
        span = micros(half_life, thing, "half_life")
        if span < UNITS["s"]:
            raise DefinitionError.expected(thing, "half_life", half_life, "a second or longer", example)
        super().__init__(expression, where=where, name=name)
        written = half_life if isinstance(half_life, str) else text(span)
        freeze(self, half_life=written, over=(written,))


class DecayedCount(Decayed):
    """How many events there are, the older the less: each counts half after every half-life. 0.0 when there is none.

    Use it for how busy a user is now, where a window would drop an event all at once. With an expression, events that
    have a value for it count. Its state is 3 int64 per tile.

    Args:
        half_life: after how long an event counts half, such as "1h"; the others are those of `Decayed`.

    >>> DecayedCount(half_life="1h").half_life
    '1h'
    """

    kind = "decayed_count"


class DecayedSum(Decayed):
    """The sum of a number, the older the less: each value counts half after every half-life. 0.0 when there is none.

    Use it for recent spending. Its range is that of `Sum`. Its state is 3 int64 per tile.

    Args:
        half_life: after how long a value counts half, such as "1h"; the others are those of `Decayed`.

    >>> DecayedSum("amount", half_life="1h").kind
    'decayed_sum'
    """

    kind = "decayed_sum"


class DecayedMean(Decayed):
    """The mean of a number, in which values weigh half after every half-life; null when there is none.

    Use it for what is usual lately. It is the decayed sum by the decayed count of the values. Its state is 6 int64 per tile.

    Args:
        half_life: after how long a value weighs half, such as "1h"; the others are those of `Decayed`.

    >>> DecayedMean("amount", half_life="7d").over
    ('7d',)
    """

    kind = "decayed_mean"


DECAYED = (DecayedCount, DecayedMean, DecayedSum)
#: The kinds of columns that these come to.
DECAYED_KINDS = frozenset(one.kind for one in DECAYED)
