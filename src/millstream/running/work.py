"""What each layer does in its loop, from the parts of a project."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from millstream.errors import MillstreamError, StoreError
from millstream.project import applying
from millstream.project.wiring import Parts
from millstream.running.layers import complain

if TYPE_CHECKING:
    from millstream.running.layers import Work
    from millstream.store.registry import GroupVersion

T = TypeVar("T")
ARCHIVE_EVERY = 5.0
"""Seconds between two looks at whether the archive lacks `ARCHIVE_FROM` records; what is less waits for the next sync."""
ARCHIVE_FROM = 50_000
VERIFY_EVERY = 60.0
"""Seconds between two verifications of what was served."""
VERIFY_SAMPLE = 500
"""How many of the newest captures are verified."""
BACKFILL_ENDS = 5.0
"""Seconds that a backfill beside the layer is waited for at its end."""
DAY = 86_400_000_000
"""How long (µs) deltas and runs stay in the buffer at least."""
WEEK = 7 * DAY
"""How long (µs) dead letters and captures stay in the buffer at least."""


class Compute:
    """Stream computing."""

    def __init__(self, parts: Parts) -> None:
        self._computer = parts.computer()
        self.facts: dict[str, Any] = {"lag": 0, "dead": 0, "skipped": {}}

    def step(self) -> int:
        """One micro-batch of every stream."""
        done = self._computer.step()
        self.facts["lag"] = done.lag
        self.facts["dead"] += done.dead
        for reason, count in done.skipped.items():
            self.facts["skipped"][reason] = self.facts["skipped"].get(reason, 0) + count
        return done.records

    def close(self) -> None:
        """Let go of the index of event ids."""
        self._computer.close()


class Ingest:
    """Ingestion into the stores, the archive, and in a thread beside them the backfill of new group versions."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ingester, self._batch, self._archiver = parts.ingester(), parts.batch_ingester(), parts.archiver()
        self._archive = Every(ARCHIVE_EVERY, lambda: self._archiver.step(ARCHIVE_FROM))
        self._archive_all = Every(parts.settings.sync_every / 1e6, self._archiver.step)
        self._age = Every(1.0, self._newest_age)
        self._damaged = Every(1.0, lambda: applying.rebuild_damaged(parts))
        self.facts: dict[str, Any] = {"lag": 0, "age": None, "waiting": [], "archived": 0}
        self._stop = threading.Event()
        self._beside = threading.Thread(target=self._backfill, name="backfill", daemon=True)
        self._beside.start()

    def step(self) -> int:
        """Apply what the buffer holds; archive what is enough for a file, and all at every interval of sync.

        Raises:
            MillstreamError: The first failure, after all parts had their turn.
        """
        failed: list[MillstreamError] = []
        applied = tried(failed, self._ingester.step)
        stored = tried(failed, self._batch.step)
        archived = [tried(failed, self._archive_all.step), tried(failed, self._archive.step)]
        tried(failed, self._damaged.step)
        self.facts["age"] = tried(failed, self._age.step) or self.facts["age"]
        self.facts["archived"] += sum(one.rows for one in archived if one is not None)
        for error in failed:
            raise error
        assert applied is not None and stored is not None
        self.facts["lag"] = applied.lag + stored.lag
        self.facts["waiting"] = list(applied.waiting)
        return applied.records + stored.runs

    def _newest_age(self) -> int | None:
        """The time (µs) since the newest arrival that any state holds."""
        parts = self._parts
        metas = [parts.online.meta(one.states, shard) for one in parts.registry.groups() for shard in range(one.shards)]
        newest = max((meta.newest_arrival for meta in metas if meta is not None), default=0)
        return parts.clock.now() - newest if newest else None

    def close(self) -> None:
        """Let a backfill that is under way come to an end of its own, or of the process.

        One that waits is waited for: a process that ends while another thread is in a library's code may abort.
        """
        self._stop.set()
        self._beside.join(BACKFILL_ENDS)

    def _backfill(self) -> None:
        """Bring new versions to where ingestion can go on, until none is left; a failure is tried again."""
        while not self._stop.is_set():
            try:
                for version in applying.unfinished(self._parts):
                    self.facts["backfilling"] = version.id
                    applying.start(self._parts)
                    applying.backfill(self._parts, version)
                    applying.finish(self._parts, version)
                self.facts.pop("backfilling", None)
            except MillstreamError as error:
                complain(error.message)
            except Exception as error:  # said aloud: a thread that ended would leave the version waiting without a word
                complain(f"backfill: {type(error).__name__}: {error}")
            self._stop.wait(1.0)


