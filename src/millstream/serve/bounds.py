"""How many keys have more different values than their features tell apart, counted over the states, some at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from millstream.definitions.windows import folded
from millstream.errors import MillstreamError

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.definitions.group_version import GroupVersion
    from millstream.store.online import OnlineStore

MOST = 2_000
"""How many keys one look goes through at most, of all group versions together."""
REST_SECONDS = 60.0
"""How long the keys of a group version are left alone once all were looked at."""


@dataclass
class _Walk:
    """A way through the keys of a group version: where it is, what it found, and what the one before found in all."""

    shard: int = 0
    cursor: bytes | None = None
    beyond: int = 0
    keys: int = 0
    before: tuple[int, int] | None = None
    ended: float = -REST_SECONDS

    @property
    def found(self) -> tuple[int, int]:
        """How many keys are beyond their bounds, and of how many."""
        return (self.beyond, self.keys) if self.before is None else self.before

    def end(self, now: float) -> None:
        """Note what was found in all, and begin anew."""
        self.before, self.ended = (self.beyond, self.keys), now
        self.shard, self.cursor, self.beyond, self.keys = 0, None, 0, 0


class KeysBeyond:
    """Counts keys beyond their bounds, a few at each look, so that a look costs little however many keys there are.

    Args:
        online: the store that holds the states.
        clock: says the instant at which they are read.
        most: how many keys one look goes through at most.
        rest: for how many seconds a group version is left alone once all its keys were looked at.
    """

    def __init__(self, online: OnlineStore, clock: Clock, *, most: int = MOST, rest: float = REST_SECONDS) -> None:
        self._online, self._clock, self._most, self._rest = online, clock, most, rest
        self._walks: dict[str, _Walk] = {}

    def look(self, versions: Sequence[GroupVersion]) -> dict[str, tuple[int, int]]:
        """Return, by group versions that have bounds, how many keys are beyond them and of how many that were looked at.

        A version that cannot be read now is left out.
        """
        bounded = [one for one in versions if any(part.bound for part in folded(getattr(one.group, "columns", ())))]
        self._walks = {one.states: self._walks.get(one.states) or _Walk() for one in bounded}
        found, left = dict[str, tuple[int, int]](), self._most
        for version in sorted(bounded, key=lambda one: self._walks[one.states].ended):
            walk = self._walks[version.states]
            try:
                left -= self._go_on(version, walk, left)
            except (MillstreamError, OSError):
                continue
            found[version.id] = walk.found
        return found

    def _go_on(self, version: GroupVersion, walk: _Walk, most: int) -> int:
        """Look at some more keys of a version, at most so many; returns how many."""
        from millstream.fold import States, layout_of
        from millstream.fold.bounds import beyond_bounds

        looked, layout = 0, layout_of(version.group)
        while looked < most and time.monotonic() - walk.ended >= self._rest:
            page = self._online.scan(version.states, walk.shard, walk.cursor, most - looked)
            states = States.from_bytes([state for _, state in page.items])
            at = np.full(len(states), self._clock.now(), np.int64)
            walk.beyond += int(beyond_bounds(layout, states, at).sum())
            walk.keys += len(states)
            looked += max(1, len(states))
            walk.cursor = page.cursor
            if page.cursor is None:
                walk.shard += 1
            if walk.shard == version.shards:
                walk.end(time.monotonic())
        return looked
