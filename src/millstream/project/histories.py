"""What has happened, as each reader of it wants it: events, runs, captures, dead letters, and stored values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from millstream.buffer.topics import batch_table
from millstream.errors import NotFound

if TYPE_CHECKING:
    import pyarrow as pa

    from millstream.computing.past_runs import ScheduledRuns
    from millstream.definitions.group_version import GroupVersion
    from millstream.definitions.source import EventStream, Source, Table
    from millstream.history.events import History
    from millstream.history.selection import Wanted
    from millstream.monitor.replay import Pasts
    from millstream.project.parts import Parts
    from millstream.store.offline import OfflineStore, Where
    from millstream.train.stored_history import Stored

SET_KEPT = 7 * 86_400_000_000
"""How long (µs) the offline snapshots of a training set stay readable, unless a model version learns from it."""


class Histories:
    """The readers of a project's history; each is made anew, for it goes by the definitions that there are then.

    Args:
        parts: the project's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def events(self) -> History:
        """All events: the archive, then the log."""
        from millstream.history.events import History

        parts = self._parts
        return History(parts.log, parts.offline, parts.registry.streams())

    def scheduled(self) -> ScheduledRuns:
        """The schedule of batch groups, and the tables that they read."""
        from millstream.computing.past_runs import ScheduledRuns

        parts = self._parts
        tables = {table.name: table for table in parts.registry.tables()}
        return ScheduledRuns(
            parts.settings.folder, self.events(), tables, paths=parts.settings.table_paths, engine=parts.batch_engine
        )

    def training(
        self,
        versions: Mapping[str, GroupVersion] | None = None,
        wanted: Mapping[EventStream, Sequence[Wanted]] | None = None,
    ) -> Stored:
        """Stored history, as training reads it: the group versions given by the names of groups, else the defaults.

        Of each stream every event is there, or those of `wanted`.
        """
        from millstream.definitions.feature_group import StreamFeatureGroup
        from millstream.train.stored_history import Stored

        parts = self._parts
        known = parts.served.versions() if versions is None else versions
        delays = {
            one.id: parts.served.delay(one) for one in known.values() if isinstance(one.group, StreamFeatureGroup)
        }

        def keep(table: str, snapshot: int) -> None:
            pin(parts.offline, table, snapshot, parts.clock.now() + SET_KEPT)

        return Stored(
            self.events(),
            parts.offline,
            known,
            delays=delays,
            scheduled=self.scheduled(),
            keep=keep if wanted is None else None,
            wanted=wanted,
        )

    def verification(self) -> Pasts:
        """Stored history, as verification reads it: every view and group version that ever served."""
        from millstream.definitions.source import EventStream
        from millstream.monitor.replay import Pasts
        from millstream.train.stored_history import no_rows, stated_rows

        parts = self._parts
        history = self.events()
        versions = {one.id: one for one in (*parts.registry.groups("retired"), *parts.registry.groups())}

        def rows(gv: str, where: Where) -> Iterable[pa.Table]:
            table = batch_table(gv)
            if parts.offline.snapshot(table) is None:
                return [no_rows(versions[gv].group)]
            return stated_rows(parts.offline, table, where)

        @cache
        def table(source: Table) -> pa.Table:
            return self.scheduled().events(source)

        def events(source: Source, wanted: Sequence[Wanted], upto: Mapping[int, int]) -> pa.Table:
            if isinstance(source, EventStream):
                return history.select(source, wanted, upto=upto)
            return table(source)

        return Pasts(events, rows, versions, parts.registry.view)

    def captures(self, model: str, newest: int | None = None) -> pa.Table:
        """What was captured of a model, archived or still in the log, each row once, oldest first.

        Args:
            model: the model's name.
            newest: how many of the newest; all unless given.
        """
        from millstream.history.captures import captured

        return captured(self._parts.log, self._parts.offline, model, newest)

    def dead_letters(self, source: str, newest: int | None = None) -> pa.Table:
        """The dead letters of a stream or a table, archived or still in the log, each once, oldest first.

        Args:
            source: the name of the stream, or of a table that batch groups read.
            newest: how many of the newest; all unless given.

        Raises:
            NotFound: when there is no such stream or table.
        """
        from millstream.history.dead_letters import letters

        parts = self._parts
        names = [*(one.name for one in parts.registry.streams()), *(one.name for one in parts.registry.tables())]
        if source not in names:
            raise NotFound.named("stream", source, names)
        return letters(parts.log, parts.offline, source, newest)


def pin(offline: OfflineStore, table: str, snapshot: int, by: str | int) -> None:
    """Pin a snapshot, in a store that would let go of it otherwise.

    Args:
        offline: the offline store.
        table: the table.
        snapshot: the snapshot of it.
        by: the model version that learnt from it, or until when (µs) it is kept.
    """
    from millstream.store.offline import Pinning

    if isinstance(offline, Pinning):
        offline.pin(table, snapshot, by)
