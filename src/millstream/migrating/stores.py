"""The stores in another place: tables with every snapshot, the artefacts of models beside them, and states."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from millstream.errors import MillstreamError
from millstream.migrating.log import partitions_of
from millstream.project.backends import artefacts_of
from millstream.store.moving import States, copy_states
from millstream.store.offline import Moved, OfflineStore, TakesOver

if TYPE_CHECKING:
    from millstream.project.parts import Parts


def move_offline(source: Parts, target: Parts, moved: Callable[[int], None]) -> dict[str, int]:
    """Copy every table, with its snapshots and what pins them, and the artefacts of every model version.

    Args:
        source: the project as it is.
        target: the project as it shall be.
        moved: called with how many more bytes are there.

    Returns:
        How many tables, rows, snapshots, files and bytes there are, and how many artefacts.

    Raises:
        MillstreamError: when a copy is not what it was made of.
    """
    tables, total = source.offline.tables(), Moved()
    for table in tables:
        assert isinstance(target.offline, TakesOver)
        total += target.offline.take_over(table, source.offline, moved)
        _refuse_other(table, source.offline, target.offline)
    artefacts = move_artefacts(source, target)
    return {
        "tables": len(tables),
        "rows": total.rows,
        "snapshots": total.snapshots,
        "files": total.files,
        "bytes": total.size,
        "artefacts": artefacts,
    }


def _refuse_other(table: str, source: OfflineStore, target: OfflineStore) -> None:
    """Raise when a copy says something else of itself than the table that it was made of."""
    if source.snapshot(table) != target.snapshot(table):
        raise MillstreamError(
            f"Migration: the copy of offline table '{table}' is at another snapshot than the table. The project is where it "
            "was.",
            "see that nothing else writes to the table, and do it again.",
        )


def move_artefacts(source: Parts, target: Parts) -> int:
    """Copy what was kept of every model version, unless it lies where it shall be; returns how many there are.

    Args:
        source: the project as it is.
        target: the project as it shall be, or a copy of it.

    Raises:
        CorruptState: when an artefact is not what was written.
    """
    from millstream.train.artefacts import carry

    old, new = artefacts_of(source.settings), artefacts_of(target.settings)
    if str(old) == str(new):
        return 0
    found = [one for model in source.registry.models() for one in source.model_versions.versions(model.name)]
    for version in found:
        carry(old / version.model, new / version.model, version.digest, f"Model version '{version.id}'")
    return len(found)


def move_online(source: Parts, target: Parts, moved: Callable[[int], None]) -> dict[str, int]:
    """Copy the states of every group version, and what they have applied; other states that are there are dropped.

    Args:
        source: the project as it is.
        target: the project as it shall be.
        moved: called with how many more keys are there.

    Returns:
        How many versions, keys and bytes there are.
    """
    versions, total = source.registry.groups(), States()
    for version in versions:
        total += copy_states(source.online, target.online, version.states, version.shards, moved)
    return {"versions": len(versions), "keys": total.keys, "bytes": total.size}


def sizes(source: Parts, part: str) -> int | None:
    """How much there is to move of a part, where that is known before.

    Args:
        source: the project as it is.
        part: the part.
    """
    return partitions_of(source) if part == "log" else None
