"""Aggregations of vectors: sums and means of embeddings, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.calls import checked_class, whole
from millstream.definitions.aggregation import OfExpression, Window
from millstream.definitions.durations import Duration
from millstream.definitions.frozen import freeze

#: The types that are vectors.
VECTOR_TYPES = ("list<float64>", "list<float32>")
#: How many elements a vector has at most.
MOST_ELEMENTS = 4_096


@checked_class
@dataclass(frozen=True, init=False)
class _OfVectors(OfExpression):
    dim: int

    def __init__(
        self,
        expression: str,
        *,
        dim: int,
        over: Window | Sequence[Window] = None,
        where: str | None = None,
        name: str | None = None,
        hop: Duration | None = None,
        delay: Duration = "0s",
    ) -> None:
        super().__init__(expression, over=over, where=where, name=name, hop=hop, delay=delay)
        freeze(self, dim=whole(type(self).__name__, "dim", dim, 1, MOST_ELEMENTS))


class VectorSum(_OfVectors):
    """The sum of vectors element by element, each exact whatever the order of events. Zeros when there is none.

    Use it for what a user's items come to together, from the embedding of each. A vector of another length, or with an
    element that is no finite number within ±2**50, makes its event a dead letter. Its state is 1 + 3 dim int64 per tile.

    Args:
        expression: a column, or an SQL expression, of type "list<float64>" or "list<float32>".
        dim: how many elements a vector has, 4,096 at most; the others are those of every aggregation.

    >>> VectorSum("embedding", dim=64, over="24h").dim
    64
    """

    kind = "vector_sum"


class VectorMean(_OfVectors):
    """The mean of vectors element by element; null when there is none.

    Use it for where a user's items lie on the whole, to compare with the item at hand in an on-demand feature. A vector of
    another length, or with an element that is no finite number within ±2**50, makes its event a dead letter. Its state
    is 1 + 3 dim int64 per tile.

    Args:
        expression: a column, or an SQL expression, of type "list<float64>" or "list<float32>".
        dim: how many elements a vector has, 4,096 at most; the others are those of every aggregation.

    >>> VectorMean("embedding", dim=64, over="24h").kind
    'vector_mean'
    """

    kind = "vector_mean"


VECTORS = (VectorMean, VectorSum)
