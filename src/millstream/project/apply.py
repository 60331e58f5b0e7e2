"""From what a folder declares to group versions that are computed: plan, apply, start, backfill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from millstream.buffer.topics import event_table
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.definitions.source import EventStream, Table
from millstream.errors import MillstreamError, PlanError, ProjectError, StoreError, nearest
from millstream.history.registered import refuse_registry_behind
from millstream.project.alone import alone
from millstream.project.parts import Parts
from millstream.settings import FILE

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.registry.definitions import Change, Plan

Agreed = Callable[["Plan"], bool]
Advance = Callable[[int, int | None], None]


def plan(parts: Parts, definitions: Iterable[Any], *, complete: bool) -> Plan:
    """What applying definitions would change, with the types of batch groups read from their tables.

    Args:
        parts: the project.
        definitions: what is wanted.
        complete: whether that is all there is.

    Raises:
        PlanError: when two definitions of one name differ.
        ProjectError: when that is all there is, and the settings say where a table is that is not declared.
        MillstreamError: when a table that a query reads cannot be read.
    """
    definitions = list(definitions)
    if complete:
        _check_places(parts, definitions)
    return parts.registry.plan(_resolved(parts, definitions), complete=complete)


def _check_places(parts: Parts, definitions: list[Any]) -> None:
    """Refuse a place for a table that there is not: the one that was meant would be read from elsewhere."""
    from millstream.registry.plan import closure

    declared = [name for thing, name in closure(definitions) if thing == "table"]
    for name in parts.settings.tables:
        if name not in declared:
            close = nearest(name, declared)
            raise ProjectError(
                f"Settings '{parts.settings.folder / FILE}': 'tables.{name}' says where a table is that is not declared.",
                f"did you mean 'tables.{close}'?" if close else "take it out, or declare the table.",
            )


def apply(parts: Parts, planned: Plan, *, allow_breaking: bool, agreed: Agreed | None) -> list[Change]:
    """Do what a plan says and start what is new: topics, and the start markers of group versions.

    Args:
        parts: the project.
        planned: the plan.
        allow_breaking: whether to do what breaks what is in use.
        agreed: asked before anything is removed.

    Raises:
        PlanError: when something would be removed and nobody agreed, or a change breaks what is in use.
    """
    gone = [f"{one.thing} '{one.name}'" for one in planned.changes if one.kind == "remove"]
    if gone and not (agreed and agreed(planned)):
        raise PlanError(
            f"Plan: it would remove {', '.join(gone)}, which is not declared any more.",
            "`millstream apply` asks and removes it, `millstream apply --yes` does not ask.",
        )
    _check_topics(parts, planned)
    refuse_registry_behind(parts.log, parts.registry)
    with alone(parts, "apply definitions", wait=False):
        changes = parts.registry.apply(planned, allow_breaking=allow_breaking)
        start(parts)
        parts.identity.revision()
    return changes


def start(parts: Parts) -> None:
    """Make or widen the topics of all streams, and write the start markers of group versions that have none.

    It is the rest of an `apply`, done again by whoever finds that one has not come so far.

    Raises:
        MillstreamError: the first failure, once everything else has been started.
    """
    from millstream.computing.start_markers import start_version

    streams, topics = parts.registry.streams(), parts.log.topics()
    known = {stream.name for stream in streams}
    failed: list[MillstreamError] = []
    for stream in streams:
        with _kept(failed):
            if stream.name not in topics:
                parts.log.create(stream.name, stream.partitions or parts.settings.partitions)
            elif topics[stream.name] < (stream.partitions or 0):
                parts.log.grow(stream.name, stream.partitions or 0)
    for version in parts.registry.groups("new"):
        if isinstance(version.group, StreamFeatureGroup) and known.issuperset(
            one.name for one in version.group.sources
        ):
            with _kept(failed):
                start_version(parts.log, parts.marks, version, streams, parts.clock, at="end")
    if failed:
        raise failed[0]
    parts.registry.operations.end("apply", "definitions")


def settle(parts: Parts) -> None:
    """Finish what commands that died have left to do, and strike off what is not to be done any more.

    Raises:
        MillstreamError: when an `apply` cannot be finished.
    """
    operations = parts.registry.operations
    wanted = {one.id for one in unfinished(parts)}
    for one in operations.unfinished():
        if one.kind == "apply":
            start(parts)
        elif one.kind == "backfill" and one.subject not in wanted:
            operations.end(one.kind, one.subject)


def rebuild(parts: Parts, version: GroupVersion) -> GroupVersion:
    """Let the states of a version be built anew, beside those that are read, if there are any that are.

    Those of a query are built from what its runs stated, so where they are sound there is nothing to build.

    Args:
        parts: the project.
        version: the version.

    Returns:
        The version as the registry has it then.
    """
    if not _rebuildable(parts, version):
        return version
    parts.registry.builds.begin(version.id)
    return again(parts, version)


def _rebuildable(parts: Parts, version: GroupVersion) -> bool:
    if isinstance(version.group, StreamFeatureGroup):
        return _read(parts, version)
    return version.group.query is not None and _damaged(parts, version)


def anew(parts: Parts, group: str, *, every: bool = False) -> list[GroupVersion]:
    """Let the version of a group that is read by default be built anew, and all others whose states are damaged.

    Args:
        parts: the project.
        group: the name of the group.
        every: whether the others are built anew too whatever their states are.

    Returns:
        The versions as the registry has them then, the default one first.

    Raises:
        NotFound: when there is no such group.
    """
    default = parts.registry.group(group)
    others = [one for one in parts.registry.groups() if one.group.name == group and one.id != default.id]
    return [rebuild(parts, one) for one in (default, *(one for one in others if every or _damaged(parts, one)))]


def _damaged(parts: Parts, version: GroupVersion) -> bool:
    from millstream.store.online import shard_metas

    try:
        shard_metas(parts.online, version.states, version.shards)
    except StoreError:
        return True
    return version.states in _damaged_states(parts)


def _damaged_states(parts: Parts) -> list[str]:
    """The states of which somebody has read damage, in a store that finds any."""
    from millstream.store.online import Examined

    return parts.online.damaged() if isinstance(parts.online, Examined) else []


def again(parts: Parts, version: GroupVersion) -> GroupVersion:
    """A version as the registry has it now."""
    return parts.registry.group(version.group.name, version.version)


def rebuild_damaged(parts: Parts) -> list[str]:
    """Let the states of which somebody has read damage be built anew; returns the group versions that are from now on."""
    damaged = _damaged_states(parts)
    found = (
        [one for one in parts.registry.groups() if one.states in damaged and one.building is None] if damaged else []
    )
    return [one.id for one in found if rebuild(parts, one).building is not None]


def unfinished(parts: Parts) -> list[GroupVersion]:
    """The versions that are not live yet, and those whose states are being built anew."""
    return [one for one in parts.registry.groups() if one.state in ("new", "backfilling") or one.building is not None]


def backfill(parts: Parts, version: GroupVersion, *, progress: Advance | None = None) -> None:
    """Fold, or query, what came before a group version began; it becomes the default once ingestion has caught up.

    Args:
        parts: the project.
        version: the version, started; a build that is made beside it is what is filled, if there is one.
        progress: called with how much is done and how much there is.
    """
    parts.registry.operations.begin("backfill", version.id, "fold its history, then let it be read")
    if isinstance(version.group, StreamFeatureGroup):
        from millstream.ingest.backfill import fold_history

        fold_history(
            version.beside or version,
            parts.histories.events(),
            parts.online,
            parts.log,
            parts.marks,
            parts.registry,
            parts.clock,
            progress,
            anew=version.beside is not None,
        )
    elif version.beside is not None:
        from millstream.ingest.rebuilt import rebuild_states

        rebuild_states(version.beside, parts.online, parts.offline, parts.log, parts.clock)
    elif version.group.query is not None:
        began = _begins(parts, version.group)
        if began is not None:
            parts.layers.batch_computer().backfill(version.id, began, parts.clock.now())


def finish(parts: Parts, version: GroupVersion) -> bool:
    """Make a version live and the default if everything before now is in its store; returns whether it is.

    A build that was made beside it is read from then on.
    """
    done = _finished(parts, version)
    if done:
        parts.registry.operations.end("backfill", version.id)
    return done


def _finished(parts: Parts, version: GroupVersion) -> bool:
    from millstream.ingest.backfill import caught_up, go_live
    from millstream.ingest.rebuilt import states_caught_up
    from millstream.store.online import shard_metas

    version = again(parts, version)
    beside = version.beside
    if beside is not None:
        reached = caught_up if isinstance(version.group, StreamFeatureGroup) else states_caught_up
        if not reached(beside, version, parts.online, parts.log):
            return False
        parts.registry.builds.cut_over(version.id, beside.build)
        if version.state == "live":
            return True
        version = beside
    if isinstance(version.group, StreamFeatureGroup):
        return go_live(version, parts.online, parts.log, parts.marks, parts.registry)
    if None in shard_metas(parts.online, version.states, version.shards):
        return False
    return parts.registry.go_live(version.id)


def _check_topics(parts: Parts, planned: Plan) -> None:
    """Refuse what the log could not follow, before anything is written."""
    from millstream.registry.plan import closure

    topics = parts.log.topics()
    for stream in closure(planned.definitions).values():
        made = topics.get(stream.name, 0)
        if isinstance(stream, EventStream) and stream.partitions is not None and stream.partitions < made:
            raise PlanError(
                f"Stream '{stream.name}': partitions was given {stream.partitions}; its topic has {made}, and may get more, "
                "never fewer.",
                f"declare partitions={made} or more, or a stream of another name.",
            )


@contextmanager
def _kept(failed: list[MillstreamError]) -> Iterator[None]:
    """Go on after a failure, which is added to those that there were."""
    try:
        yield
    except MillstreamError as error:
        failed.append(error)


def _read(parts: Parts, version: GroupVersion) -> bool:
    """Whether readers may find states of a version: some that are whole, or that were before they were damaged."""
    from millstream.store.online import shard_metas

    try:
        metas = shard_metas(parts.online, version.states, version.shards)
    except StoreError:
        return True
    return any(meta is not None and meta.backfilled for meta in metas)


def _begins(parts: Parts, group: BatchFeatureGroup) -> int | None:
    """Before the first row of its tables could be known, or the first event arrived: where the past of a query begins."""
    from millstream.computing.past_runs import ScheduledRuns

    settings = parts.settings
    scheduled = ScheduledRuns(
        settings.folder, tables=_tables(parts), paths=settings.table_paths, engine=parts.batch_engine
    )
    found = [earliest(parts), scheduled.first_known(group)]
    return min((instant - 1 for instant in found if instant is not None), default=None)


def _tables(parts: Parts) -> dict[str, Table]:
    return {table.name: table for table in parts.registry.tables()}


def earliest(parts: Parts) -> int | None:
    """About when the first event that is kept arrived (µs), or None without events."""
    import pyarrow.compute as pc

    from millstream.buffer.codec.events import decode
    from millstream.buffer.reading import still_kept
    from millstream.store.offline import batches_of

    found: list[int] = []
    for stream in parts.registry.streams():
        # The log before the archive, which has what is trimmed meanwhile.
        for partition, (first, following) in enumerate(parts.log.ends(stream.name)):
            records = next(still_kept(parts.log, stream.name, partition, first, following, 1), None)
            if records is not None:
                found += decode(stream, [records]).table["_arrival"].to_pylist()[:1]
        table = event_table(stream.name)
        if parts.offline.snapshot(table) is not None:
            arrivals = (batch.column(0) for batch in batches_of(parts.offline, table, ["_arrival"]))
            found += [int(pc.min(one).as_py()) for one in arrivals if one.null_count < len(one)]
    return min(found, default=None)


def _resolved(parts: Parts, definitions: list[Any]) -> list[Any]:
    """The definitions, and each batch group among them again with the types of its features."""
    from millstream.computing.interval_runs import check_late
    from millstream.computing.past_runs import ScheduledRuns
    from millstream.registry.plan import closure

    groups = [
        one
        for one in closure(definitions).values()
        if isinstance(one, BatchFeatureGroup) and one.query is not None and not one.schema_of_features
    ]
    reads_events = any(isinstance(source, EventStream) for group in groups for source in group.sources)
    history = parts.histories.events() if reads_events else None
    scheduled = ScheduledRuns(
        parts.settings.folder, history, paths=parts.settings.table_paths, engine=parts.batch_engine
    )
    for group in closure(definitions).values():
        if isinstance(group, BatchFeatureGroup) and group.query is not None:
            check_late(group, group.sources)
    known = [group.resolved(scheduled.schema(group, parts.clock.now())) for group in groups]
    return [*definitions, *known]
