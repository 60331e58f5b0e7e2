"""Upkeep of the offline store: every table in few files, and nothing kept that nobody needs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from millstream.errors import MillstreamError, NotFound

if TYPE_CHECKING:
    from millstream.project.parts import Parts
    from millstream.store.offline import Tended

#: The order of the rows of a file, by kind of table: what is read together lies together.
_ORDER = {
    "events": ("_partition", "_position"),
    "refused": ("_partition", "_position"),
    "dead": ("arrival", "partition", "position"),
    "captures": ("_received_at",),
}
_pinned: WeakSet[Parts] = WeakSet()
_THEN = {"batch": ("event_time", "available_time"), "features": ("at",)}


def tend(parts: Parts) -> Tended:
    """Compact and sweep every table of the offline store.

    Args:
        parts: the project.

    Raises:
        MillstreamError: the first failure, after all tables had their turn.
    """
    from millstream.store.offline import Tended, Upkeep

    offline = parts.offline
    if parts not in _pinned:
        pin_again(parts)
        _pinned.add(parts)
    keys = {
        one.id: tuple(one.group.entity.keys) for one in (*parts.registry.groups("retired"), *parts.registry.groups())
    }
    total, failed = Tended(), list[MillstreamError]()
    if not isinstance(offline, Upkeep):
        return total
    for table in offline.tables():
        kind, _, name = table.partition(".")
        order = _ORDER.get(kind, (*keys.get(name, ()), *_THEN.get(kind, ())))
        try:
            total += offline.tend(table, parts.clock.now(), order=order, keep=parts.settings.files_kept)
        except MillstreamError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return total


def pin_again(parts: Parts) -> None:
    """Pin what model versions learnt from and nothing pins: those of an earlier version of Millstream had no pins."""
    from millstream.store.offline import Pinning

    offline = parts.offline
    if not isinstance(offline, Pinning):
        return
    learnt = [
        (table, int(snapshot), version.id)
        for model in parts.registry.models()
        for version in parts.model_versions.versions(model.name)
        for table, snapshot in version.facts.get("pins", {}).get("snapshots", {}).items()
    ]
    pinned = {table: offline.pinned(table) for table, _, _ in learnt}
    for table, snapshot, version in learnt:
        if version not in pinned[table]:
            with suppress(NotFound):  # it is gone
                offline.pin(table, snapshot, version)
