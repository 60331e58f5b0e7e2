"""Whether a project can move now: what it is kept in holds all that it has taken, and where it goes is nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from millstream.buffer.agreement import identity_of
from millstream.buffer.log import Continuing
from millstream.buffer.topics import (
    CAPTURES,
    DEAD,
    batch_table,
    computing_consumer,
    event_table,
    feature_topic,
    staging_topic,
)
from millstream.buffer.worker import Attended
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.errors import MillstreamError, ProjectError
from millstream.history.events import held
from millstream.store.offline import TakesOver
from millstream.store.online import Examined, metas_of
from millstream.usage.layers import snapshot

if TYPE_CHECKING:
    from millstream.migrating.wanted import Move
    from millstream.project.parts import Parts

KIND = "migrate"
"""What a migration is called among the operations of the registry."""


def refuse_at_work(parts: Parts) -> None:
    """Raise when a layer of a project runs, or something is not finished.

    Args:
        parts: the project, which nobody runs by `up`.

    Raises:
        ProjectError: for the first that is found.
    """
    from millstream.project.apply import unfinished

    name = parts.settings.name
    if working := _at_work(parts):
        raise ProjectError(
            f"Project '{name}': layers of it are at work in {working} processes, which `millstream run` has started.",
            "stop them, and whatever sends to it, and do it again.",
        )
    if begun := unfinished(parts):
        raise ProjectError(
            f"Project '{name}': group version '{begun[0].id}' has not been computed.",
            "run `millstream backfill`, and do it again.",
        )
    for one in parts.registry.operations.unfinished():
        if one.kind != KIND:
            raise ProjectError(
                f"Project '{name}': '{one}' is not finished.", "run `millstream apply`, and do it again."
            )
    if found := parts.identity.stepped_back():
        raise ProjectError(
            f"Project '{name}': its parts are not of one another. {found[0]}",
            "run `millstream doctor`, which says more; then do it again.",
        )


def _at_work(parts: Parts) -> int:
    """How many processes work on a project: those that share its log, or say here how they are, as those that serve do."""
    layers = snapshot(parts.settings.data)["layers"].values()
    telling = sum(bool(process["alive"]) for layer in layers for process in layer["processes"])
    return max(telling, len(parts.log.at_work()) if isinstance(parts.log, Attended) else 0)


def refuse_undrained(parts: Parts) -> None:
    """Raise when the log holds something that its readers have not taken.

    Args:
        parts: the project, drained and synced.

    Raises:
        ProjectError: for the first such topic.
    """
    for what, topic, reached in _readers(parts):
        ends = [following for _, following in parts.log.ends(topic)]
        behind = [partition for partition, end in enumerate(ends) if reached.get(partition, 0) < end]
        if behind:
            raise ProjectError(
                f"Project '{parts.settings.name}': {what} has not taken all of topic '{topic}', partition {behind[0]}.",
                "run `millstream doctor`, which says why; stop what sends, and do it again.",
            )


def _readers(parts: Parts) -> Iterator[tuple[str, str, dict[int, int]]]:
    """Who reads the topics of a log, and by partition how far it is."""
    topics, versions = parts.log.topics(), parts.registry.groups()
    for topic in topics:
        stream = topic in {one.name for one in parts.registry.streams()}
        if stream or topic.startswith((DEAD, CAPTURES)):
            table = event_table(topic) if stream else topic
            yield "the archive", topic, held(table, parts.offline.snapshot(table))
    for version, metas in zip(versions, metas_of(parts.online, versions), strict=True):
        group, reached = version.group, {shard: meta.position for shard, meta in enumerate(metas) if meta}
        if isinstance(group, StreamFeatureGroup):
            for source in group.sources:
                told = parts.log.committed(computing_consumer(version.id), source.name)
                yield f"'{version.id}'", source.name, {p: at for p, at in enumerate(told) if at is not None}
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            if staging_topic(version.id) in topics:
                table = batch_table(version.id)
                yield (
                    f"the offline table of '{version.id}'",
                    staging_topic(version.id),
                    held(table, parts.offline.snapshot(table)),
                )
                yield (
                    f"the online store of '{version.id}'",
                    staging_topic(version.id),
                    {0: min(reached.values(), default=0)},
                )
        elif feature_topic(version.id) in topics:
            yield f"the online store of '{version.id}'", feature_topic(version.id), reached


def refuse_occupied(parts: Parts, move: Move, *, begun: bool) -> None:
    """Raise when a part that the project moves to cannot be reached, cannot take it, or holds something.

    Args:
        parts: the project as it shall be.
        move: what moves.
        begun: whether this migration has been begun before, so that what is there may be its own.

    Raises:
        ProjectError: when it holds something, or takes nothing.
        MillstreamError: when it cannot be reached.
    """
    for part in move.parts:
        found = _found(parts, part)
        if found and not begun:
            raise ProjectError(
                f"Project '{move.target.name}': the {part} that it is to move to is not empty; it holds {found[0]}"
                + (f" and {len(found) - 1} more." if len(found) > 1 else "."),
                "give it a place, or a prefix, of its own; what an interrupted migration of another file has left there is to "
                "be deleted first.",
            )
    if "log" in move.parts and not isinstance(parts.log, Continuing):
        raise ProjectError(f"Project '{move.target.name}': its log cannot move to this kind.", "it can to Kafka.")
    if "offline" in move.parts and not isinstance(parts.offline, TakesOver):
        raise ProjectError(
            f"Project '{move.target.name}': its tables cannot move to this kind.", "they can to Iceberg."
        )


def _found(parts: Parts, part: str) -> list[str]:
    """What a part holds, in words."""
    if part == "log":
        return [f"topic '{topic}'" for topic in sorted(parts.log.topics())]
    if part == "online":
        return [f"states '{one}'" for one in parts.online.states()] if isinstance(parts.online, Examined) else []
    if part == "offline":
        return [f"table '{one}'" for one in parts.offline.tables()]
    from millstream.registry.moving import rows_in

    counts = rows_in(parts.settings.registry_url)
    return [f"{rows:,} rows in '{table}'" for table, rows in counts.items() if rows and table != "registry_facts"]


def state_of(parts: Parts) -> dict[str, Any]:
    """What changes whenever something of a project does: compared before it is let go of.

    Args:
        parts: the project.

    Raises:
        MillstreamError: when a part cannot be reached.
    """
    log, versions = parts.log, parts.registry.groups()
    snapshots = {table: parts.offline.snapshot(table) for table in parts.offline.tables()}
    return {
        "the log": (identity_of(log), {topic: log.ends(topic) for topic in log.topics()}),
        "the registry": parts.registry.revision(),
        "the online store": metas_of(parts.online, versions),
        "the offline store": {table: one.id if one else None for table, one in snapshots.items()},
    }


def refuse_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise when something has changed in a project while it was copied; nothing of it was exchanged then.

    Args:
        before: what `state_of` gave before.
        after: what it gives now.

    Raises:
        MillstreamError: for the first part that has changed.
    """
    for what, state in before.items():
        if after[what] != state:
            raise MillstreamError(
                f"Migration: {what} of the project has changed while it was copied. The project is where it was.",
                "stop whatever sends to it or runs it, and do it again.",
            )