class Batch:
    """Batch computing, when it is due."""

    def __init__(self, parts: Parts) -> None:
        self._computer = Every(1.0, parts.batch_computer().step)
        self._failed: MillstreamError | None = None
        self.facts: dict[str, Any] = {"runs": 0, "lag": 0}

    def step(self) -> int:
        """Run what is due.

        Raises:
            MillstreamError: The first failure, after all groups had their turn, and again until they are next tried.
        """
        try:
            done = self._computer.step()
        except MillstreamError as error:
            self._failed = error
            raise
        if done is None:
            if self._failed is not None:
                raise self._failed
            return 0
        self._failed = None
        self.facts["runs"] += len(done)
        return sum(run.rows for run in done)

    def close(self) -> None:
        """Nothing is open."""


class Sync:
    """Sync of the stores on its interval, and retention."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._syncer = parts.syncer()
        self._due = 0
        self.facts: dict[str, Any] = {"lag": 0, "groups": {}}

    def step(self) -> int:
        """Sync and trim when the interval has passed on the project's clock."""
        now = self._parts.clock.now()
        if now < self._due:
            return 0
        self.facts["trimmed"] = self.facts.get("trimmed", 0) + trim(self._parts)
        reports = self._syncer.step()
        for one in reports:
            told = self.facts["groups"].setdefault(one.gv, {"compared": 0, "disagreeing": 0})
            told |= {"lag_s": one.lag / 1e6, "agreed_at": one.agreed_at}
            if one.compared:
                told |= {"compared": one.compared, "disagreeing": one.disagreeing}
        self._due = now + self._parts.settings.sync_every
        return sum(one.rows for one in reports)

    def close(self) -> None:
        """Nothing is open."""


class Monitor:
    """Profiles of what is served, verification of a sample, and retraining on schedule."""

    def __init__(self, parts: Parts) -> None:
        from millstream.monitor.profiles import Profiler

        self._parts = parts
        folder = parts.settings.data / "profiles"
        folder.mkdir(parents=True, exist_ok=True)
        self._models = parts.registry.models()
        self._profilers = [Profiler(parts.log, folder, model.name) for model in self._models]
        self._verify = Every(VERIFY_EVERY, self._verified)
        self._retrain = Every(1.0, self._retrained)
        self.facts: dict[str, Any] = {"lag": 0}

    def step(self) -> int:
        """Profile what was captured; verify each minute; retrain what is due."""
        counted = sum(profiler.step() for profiler in self._profilers)
        self._verify.step()
        self._retrain.step()
        return counted

    def close(self) -> None:
        """Nothing is open."""

    def _verified(self) -> None:
        from millstream.monitor.verify import verify

        for model in self._models:
            captures = self._parts.captures(model.name, VERIFY_SAMPLE)
            if captures.num_rows:
                found = verify(captures, self._parts.pasts())
                self.facts[f"verify {model.name}"] = {"requests": found.requests, "mismatches": found.mismatches}

    def _retrained(self) -> None:
        from millstream.train.retrain import due, retrain
        from millstream.train.training_set import training_set

        parts = self._parts
        for model in self._models:
            if due(model, parts.model_versions, parts.clock.now()):
                examples = training_set(model, parts.past(), now=parts.clock.now())
                decision = retrain(model, examples, parts.model_versions)
                self.facts[f"retrain {model.name}"] = decision.reason


def tried(failed: list[MillstreamError], step: Callable[[], T]) -> T | None:
    """What a step returns; when it fails, None, and the error is added to those that failed."""
    try:
        return step()
    except MillstreamError as error:
        failed.append(error)
        return None


