"""What a run changes online: the states of one shard, by the newest row of each key and the runs that confirmed it.

A run that returns a row as it was writes nothing: that it was confirmed is recorded once, for the shard. Only a key
that a run leaves out is written, once: from then on it carries the time at which it was last confirmed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.topics import staging_topic
from millstream.definitions.group_version import BatchGroupVersion
from millstream.fold.lone_rows import LoneRows, joined, lone_rows, same_rows
from millstream.fold.rows import ACTIVE, ROW_SPAN, Row, join_rows, split_rows, union
from millstream.ingest.staged_runs import KeyedRun
from millstream.store.online import ShardMeta

Items = list[tuple[bytes, bytes]]
#: The event time and the available time (µs) by which rows and runs rank.
Times = tuple[int, int]


@dataclass(frozen=True)
class Confirmed:
    """The newest run that a shard has taken in: when it became available, and for snapshots its end (µs).

    `before` is when the run before it did: reads of just before the newest one go by that. `by` is the position of the
    last run of dated rows whose rows count as confirmed: no other key can have such rows. `runs` are the times of the
    snapshots that a read from the last write on may see, newest first: one that comes late may belong between them.
    """

    available: int | None = None
    end: int | None = None
    before: int | None = None
    by: int | None = None
    runs: tuple[Times, ...] = ()

    @classmethod
    def of(cls, extra: Mapping[str, str]) -> Confirmed:
        """What the meta of a shard records."""
        names = ("confirmed", "end", "before", "confirmed_by")
        available, end, before, by = (int(extra[name]) if name in extra else None for name in names)
        runs: tuple[Times, ...] = () if end is None else ((end, available or 0),)
        if "runs" in extra:
            runs = msgspec.json.decode(extra["runs"], type=tuple[Times, ...])
        return cls(available, end, before, by, runs)

    def after(self, run: KeyedRun, now: int, by: int) -> dict[str, str]:
        """What the meta of the shard records once a run is in.

        Args:
            run: the run.
            now: the clock's time (µs).
            by: the instant (µs) by which the states are pruned.

        Returns:
            dict[str, str]: facts by name, those alone that the run changes.
        """
        facts = run.run
        late = self.available is not None and facts.available < self.available
        always = {} if facts.snapshot or late else {"confirmed_by": str(run.position)}
        if facts.snapshot:
            always["runs"] = msgspec.json.encode(self._seen(run, by)).decode()
        if self.supersedes(run, now) or (not facts.snapshot and self.available and facts.available <= self.available):
            return always
        found = {"confirmed": str(facts.available), **always}
        if facts.snapshot:
            found["end"] = str(facts.end)
        before = self.before if self.available == facts.available else self.available
        return found if before is None else {**found, "before": str(before)}

    def supersedes(self, run: KeyedRun, now: int) -> bool:
        """Whether a snapshot says nothing new, because a newer one is in: not one from when the clock was ahead."""
        if self.end is None or self.end > now:
            return False
        return times_of(run) < (self.end, self.available or 0)

    def following(self, run: KeyedRun) -> Times | None:
        """The times of the snapshot that ranks next after one that comes late; None for the newest."""
        return min((times for times in self.runs if times > times_of(run)), default=None)

    def hides(self, run: KeyedRun, by: int) -> bool:
        """Whether no read from `ROW_SPAN` before an instant (µs) on sees a snapshot, because newer ones are in."""
        return times_of(run) not in self._seen(run, by)

    def _seen(self, run: KeyedRun, by: int) -> list[Times]:
        """The runs that such a read may see once one more is in."""
        kept: list[Times] = []
        for times in sorted({*self.runs, times_of(run)}, reverse=True):
            if kept and max(times) >= max(kept[-1]):
                continue
            kept.append(times)
            if max(times) <= by - ROW_SPAN:
                break
        return kept


def times_of(run: KeyedRun) -> Times:
    """The times by which a run ranks."""
    return run.run.end, run.run.available


@dataclass(frozen=True, eq=False)
class Fresh:
    """The rows of a run in one shard: `lone` has those of the first keys, one each, `several` all those of the others."""

    keys: list[bytes]
    lone: LoneRows
    several: Mapping[bytes, list[Row]]


def fresh_rows(run: KeyedRun, places: np.ndarray, now: int, confirmed: np.ndarray | None = None) -> Fresh:
    """The rows of a run at some places, by key, less those that no read from now on can need.

    Args:
        run: the run.
        places: the numbers of the rows, those of one shard.
        now: the instant (µs) by which states are pruned.
        confirmed: for each row of the run, when it was last confirmed (µs); None where the newest run tells that.
    """
    codes = run.codes[places]
    times = [np.asarray(run.run.rows[name])[places] for name in ("event_time", "available_time")]
    order = np.lexsort((times[1], times[0], codes))
    settled = (np.maximum(*times) <= now - ROW_SPAN)[order]
    passed = order[settled]
    newest = np.r_[codes[passed][1:] != codes[passed][:-1], True][: len(passed)]
    kept = np.r_[np.sort(order[~settled]), passed[newest]]
    kept = kept[np.argsort(codes[kept], kind="stable")]
    begins = np.flatnonzero(np.r_[True, codes[kept][1:] != codes[kept][:-1]][: len(kept)])
    counts = np.diff(np.r_[begins, len(kept)])
    active = np.full(len(places), ACTIVE) if confirmed is None else confirmed[places]
    rows = LoneRows(times[0], times[1], active, run.values.take(places))
    several: dict[bytes, list[Row]] = defaultdict(list)
    crowd = kept[np.repeat(counts > 1, counts)]
    for key, row in zip(run.keys.take(places[crowd]).to_pylist(), rows.take(crowd).rows(), strict=True):
        several[key].append(row)
    single = kept[begins[counts == 1]]
    return Fresh([*run.keys.take(places[single]).to_pylist(), *several], rows.take(single), several)


def dated_changes(
    fresh: Fresh,
    before: Sequence[bytes | None],
    others: Iterable[Items],
    confirmed: Confirmed,
    available: int,
    ttl: int | None,
    now: int,
) -> Items:
    """The states that a run with rows dated by themselves changes.

    Args:
        fresh: the run's rows in the shard.
        before: the state of each of their keys, None for a key that has none.
        others: pages of the states of all other keys that the run before it confirmed, looked at only with a `ttl`.
        confirmed: what the shard records of the runs that are in.
        available: when the run became available (µs).
        ttl: how long a row is read after it was last confirmed (µs); None: for ever.
        now: the instant (µs) by which states are pruned.

    Returns:
        Items: the keys and their new states.
    """
    last = confirmed.available
    late = last is not None and available < last
    places, old, absent, crowd = _beside(fresh, before)
    new = fresh.lone
    if late and ttl is not None:
        new = replace(new, confirmed=np.full(len(new), available))
    changed = _begun(fresh, new, absent)
    mine = new.take(places)
    same = same_rows(old, mine)
    confirmation = old.confirmed if ttl is None else _confirmation(old, same, last, available, late)
    moved, states = joined(old, confirmation, mine, now)
    unless = np.zeros(len(places), bool) if late else same & (old.confirmed == ACTIVE)
    changed += [(fresh.keys[places[at]], state) for at, state in zip(moved, states, strict=True) if not unless[at]]
    for key, rows, state in crowd:
        known = split_rows(state)
        if ttl is not None:
            added = [row._replace(confirmed=available) for row in rows] if late else rows
            after = union([_reconfirmed(row, rows, last, available, late) for row in known], added, now)
        else:
            after = union(known, rows, now)
        if after != known:
            changed.append((key, join_rows(after)))
    if ttl is not None and last is not None and not late:
        for page in others:
            changed += _left_out(page, last)
    return changed


def _beside(
    fresh: Fresh, before: Sequence[bytes | None]
) -> tuple[np.ndarray, LoneRows, np.ndarray, list[tuple[bytes, list[Row], bytes | None]]]:
    """How fresh rows meet the states of their keys.

    The places among the lone ones whose state is one row too, and those rows; the places of those without a state; and
    all else, key by key.
    """
    known = before[: len(fresh.lone)]
    places, old = lone_rows(known)
    absent = np.flatnonzero(np.fromiter((state is None for state in known), bool, len(known)))
    rest = np.setdiff1d(np.arange(len(known)), np.r_[places, absent], assume_unique=True)
    rows = fresh.lone.take(rest).rows()
    crowd: list[tuple[bytes, list[Row], bytes | None]]
    crowd = [(fresh.keys[at], [row], known[at]) for at, row in zip(rest.tolist(), rows, strict=True)]
    crowd += [(key, fresh.several[key], before[at]) for at, key in enumerate(fresh.keys[len(known) :], len(known))]
    return places, old, absent, crowd


def _begun(fresh: Fresh, rows: LoneRows, absent: np.ndarray) -> Items:
    """The states of keys that had none."""
    return list(zip([fresh.keys[at] for at in absent.tolist()], rows.take(absent).states(), strict=True))


def _confirmation(old: LoneRows, again: np.ndarray, last: int | None, available: int, late: bool) -> np.ndarray:
    """`_reconfirmed` of many rows: when each was last confirmed, after a run that returned it `again` or did not."""
    active = old.confirmed == ACTIVE
    if late:
        return np.where(again & ~active, np.maximum(old.confirmed, available), old.confirmed)
    dropped = old.confirmed if last is None else np.where(active, last, old.confirmed)
    return np.where(again, ACTIVE, dropped)


def _reconfirmed(row: Row, returned: Sequence[Row], last: int | None, available: int, late: bool) -> Row:
    """A row that was there, after a run that returned it or did not."""
    again = any(new.event_time == row.event_time and new.values == row.values for new in returned)
    if again:
        if not late:
            return row._replace(confirmed=ACTIVE)
        return row if row.confirmed == ACTIVE else row._replace(confirmed=max(row.confirmed, available))
    return row if late or last is None or row.confirmed != ACTIVE else row._replace(confirmed=last)


def _left_out(page: Items, last: int) -> Items:
    """The keys that the last run confirmed and this one did not return, each with that time."""
    places, rows, crowd = _apart(page)
    active = rows.confirmed == ACTIVE
    ended = replace(rows, confirmed=np.where(active, last, rows.confirmed)).take(np.flatnonzero(active))
    keys = [page[at][0] for at in places[active].tolist()]
    changed = list(zip(keys, ended.states(), strict=True))
    for key, known in crowd:
        after = [row._replace(confirmed=last) if row.confirmed == ACTIVE else row for row in known]
        if after != known:
            changed.append((key, join_rows(after)))
    return changed


def snapshot_changes(
    run: KeyedRun,
    fresh: Fresh,
    before: Sequence[bytes | None],
    others: Iterable[Items],
    now: int,
) -> Items:
    """The states that a run which says everything there is changes: keys with other values, and keys that vanished.

    It is the newest one; of another one `late_snapshot_changes` tells.

    Args:
        run: the run.
        fresh: its rows in the shard.
        before: the state of each of their keys, None for a key that has none.
        others: pages of the states of all other keys of the shard.
        now: the instant (µs) by which states are pruned.

    Returns:
        Items: the keys and their new states.
    """
    places, old, absent, crowd = _beside(fresh, before)
    changed = _begun(fresh, fresh.lone, absent)
    new = fresh.lone.take(places)
    told = np.asarray(pc.equal(old.values, new.values)).astype(bool) & (old.visible <= new.visible)
    changed += _joined([fresh.keys[at] for at in places.tolist()], old, new, ~told, now)
    for key, rows, state in crowd:
        known = split_rows(state)
        if not known or known[0].values != rows[0].values or known[0].visible > rows[0].visible:
            changed.append((key, join_rows(union(known, rows, now))))
    for page in others:
        changed += _vanished(page, Row(run.run.end, run.run.available, ACTIVE, b""), now)
    return changed


def _vanished(page: Items, gone: Row, now: int) -> Items:
    """The keys that had values and have none any more."""
    places, old, crowd = _apart(page)
    event_time, available_time, confirmed = (np.full(len(old), part) for part in gone[:3])
    new = LoneRows(event_time, available_time, confirmed, pa.array([b""] * len(old), pa.large_binary()))
    valued = np.asarray(pc.binary_length(old.values)) > 0
    changed = _joined([page[at][0] for at in places.tolist()], old, new, valued, now)
    return changed + [(key, join_rows(union(known, [gone], now))) for key, known in crowd if known[0].values]


def _joined(keys: Sequence[bytes], old: LoneRows, new: LoneRows, which: np.ndarray, now: int) -> Items:
    """The states that change when some of the new rows come beside the old ones."""
    asked = np.flatnonzero(which)
    rows = old.take(asked)
    moved, states = joined(rows, rows.confirmed, new.take(asked), now)
    return list(zip([keys[at] for at in asked[moved].tolist()], states, strict=True))


def _apart(page: Items) -> tuple[np.ndarray, LoneRows, list[tuple[bytes, list[Row]]]]:
    """The places of a page's states of one row, those rows, and the rows of each other key."""
    places, rows = lone_rows([state for _, state in page])
    rest = np.setdiff1d(np.arange(len(page)), places, assume_unique=True)
    crowd = [(page[at][0], split_rows(page[at][1])) for at in rest.tolist()]
    return places, rows, [(key, known) for key, known in crowd if known]


def shard_after(
    version: BatchGroupVersion, meta: ShardMeta, run: KeyedRun, facts: dict[str, str | None], now: int
) -> ShardMeta:
    """The meta of a shard once a run is in.

    Args:
        version: the group version.
        meta: the meta before it.
        run: the run.
        facts: what the meta is to record beside what it does; a fact that is None is no longer kept.
        now: when the run is applied (µs).
    """
    return msgspec.structs.replace(
        meta,
        position=run.next,
        applied={f"{staging_topic(version.id)}/0": run.next},
        newest_arrival=max(meta.newest_arrival, run.run.available),
        applied_at=max(meta.applied_at, now),
        backfilled=True,
        extra={name: fact for name, fact in {**meta.extra, **facts}.items() if fact is not None},
    )
