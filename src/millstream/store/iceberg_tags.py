"""Pins as Iceberg tags: the snapshots of a table that expiry spares, by whichever engine it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyiceberg.table import Table

_PINNED = "millstream.pin."
_UNTIL = "millstream.until."


def tag_of(pin: int | str, snapshot: int) -> str:
    """The tag of a pin: of one with a name, or of one that is let go at an instant (µs)."""
    return f"{_UNTIL}{pin}.{snapshot}" if isinstance(pin, int) else f"{_PINNED}{pin}"


def ended(found: Table, now: int) -> list[str]:
    """The tags whose instant is past."""
    dated = [tag for tag in found.refs() if tag.startswith(_UNTIL)]
    return [tag for tag in dated if int(tag.removeprefix(_UNTIL).partition(".")[0]) <= now]


def spared(found: Table) -> set[int]:
    """The snapshots that tags and branches name, ours and those of other engines."""
    return {ref.snapshot_id for ref in found.refs().values()}
