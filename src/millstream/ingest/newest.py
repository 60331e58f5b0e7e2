"""What a run changes online: the states of one shard, by the newest row of each key and the runs that confirmed it.

A run that returns a row as it was writes nothing: that it was confirmed is recorded once, for the shard. Only a key
that a run leaves out is written, once: from then on it carries the time at which it was last confirmed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from millstream.fold.rows import ACTIVE, ROW_SPAN, Row, holds_only, join_rows, split_rows, union
from millstream.ingest.runs import KeyedRun

Items = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Confirmed:
    """The newest run that a shard has taken in: when it became available, and for snapshots its end (µs).

    `before` is when the run before it did: reads of just before the newest one go by that.
    """

    available: int | None = None
    end: int | None = None
    before: int | None = None

    @classmethod
    def of(cls, extra: Mapping[str, str]) -> Confirmed:
        """What the meta of a shard records."""
        return cls(*(int(extra[name]) if name in extra else None for name in ("confirmed", "end", "before")))

    def after(self, run: KeyedRun, now: int) -> dict[str, str]:
        """What the meta records once a run is in."""
        facts = run.run
        if self.supersedes(run, now) or (not facts.snapshot and self.available and facts.available <= self.available):
            return {}
        found = {"confirmed": str(facts.available)}
        if facts.snapshot:
            found["end"] = str(facts.end)
        return found if self.available is None else {**found, "before": str(self.available)}

    def supersedes(self, run: KeyedRun, now: int) -> bool:
        """Whether a snapshot says nothing new, because a newer one is in: not one from when the clock was ahead."""
        if self.end is None or self.end > now:
            return False
        return (run.run.end, run.run.available) < (self.end, self.available or 0)


def rows_by_key(run: KeyedRun, places: np.ndarray, now: int) -> dict[bytes, list[Row]]:
    """The rows of a run at some places, by key, less those that no read from now (µs) on can need."""
    event = np.asarray(run.run.rows["event_time"])[places]
    available = np.asarray(run.run.rows["available_time"])[places]
    found: dict[bytes, list[Row]] = defaultdict(list)
    settled: dict[bytes, Row] = {}
    for place, event_time, available_time in zip(places.tolist(), event.tolist(), available.tolist(), strict=True):
        key, row = run.keys[place], Row(event_time, available_time, ACTIVE, run.values[place])
        if row.visible > now - ROW_SPAN:
            found[key].append(row)
        elif key not in settled or settled[key][:2] <= row[:2]:
            settled[key] = row
    for key, row in settled.items():
        found[key].append(row)
    return found


def dated_changes(
    run: KeyedRun,
    fresh: Mapping[bytes, list[Row]],
    before: Mapping[bytes, bytes | None],
    others: Iterable[tuple[bytes, bytes]],
    confirmed: Confirmed,
    ttl: int | None,
    now: int,
) -> Items:
    """The states that a run with rows dated by themselves changes.

    `fresh` are its rows by key, `before` the states of those keys, `others` the states of all other keys of the shard,
    looked at only with a `ttl` (µs).
    """
    last, available = confirmed.available, run.run.available
    late = last is not None and available < last
    changed: Items = []
    for key, rows in fresh.items():
        state = before[key]
        if len(rows) == 1 and not late and (state is None or holds_only(state, rows[0])):
            if state is None:
                changed.append((key, join_rows(rows)))
            continue
        known = split_rows(state)
        if ttl is not None:
            added = [row._replace(confirmed=available) for row in rows] if late else rows
            after = union([_reconfirmed(row, rows, last, available, late) for row in known], added, now)
        else:
            after = union(known, rows, now)
        if after != known:
            changed.append((key, join_rows(after)))
    if ttl is not None and last is not None and not late:
        changed += _left_out(others, last)
    return changed


def _reconfirmed(row: Row, returned: Sequence[Row], last: int | None, available: int, late: bool) -> Row:
    """A row that was there, after a run that returned it or did not."""
    again = any(new.event_time == row.event_time and new.values == row.values for new in returned)
    if again:
        if not late:
            return row._replace(confirmed=ACTIVE)
        return row if row.confirmed == ACTIVE else row._replace(confirmed=max(row.confirmed, available))
    return row if late or last is None or row.confirmed != ACTIVE else row._replace(confirmed=last)


def _left_out(others: Iterable[tuple[bytes, bytes]], last: int) -> Items:
    """The keys that the last run confirmed and this one did not return, each with that time."""
    changed: Items = []
    for key, state in others:
        rows = split_rows(state)
        after = [row._replace(confirmed=last) if row.confirmed == ACTIVE else row for row in rows]
        if after != rows:
            changed.append((key, join_rows(after)))
    return changed


def snapshot_changes(
    run: KeyedRun,
    fresh: Mapping[bytes, list[Row]],
    before: Mapping[bytes, bytes | None],
    others: Iterable[tuple[bytes, bytes]],
    confirmed: Confirmed,
    now: int,
) -> Items:
    """The states that a run which says everything there is changes: keys with other values, and keys that vanished."""
    if confirmed.supersedes(run, now):
        return []
    changed: Items = []
    for key, rows in fresh.items():
        known = split_rows(before[key])
        if not known or known[0].values != rows[0].values or known[0].visible > rows[0].visible:
            changed.append((key, join_rows(union(known, rows, now))))
    gone = Row(run.run.end, run.run.available, ACTIVE, b"")
    for key, state in others:
        known = split_rows(state)
        if known and known[0].values:
            changed.append((key, join_rows(union(known, [gone], now))))
    return changed
