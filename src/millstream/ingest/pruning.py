"""By which instant batch ingestion prunes: not by a clock that has gone ahead all at once, and may be set back."""

from __future__ import annotations

from millstream.fold.rows import ROW_SPAN
from millstream.store.online import PRUNED_BY, ShardMeta, pruned_by

_QUIET = 3_600_000_000  # µs; what is further ahead of the write before than this waits for a write so much later again
_DOUBTED = "doubted"  # the fact of a shard that says when the clock went ahead, until a later write bears it out


def pruning(meta: ShardMeta | None, now: int) -> tuple[int, dict[str, str | None]]:
    """Return the instant (µs) by which a write at `now` prunes the states of a shard, and what its meta keeps of that.

    Rows that no read from that instant on can need are left out for good. A clock that is a day ahead would let go of
    what is in force; so an instant long after the write before counts only once a write has come an hour after it, or
    the clock has come there by itself. A fact that is None is no longer kept.

    >>> HOUR = 3_600_000_000
    >>> by, facts = pruning(ShardMeta(applied_at=10 * HOUR), 34 * HOUR)
    >>> by / HOUR < 10.01, facts["doubted"] == str(34 * HOUR)
    (True, True)
    """
    if meta is None:
        return now, {PRUNED_BY: str(now)}
    before, doubted = pruned_by(meta), meta.extra.get(_DOUBTED)
    if doubted is not None and now > int(doubted) + _QUIET:
        before, doubted = max(before, int(doubted) + _QUIET), None
    if now <= before + _QUIET:
        return now, {PRUNED_BY: str(max(before, now)), _DOUBTED: None}
    if doubted is None or now < int(doubted):
        before, doubted = before + ROW_SPAN, str(now)
    return before, {PRUNED_BY: str(before), _DOUBTED: doubted}