class Every:
    """Does something at once and then at most every so many seconds, and for no more than a tenth of the time.

    Args:
        seconds: How many seconds, at least, between two times.
        work: What to do.
    """

    def __init__(self, seconds: float, work: Callable[[], Any]) -> None:
        self._seconds, self._work = seconds, work
        self._due = time.monotonic()

    def step(self) -> Any:
        """Do it if it is time and return its result, else None."""
        began = time.monotonic()
        if began < self._due:
            return None
        try:
            return self._work()
        finally:
            now = time.monotonic()
            self._due = now + max(self._seconds, 10 * (now - began))


def trim(parts: Parts) -> int:
    """Let the log forget what is old and nobody needs any more; returns how many positions.

    Events go when they are older than their retention, archived and computed. Deltas and runs go when they are
    ingested and, for deltas, an earlier sync has seen them; not before a day or two syncs have passed, so that a store
    which lost its last minutes finds them still there. Dead letters and captures go a week after they came, archived.
    """
    from millstream.buffer.retention import reached, trim_consumed, trim_older
    from millstream.computing.names import computing_consumer
    from millstream.computing.stream import CHECK
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.ingest.archive import CAPTURES, CONSUMER, DEAD

    log, clock, versions = parts.log, parts.clock, parts.registry.groups()
    trimmed = 0
    for stream in parts.registry.streams():
        readers = [
            computing_consumer(one.id)
            for one in versions
            if isinstance(one.group, StreamFeatureGroup)
            and stream.name in {source.name for source in one.group.sources}
        ]
        trimmed += trim_consumed(log, stream, [CONSUMER, CHECK, *readers], clock)
    topics = log.topics()
    for version in versions:
        for topic, needed in _ingested(parts, version, topics):
            trimmed += trim_older(log, topic, needed, max(DAY, 2 * parts.settings.sync_every), clock)
    for topic in topics:
        if topic.startswith((DEAD, CAPTURES)):
            trimmed += trim_older(log, topic, reached(log, topic, [CONSUMER]), WEEK, clock)
    return trimmed


def _ingested(parts: Parts, version: GroupVersion, topics: Collection[str]) -> Iterator[tuple[str, list[int | None]]]:
    """The topics of a group version, each with the positions that both stores are past; None while one is built."""
    from millstream.buffer.staging import staging_topic
    from millstream.computing.names import feature_topic
    from millstream.definitions.feature_group import StreamFeatureGroup
    from millstream.ingest.stream import ingestion_consumer

    stored = _stored(parts, version)
    beside = stored if version.beside is None else _stored(parts, version.beside)
    if stored is None or beside is None:
        return
    stored = [min(both) for both in zip(stored, beside, strict=True)]
    told = ingestion_consumer(version.id)
    if (topic := staging_topic(version.id)) in topics:
        yield topic, [_least(parts.log.committed(told, topic)[0], *stored)]
    if (topic := feature_topic(version.id)) in topics:
        rows = [parts.log.committed(told, topic), stored]
        if isinstance(version.group, StreamFeatureGroup):
            rows.append(_synced(parts, version))
        yield topic, [_least(*row) for row in zip(*rows, strict=True)]


def _stored(parts: Parts, version: GroupVersion) -> list[int] | None:
    """By shard, the feature position that is applied; None while one is built or cannot be read."""
    try:
        metas = [parts.online.meta(version.states, shard) for shard in range(version.shards)]
    except StoreError:
        return None  # a shard that cannot be read will need what the buffer holds
    stored = [meta.position for meta in metas if meta is not None and meta.backfilled]
    return stored if len(stored) == version.shards else None


def _synced(parts: Parts, version: GroupVersion) -> list[int | None]:
    """By shard, the feature position that the last sync has seen."""
    from millstream.store.history import positions_of
    from millstream.store.sync import synced_table

    snapshot = parts.offline.snapshot(synced_table(version.id))
    synced = positions_of(snapshot.properties) if snapshot else {}
    return [synced.get(shard) for shard in range(version.shards)]


def _least(*positions: int | None) -> int | None:
    return None if None in positions else min(at for at in positions if at is not None)


WORKS: dict[str, Callable[[Parts], Work]] = {
    "compute": Compute,
    "ingest": Ingest,
    "batch": Batch,
    "sync": Sync,
    "monitor": Monitor,
}
"""How the work of each layer is made; `serve` and `generator` have loops of their own."""
