"""What the layers ask of marks: where something begins, what it is to reach, how often and how far it was done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Marks(Protocol):
    """Named marks, each a number for some places, that move by compare-and-set and never expire.

    A place is a "topic/partition", whose number is a position, or a word of the mark's own.
    """

    def read(self, mark: str) -> dict[str, int]:
        """Return the numbers of a mark by place; none when it was never set.

        Args:
            mark: the name of the mark, such as "start/habits@1".
        """
        ...

    def move(self, mark: str, known: Mapping[str, int], to: Mapping[str, int | None]) -> None:
        """Set the numbers of some places of a mark, durably, all of them or none.

        Args:
            mark: the name of the mark.
            known: what was read; a place that is not in it was not set.
            to: the new numbers by place, None to unset one; places that are not in it stay as they are.

        Raises:
            Fenced: when one of these places is not as it was read: somebody else has moved it.
        """
        ...
