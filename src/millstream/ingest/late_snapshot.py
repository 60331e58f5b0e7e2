"""A snapshot that comes after a newer one: what it changes for who reads at an instant before that one could be known.

A newer run wrote nothing where it found the values that were there already. Once other values come in below it, what it
said that way is written too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from millstream.fold.rows import ACTIVE, Row, join_rows, split_rows, union
from millstream.ingest.batch_online import Items, Times


def late_snapshot_changes(
    said: Mapping[bytes, Row],
    gone: Row,
    states: Iterable[tuple[bytes, bytes]],
    following: Times,
    now: int,
) -> Items:
    """The states that a late snapshot changes.

    Args:
        said: its rows in a shard, by key.
        gone: what it says of every other key.
        states: all keys of the shard, each with its state.
        following: the times of the run that ranks next (µs).
        now: the instant (µs) by which states are pruned.

    Returns:
        Items: the keys and their new states.
    """
    changed: Items = []
    seen = set()
    for key, state in states:
        seen.add(key)
        known = split_rows(state)
        after = _between(known, said.get(key, gone), following, now)
        if after != known:
            changed.append((key, join_rows(after)))
    fresh = ((key, row) for key, row in said.items() if key not in seen)
    return changed + [(key, join_rows(_between([], row, following, now))) for key, row in fresh]


def _between(known: list[Row], row: Row, following: Times, now: int) -> list[Row]:
    """The rows of a key once a late one is in, with what the run that ranks next says."""
    if _says(_in_force(known, row[:2]), row):
        return known
    stays = _in_force(known, following)
    after = Row(*following, ACTIVE, b"") if stays is None else stays
    return union(known, [row, after._replace(event_time=following[0], available_time=following[1])], now)


def _in_force(known: list[Row], times: Times) -> Row | None:
    """The newest row of those up to some times."""
    return next((row for row in known if row[:2] <= times), None)


def _says(before: Row | None, row: Row) -> bool:
    """Whether what is in force says this already, to everyone who could know the row."""
    if before is None or not row.values:
        return not row.values and (before is None or (not before.values and before.visible <= row.visible))
    return before.values == row.values and before.visible <= row.visible and before.confirmed == row.confirmed
