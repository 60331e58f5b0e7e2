"""Probes: aggregations that look a value of the request up among the values that a key has had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.calls import checked_class, whole
from millstream.definitions.aggregation import OfExpression, Window
from millstream.definitions.durations import Duration
from millstream.definitions.frozen import freeze
from millstream.definitions.values import CATEGORIES, MOST_CATEGORIES
from millstream.errors import DefinitionError


def check_request(thing: str, request: object) -> str:
    """Return the name of the request's field that is looked up, or raise `DefinitionError` for what is none."""
    if not isinstance(request, str) or not request.isidentifier():
        hint = f'write ms.{thing}(..., request="payee_id").'
        raise DefinitionError.expected(thing, "request", request, "the name of a field of the request", hint)
    return request


@checked_class
@dataclass(frozen=True, init=False)
class Probe(OfExpression):
    """What every aggregation that looks a value of the request up has, beside what every one of a value has.

    A view that reads it has a request field of that name, or a key by which it reads a group, of the type of the values: int64,
    string, bool, date, timestamp or uuid. A model reads request fields, and no keys. Strings may be of any length: they are
    told apart by 64 bits of their UTF-8. A null field gives null.

    Args:
        request: the field of the view's request that holds the value to look up.
        categories: how many different values a key may have in a window, 256 unless given; with more the feature is null.

    Raises:
        DefinitionError: for a request that is no name of a field.

    """

    request: str
    categories: int

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
        categories: int = CATEGORIES,
    ) -> None:
        thing = type(self).__name__
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, request=check_request(thing, request))
        freeze(self, categories=whole(thing, "categories", categories, 1, MOST_CATEGORIES))


class Seen(Probe):
    """Whether the window holds the request's value; false of nothing, null for a null request or when too many differ.

    Use it for "has this user ever paid this payee", which is false for the first payment. Its state is two int64 per
    different value and tile.

    Args:
        request: the field of the view's request that holds the value, of the type of `expression`.
        categories: how many different values a key may have in a window; with more the feature is null. The others are
            those of every aggregation.

    >>> Seen("payee_id", request="payee_id", over="90d").request
    'payee_id'
    """

    kind = "seen"


class SinceSeen(Probe):
    """Seconds since the window's newest event with the request's value; null when there is none, or when too many differ.

    Use it for how long ago this user last paid this payee. Its state is three int64 per different value and tile, of which
    `Seen` and `CountBy` of the same values share two.

    Args:
        request: the field of the view's request that holds the value, of the type of `expression`.
        categories: how many different values a key may have in a window; with more the feature is null. The others are
            those of every aggregation.

    >>> SinceSeen("payee_id", request="payee_id").kind
    'since_seen'
    """

    kind = "since_seen"


PROBES = (Seen, SinceSeen)
