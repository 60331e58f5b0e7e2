"""The snapshots of an Iceberg table that stay: the newest, and those that a pin names, which is an Iceberg tag.

Expiry spares what a tag names, by whichever engine it is done.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from millstream.store.iceberg.commit import off_the_list

if TYPE_CHECKING:
    from pyiceberg.table import Table, Transaction

KEPT = 10
"""Snapshots that stay listed: PyIceberg copies the list several times in each commit."""
_PINNED = "millstream.pin."
_UNTIL = "millstream.until."


def tag_of(pin: int | str, snapshot: int) -> str:
    """The tag of a pin: of one with a name, or of one that is let go at an instant (µs)."""
    return f"{_UNTIL}{pin}.{snapshot}" if isinstance(pin, int) else f"{_PINNED}{pin}"


def tagged(found: Table, snapshot: int, by: str | int) -> Transaction | None:
    """Return a commit that pins a snapshot, listing it again if it was let go of; None when there is none any more.

    Args:
        found: the table, as it was loaded.
        snapshot: the snapshot's id.
        by: the name that pins it, or the instant (µs) until which it is pinned.
    """
    from pyiceberg.table.update import AddSnapshotUpdate, AssertRefSnapshotId
    from pyiceberg.table.update.snapshot import ManageSnapshots

    change = found.transaction()
    if found.snapshot_by_id(snapshot) is None:
        again = off_the_list(found, snapshot)
        if again is None:
            return None
        as_it_is = AssertRefSnapshotId.model_validate(
            {"ref": "main", "snapshot-id": found.metadata.current_snapshot_id}
        )
        change._stage((AddSnapshotUpdate(snapshot=again),), (as_it_is,))
    ManageSnapshots(change).create_tag(snapshot, tag_of(by, snapshot)).commit()
    return change


def names(found: Table) -> set[str]:
    """The names by which snapshots are pinned."""
    return {tag.removeprefix(_PINNED) for tag in found.refs() if tag.startswith(_PINNED)}


def ended(found: Table, now: int) -> list[str]:
    """The tags whose instant is past."""
    dated = [tag for tag in found.refs() if tag.startswith(_UNTIL)]
    return [tag for tag in dated if int(tag.removeprefix(_UNTIL).partition(".")[0]) <= now]


def spared(found: Table) -> set[int]:
    """The snapshots that tags and branches name, ours and those of other engines."""
    return {ref.snapshot_id for ref in found.refs().values()}


def let_go(change: Transaction, found: Table) -> None:
    """Take the oldest snapshots off the list in the same commit; their files stay until they are swept."""
    kept = spared(found)
    old = [item.snapshot_id for item in found.metadata.snapshots[:-KEPT] if item.snapshot_id not in kept]
    if old:
        expire(change, old)


def superseded(found: Table, keep: int) -> list[int]:
    """The snapshots beyond the newest few that nothing names, and that were succeeded long enough before the newest.

    Args:
        found: the table, as it was loaded.
        keep: for how long (µs) before the newest commit.
    """
    listed, kept = found.metadata.snapshots, spared(found)
    latest = max((item.timestamp_ms for item in listed), default=0) - keep / 1_000
    pairs = list(pairwise(listed))[: max(0, len(listed) - KEPT)]
    return [item.snapshot_id for item, next_ in pairs if item.snapshot_id not in kept and next_.timestamp_ms <= latest]


def expire(change: Transaction, snapshots: list[int], *, asserted: bool = True) -> None:
    """Add to a commit that snapshots are taken off the list.

    Args:
        change: the commit.
        snapshots: their ids; nothing names them.
        asserted: whether the commit is refused when something names one of them by then. A REST catalog compares what it
            knows, and does not know that.
    """
    from pyiceberg.table.update.snapshot import ExpireSnapshots

    from millstream.store.iceberg.unpinned import AssertUnpinned

    ExpireSnapshots(change).by_ids(snapshots).commit()
    if asserted:
        change._stage((), (AssertUnpinned(snapshot_ids=snapshots),))  # type: ignore[arg-type]
