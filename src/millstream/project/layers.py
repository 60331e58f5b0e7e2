"""What computes and ingests a project's data, each made of its parts and of what the registry says now."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from millstream.project.backends import source_backend

if TYPE_CHECKING:
    from millstream.buffer.worker import Worker
    from millstream.computing.batch import BatchComputer
    from millstream.definitions.group_version import GroupVersion
    from millstream.engines.stream import StreamEngine
    from millstream.ingest.archive import Archiver
    from millstream.ingest.batch import BatchIngester
    from millstream.ingest.stream import StreamIngester
    from millstream.ingest.sync import Syncer
    from millstream.project.parts import Parts
    from millstream.sources.take_in import TakeIn


class Layers:
    """The layers that move data; each call makes one anew, for it goes by the definitions that there are then.

    Args:
        parts: the project's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def computer(self, worker: Worker | None = None) -> StreamEngine:
        """Stream computing of every group version in use, on the streams that have a topic.

        Args:
            worker: says which partitions to compute, and is closed with it; all unless given.
        """
        from millstream.computing.stream import StreamComputer
        from millstream.definitions.feature_group import StreamFeatureGroup
        from millstream.history.earlier import earlier_events

        parts = self._parts
        topics = parts.log.topics()
        versions = [one for one in parts.registry.groups() if isinstance(one.group, StreamFeatureGroup)]
        settings = parts.settings
        return StreamComputer(
            parts.log,
            [stream for stream in parts.registry.streams() if stream.name in topics],
            versions,
            parts.clock,
            data=settings.data,
            micro_batch=settings.micro_batch,
            worker=worker,
            earlier=earlier_events(parts.histories.events(), parts.marks, parts.registry.streams()),
        )

    def takings(self, worker: Worker | None = None) -> list[TakeIn]:
        """What takes the foreign source of each stream in that is bound to one, and declared.

        Args:
            worker: says which to take in; all unless given.
        """
        from millstream.sources.take_in import TakeIn

        parts = self._parts
        topics, settings = parts.log.topics(), parts.settings
        return [
            TakeIn(
                parts.log,
                stream,
                source_backend(settings, stream.name).open(settings, parts.clock, stream.name),
                parts.clock,
                worker=worker,
            )
            for stream in parts.registry.streams()
            if stream.name in settings.streams and stream.name in topics
        ]

    def batch_computer(self) -> BatchComputer:
        """Batch computing of every group version in use."""
        from millstream.computing.batch import BatchComputer
        from millstream.project.alone import alone

        parts = self._parts
        return BatchComputer(
            parts.log,
            parts.marks,
            parts.registry.groups(),
            parts.clock,
            tables=parts.registry.tables(),
            history=parts.histories.events(),
            folder=parts.settings.folder,
            paths=parts.settings.table_paths,
            engine=parts.batch_engine,
            apart=partial(alone, parts, wait=False),
        )

    def ingester(self, worker: Worker | None = None) -> StreamIngester:
        """Ingestion of what stream computing, and folds on a schedule, put into the buffer.

        Args:
            worker: says which shards to take; all unless given.
        """
        from millstream.ingest.stream import StreamIngester

        parts, (versions, beside) = self._parts, self._ingested()
        return StreamIngester(
            parts.log,
            parts.online,
            versions,
            parts.clock,
            beside=beside,
            worker=worker,
            events=parts.histories.events(),
            forget_after=parts.settings.forget_after,
        )

    def batch_ingester(self, bite: int = 1, worker: Worker | None = None) -> BatchIngester:
        """Ingestion of what queries put into the buffer, into the offline store `bite` runs at a time.

        Args:
            bite: how many runs.
            worker: says which groups to take; all unless given.
        """
        from millstream.ingest.batch import BatchIngester

        parts, (versions, beside) = self._parts, self._ingested()
        return BatchIngester(
            parts.log,
            parts.online,
            parts.offline,
            versions,
            parts.clock,
            beside=beside,
            bite=bite,
            worker=worker,
        )

    def _ingested(self) -> tuple[list[GroupVersion], list[GroupVersion]]:
        """The group versions in use, and those that are filled beside them."""
        versions = self._parts.registry.groups()
        return versions, [one.beside for one in versions if one.beside is not None]

    def archiver(self) -> Archiver:
        """The archive of events, dead letters and captures."""
        from millstream.ingest.archive import Archiver

        parts = self._parts
        return Archiver(parts.log, parts.offline, parts.registry.streams(), parts.clock)

    def syncer(self) -> Syncer:
        """Sync of the online with the offline store."""
        from millstream.ingest.sync import Syncer

        parts = self._parts
        return Syncer(
            parts.log, parts.online, parts.offline, parts.histories.events(), parts.registry.groups(), parts.clock
        )
