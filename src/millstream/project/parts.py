"""A project's parts, opened when first asked for and joined as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from millstream.buffer.topics import batch_table
from millstream.clock import Clock, project_clock
from millstream.errors import NotFound, StoreError
from millstream.project.backends import BACKENDS, backend, source_backend
from millstream.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from millstream.buffer.log import OwnLog
    from millstream.buffer.marks import Marks
    from millstream.buffer.worker import Worker
    from millstream.computing.batch import BatchComputer
    from millstream.computing.past_runs import ScheduledRuns
    from millstream.definitions.group_version import GroupVersion
    from millstream.definitions.source import EventStream, Source, Table
    from millstream.engines.engine import BatchEngine
    from millstream.engines.stream import StreamEngine
    from millstream.history.events import History
    from millstream.history.selection import Wanted
    from millstream.ingest.archive import Archiver
    from millstream.ingest.batch import BatchIngester
    from millstream.ingest.stream import StreamIngester
    from millstream.ingest.sync import Syncer
    from millstream.monitor.replay import Pasts
    from millstream.registry.definitions import Registry
    from millstream.serve.scorer import Scorer
    from millstream.sources.take_in import TakeIn
    from millstream.store.offline import OfflineStore
    from millstream.store.online import OnlineStore
    from millstream.train.stored_history import Stored
    from millstream.train.versions import ModelVersions

SET_KEPT = 7 * 86_400_000_000
"""How long (µs) the offline snapshots of a training set stay readable, unless a model version learns from it."""
#: What is open, in the order in which it was needed: what others write to is closed after them.
_OPENED = ("log", "online", "offline", "registry", "model_versions", "batch_engine")


class Parts:
    """The log, the stores and the registry of one project in one process, and what is made of them.

    What is stored is opened once, when it is first asked for; what works on it (computing, ingestion, sync) is made
    anew at each call, from what the registry says then.

    Args:
        settings: The project.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        for section in BACKENDS:
            if getattr(settings, section):
                backend(settings, section)  # what is wrong is said at once
        for stream in settings.streams:
            source_backend(settings, stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all that is open; what is used next is opened anew."""
        for name in ("marks", "served"):  # of what is closed
            self.__dict__.pop(name, None)
        with ExitStack() as closing:
            for name in _OPENED:
                part = self.__dict__.pop(name, None)
                if part is not None:
                    closing.callback(part.close)

    @cached_property
    def clock(self) -> Clock:
        """The project's clock."""
        return project_clock(self.settings.data)

    @cached_property
    def log(self) -> OwnLog:
        """The log."""
        opened: OwnLog = self._open("log")
        return opened

    @cached_property
    def online(self) -> OnlineStore:
        """The online store."""
        opened: OnlineStore = self._open("online")
        return opened

    @cached_property
    def served(self) -> OnlineStore:
        """The online store as serving reads it, with a deadline where it is elsewhere."""
        from millstream.store.deadline import with_deadline

        return with_deadline(self.online, self.settings.online_read_ms / 1_000)

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store."""
        opened: OfflineStore = self._open("offline")
        return opened

    @cached_property
    def registry(self) -> Registry:
        """The registry of definitions."""
        opened: Registry = self._open("registry")
        return opened

    @cached_property
    def batch_engine(self) -> BatchEngine:
        """What runs the queries of batch groups."""
        opened: BatchEngine = self._open("batch")
        return opened

    def _open(self, section: str) -> Any:
        return backend(self.settings, section).open(self.settings, self.clock)

    @cached_property
    def marks(self) -> Marks:
        """The marks, with those of a project that was made before there were any."""
        from millstream.buffer.embedded.marks_before import marks_before

        marks = self.registry.marks
        if not marks.adopted:
            sources = {one.id: [source.name for source in one.group.sources] for one in self.registry.groups()}
            marks.adopt(marks_before(self.log, sources))
        return marks

    def stepped_back(self) -> list[str]:
        """Where the stores and the archive are of a later or another log than the one there is."""
        from millstream.history.agreement import archive_ahead, online_ahead, stated_ahead
        from millstream.history.registered import registry_behind

        versions = self.registry.groups()
        found = online_ahead(self.log, self.online, versions)
        found += archive_ahead(self.log, self.offline, self.registry.streams())
        found += stated_ahead(self.log, self.offline, versions)
        behind = None if found else registry_behind(self.log, self.registry)  # another log knows no registry
        return found if behind is None else [f"Registry: {behind}."]

    def revision(self) -> int:
        """A number that changes with the definitions and the states of group versions; who asks goes by them.

        Raises:
            SteppedBack: When the registry is older than the one that was gone by, or another one.
        """
        from millstream.errors import SteppedBack
        from millstream.history.registered import HINT, note_registry

        try:
            return note_registry(self.log, self.registry)
        except SteppedBack:
            raise SteppedBack(" ".join(self.stepped_back()), HINT) from None

    @cached_property
    def model_versions(self) -> ModelVersions:
        """The versions of all models."""
        from millstream.registry import pinning
        from millstream.train.versions import ModelVersions

        self.settings.data.mkdir(parents=True, exist_ok=True)
        folder = self.settings.data / "models"
        return ModelVersions(self.settings.registry_url, folder, self.clock, pin=pinning.pin, keep=self._kept)

    def history(self) -> History:
        """All events: the archive, then the log."""
        from millstream.history.events import History

        return History(self.log, self.offline, self.registry.streams())

    def scheduled(self) -> ScheduledRuns:
        """The schedule of batch groups, and the tables that they read."""
        from millstream.computing.past_runs import ScheduledRuns

        tables = {table.name: table for table in self.registry.tables()}
        return ScheduledRuns(
            self.settings.folder, self.history(), tables, paths=self.settings.table_paths, engine=self.batch_engine
        )

    def computer(self, worker: Worker | None = None) -> StreamEngine:
        """Stream computing of every group version in use, on the streams that have a topic.

        Args:
            worker: Says which partitions to compute, and is closed with it; all unless given.
        """
        from millstream.computing.stream import StreamComputer
        from millstream.definitions.feature_group import StreamFeatureGroup

        topics = self.log.topics()
        versions = [one for one in self.registry.groups() if isinstance(one.group, StreamFeatureGroup)]
        settings = self.settings
        return StreamComputer(
            self.log,
            [stream for stream in self.registry.streams() if stream.name in topics],
            versions,
            self.clock,
            data=settings.data,
            micro_batch=settings.micro_batch,
            worker=worker,
        )

    def takings(self, worker: Worker | None = None) -> list[TakeIn]:
        """What takes the foreign source of each stream in that is bound to one, and declared.

        Args:
            worker: Says which to take in; all unless given.
        """
        from millstream.sources.take_in import TakeIn

        topics, settings = self.log.topics(), self.settings
        return [
            TakeIn(
                self.log,
                stream,
                source_backend(settings, stream.name).open(settings, self.clock, stream.name),
                self.clock,
                worker=worker,
            )
            for stream in self.registry.streams()
            if stream.name in settings.streams and stream.name in topics
        ]

    def batch_computer(self) -> BatchComputer:
        """Batch computing of every group version in use."""
        from millstream.computing.batch import BatchComputer

        return BatchComputer(
            self.log,
            self.marks,
            self.registry.groups(),
            self.clock,
            tables=self.registry.tables(),
            history=self.history(),
            folder=self.settings.folder,
            paths=self.settings.table_paths,
            engine=self.batch_engine,
        )

    def ingester(self, worker: Worker | None = None) -> StreamIngester:
        """Ingestion of what stream computing, and folds on a schedule, put into the buffer.

        Args:
            worker: Says which shards to take; all unless given.
        """
        from millstream.ingest.stream import StreamIngester

        versions = self.registry.groups()
        beside = [one.beside for one in versions if one.beside is not None]
        return StreamIngester(
            self.log, self.online, versions, self.clock, beside=beside, worker=worker, events=self.history()
        )

    def batch_ingester(self, bite: int = 1, worker: Worker | None = None) -> BatchIngester:
        """Ingestion of what queries put into the buffer, into the offline store `bite` runs at a time.

        Args:
            bite: How many runs.
            worker: Says which groups to take; all unless given.
        """
        from millstream.ingest.batch import BatchIngester

        versions = self.registry.groups()
        beside = [one.beside for one in versions if one.beside is not None]
        return BatchIngester(
            self.log,
            self.online,
            self.offline,
            versions,
            self.clock,
            beside=beside,
            bite=bite,
            worker=worker,
        )

    def archiver(self) -> Archiver:
        """The archive of events, dead letters and captures."""
        from millstream.ingest.archive import Archiver

        return Archiver(self.log, self.offline, self.registry.streams(), self.clock)

    def syncer(self) -> Syncer:
        """Sync of the online with the offline store."""
        from millstream.ingest.sync import Syncer

        return Syncer(self.log, self.online, self.offline, self.history(), self.registry.groups(), self.clock)

    def versions(self, pins: tuple[str, ...] = ()) -> Mapping[str, GroupVersion]:
        """By group name, the version to read: one of `pins` where there is one, else the default.

        Raises:
            StoreError: When a version among `pins` is not kept any more.
        """
        every = self.registry.groups()
        for gv in pins:
            if gv not in {one.id for one in every}:
                raise StoreError(f"Group version '{gv}' is retired; its states are gone.", "train the model again.")
        defaults = {one.group.name: one for one in every if one.default}
        return {**defaults, **{one.group.name: one for one in every if one.id in pins}}

    def past(
        self,
        versions: Mapping[str, GroupVersion] | None = None,
        wanted: Mapping[EventStream, Sequence[Wanted]] | None = None,
    ) -> Stored:
        """Stored history, as training reads it: the group versions given by the names of groups, else the defaults.

        Of each stream every event is there, or those of `wanted`.
        """
        from millstream.definitions.feature_group import StreamFeatureGroup
        from millstream.train.stored_history import Stored

        known = self.versions() if versions is None else versions
        delays = {one.id: self.delay(one) for one in known.values() if isinstance(one.group, StreamFeatureGroup)}

        def keep(table: str, snapshot: int) -> None:
            self._pin(table, snapshot, self.clock.now() + SET_KEPT)

        return Stored(
            self.history(),
            self.offline,
            known,
            delays=delays,
            scheduled=self.scheduled(),
            keep=keep if wanted is None else None,
            wanted=wanted,
        )

    def _kept(self, version: str, snapshots: Mapping[str, int]) -> None:
        """Keep the offline snapshots that a model version learnt from."""
        for table, snapshot in snapshots.items():
            self._pin(table, snapshot, version)

    def _pin(self, table: str, snapshot: int, by: str | int) -> None:
        """Pin a snapshot, in a store that would let go of it otherwise."""
        from millstream.store.offline import Pinning

        if isinstance(self.offline, Pinning):
            self.offline.pin(table, snapshot, by)

    def delay(self, version: GroupVersion) -> int:
        """The time (µs) that events of a stream group take from arrival to being served, as ingestion measured it."""
        from millstream.store.online import shard_metas, typical_delay

        return typical_delay(shard_metas(self.online, version.states, version.shards))

    def pasts(self) -> Pasts:
        """Stored history, as verification reads it: every view and group version that ever served."""
        from millstream.definitions.source import EventStream
        from millstream.monitor.replay import Pasts
        from millstream.store.offline import STATED
        from millstream.train.stored_history import no_rows

        history = self.history()
        versions = {one.id: one for one in (*self.registry.groups("retired"), *self.registry.groups())}

        def rows(gv: str) -> pa.Table:
            table = batch_table(gv)
            if self.offline.snapshot(table) is None:
                return no_rows(versions[gv].group)
            return self.offline.scan(table, where=STATED)

        @cache
        def table(source: Table) -> pa.Table:
            return self.scheduled().events(source)

        def events(source: Source, wanted: Sequence[Wanted], upto: Mapping[int, int]) -> pa.Table:
            if isinstance(source, EventStream):
                return history.select(source, wanted, upto=upto)
            return table(source)

        return Pasts(events, rows, versions, self.registry.view)

    def scorer(self, model: str, version: str | int = "champion") -> Scorer:
        """A version of a model, ready to score.

        Raises:
            NotFound: When there is no such model, or it has no such version, or no champion.
            MillstreamError: When what is defined and kept now is not what the version reads.
        """
        from millstream.serve.reader import FeatureReader
        from millstream.serve.scorer import Scorer

        definition = self.registry.model(model)
        loaded = self.model_versions.load(model, version)
        reader = FeatureReader(self.served, definition.view, self.versions(loaded.pins), self.clock)
        return Scorer(definition, loaded, reader, self.clock)

    def captures(self, model: str, newest: int | None = None) -> pa.Table:
        """What was captured of a model, archived or still in the log, each row once, oldest first.

        Args:
            model: The model's name.
            newest: How many of the newest; all unless given.
        """
        from millstream.history.captures import captured

        return captured(self.log, self.offline, model, newest)

    def dead_letters(self, source: str, newest: int | None = None) -> pa.Table:
        """The dead letters of a stream or a table, archived or still in the log, each once, oldest first.

        Args:
            source: The name of the stream, or of a table that batch groups read.
            newest: How many of the newest; all unless given.

        Raises:
            NotFound: When there is no such stream or table.
        """
        from millstream.history.dead_letters import letters

        names = [*(one.name for one in self.registry.streams()), *(one.name for one in self.registry.tables())]
        if source not in names:
            raise NotFound.named("stream", source, names)
        return letters(self.log, self.offline, source, newest)
