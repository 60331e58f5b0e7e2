"""What each layer does in its loop, from the parts of a project."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from millstream.buffer.topics import COMPUTING, INGESTION, feature_topic, staging_topic
from millstream.engines.stream import Progress
from millstream.errors import DiskFull, MillstreamError, SteppedBack
from millstream.ingest.retention import computing_consumers, pressed, trim
from millstream.project import apply
from millstream.project.alone import alone
from millstream.project.parts import Parts
from millstream.project.retire import drop_unused
from millstream.project.upkeep import tend
from millstream.running.layers import complain, owner_name
from millstream.running.quiet import SURE, Quiet
from millstream.running.repeating import Beside, Every, tried
from millstream.running.taking_in import Intake
from millstream.store.offline import Upkeep

if TYPE_CHECKING:
    from millstream.ingest.batch import BatchApplied
    from millstream.ingest.stream import Applied
    from millstream.running.layers import Work

T = TypeVar("T")
ARCHIVE_EVERY = 5.0
"""Seconds between two looks at whether the archive lacks `ARCHIVE_FROM` records; what is less waits for the next sync."""
ARCHIVE_FROM = 50_000
PRESSED_EVERY = 10.0
"""Seconds between two looks whether the log is nearly full."""
VERIFY_EVERY = 60.0
"""Seconds between two verifications of what was served."""
VERIFY_SAMPLE = 500
"""How many of the newest captures are verified."""
BACKFILL_ENDS = 5.0
"""Seconds that a backfill beside the layer is waited for at its end."""


class Compute:
    """Stream computing of a share of the partitions; any number of processes have the others."""

    def __init__(self, parts: Parts) -> None:
        settled(parts)
        for found in parts.identity.stepped_back():
            raise SteppedBack.found("Computing waits", found.rstrip("."))
        self._parts = parts
        owner = owner_name()
        self._worker = parts.log.worker(COMPUTING, [stream.name for stream in parts.registry.streams()], owner)
        self._computer = parts.layers.computer(self._worker)
        self._quiet = Quiet(parts.log)
        self._behind = Every(1.0, self._seconds)
        self.facts: dict[str, Any] = {"owner": owner, "lag": 0, "lag_s": 0.0, "dead": 0, "skipped": {}}

    def step(self) -> int:
        """One micro-batch of every stream, if anything has come."""
        self._worker.assigned()  # a partition that comes or goes is written to the log, which then is not quiet
        done = self._quiet.read(self._computer.step, lambda done: not (done.lag or done.records or done.fenced))
        if done is None and not self.facts["lag_s"]:
            return 0
        done = done or Progress()
        self.facts["lag"] = done.lag
        self.facts["dead"] += done.dead
        for reason, count in done.skipped.items():
            self.facts["skipped"][reason] = self.facts["skipped"].get(reason, 0) + count
        behind = self._behind.step()
        self.facts["lag_s"] = self.facts["lag_s"] if behind is None else behind
        return done.records

    def _seconds(self) -> float:
        """How long the oldest event has waited that some reader has still before it."""
        from millstream.buffer.computed import with_added
        from millstream.buffer.lag import seconds_behind

        parts = self._parts
        versions = parts.registry.groups()

        def standing(reader: str, stream: str) -> list[int | None]:
            return with_added(parts.log, stream, parts.log.committed(reader, stream))

        found = [
            seconds_behind(parts.log, stream.name, standing(reader, stream.name), parts.clock)
            for stream in parts.registry.streams()
            for reader in computing_consumers(stream, versions)
        ]
        return round(max(found, default=0.0), 1)

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait for events."""
        self._quiet.rest(stop, seconds)

    def close(self) -> None:
        """Give up the partitions, and let go of the index of event ids."""
        self._computer.close()


class Ingest:
    """Ingestion of a share of the shards, the archive, and in a thread beside them the backfill of new group versions.

    Any number of processes have the other shards; the first to come archives, or fills a version, whoever else would.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        owner, versions = owner_name(), parts.registry.groups()
        topics = [feature_topic(one.id) if one.group.columns else staging_topic(one.id) for one in versions]
        self._worker = parts.log.worker(INGESTION, topics, owner)
        self._ingester, self._batch = (
            parts.layers.ingester(self._worker),
            parts.layers.batch_ingester(worker=self._worker),
        )
        self._archiver = parts.layers.archiver()
        self._quiet = Quiet(parts.log)
        self._filling = any(version.building is not None for version in parts.registry.groups())
        self._newest: int | None = None
        self._archive = Beside("archive", [
            Every(parts.settings.sync_every / 1e6, self._archiver.step), Every(ARCHIVE_EVERY, self._archive_enough),
        ])  # fmt: skip
        self._age = Every(1.0, self._newest_age)
        self._damaged = Every(1.0, lambda: apply.rebuild_damaged(parts))
        self._behind = Every(1.0, self._seconds)
        self.facts: dict[str, Any] = {
            "owner": owner,
            "lag": 0,
            "lag_s": 0.0,
            "age": None,
            "waiting": [],
            "archived": 0,
            "repeated": 0,
            "refolded": 0,
            "forgotten": 0,
        }
        self._stop = threading.Event()
        self._beside = threading.Thread(target=self._backfill, name="backfill", daemon=True)
        self._beside.start()

    def step(self) -> int:
        """Apply what the buffer holds; beside that, archive what is enough for a file, and all at every interval of sync.

        Raises:
            MillstreamError: the first failure, after all parts had their turn.
        """
        failed: list[MillstreamError] = []
        tried(
            failed, self._worker.assigned
        )  # a shard that comes or goes is written to the log, which then is not quiet
        taken = tried(failed, lambda: self._quiet.read(self._take, self._took_all))
        self._newest = self._newest if taken is None else None
        archived = tried(failed, self._archive.done) or []
        tried(failed, self._damaged.step)
        self.facts["age"] = tried(failed, self._age.step) or self.facts["age"]
        if taken is not None or self.facts["lag_s"] or failed:
            behind = tried(failed, self._behind.step)
            self.facts["lag_s"] = self.facts["lag_s"] if behind is None else behind
        self.facts["archived"] += sum(one.rows for one in archived if one is not None)
        for error in failed:
            raise error
        return 0 if taken is None else self._note(*taken)

    def _take(self) -> tuple[Applied, BatchApplied]:
        """Apply what the buffer holds; a failure of one part is raised after the other had its turn."""
        failed: list[MillstreamError] = []
        applied, stored = tried(failed, self._ingester.step), tried(failed, self._batch.step)
        for error in failed:
            raise error
        assert applied is not None and stored is not None
        return applied, stored

    def _took_all(self, taken: tuple[Applied, BatchApplied]) -> bool:
        """Whether nothing is left, no build that is filled beside will need what the buffer has, and no key is looked at."""
        return not (self._filling or self._ingester.forgetting) and not any(
            one.lag or one.fenced or one.written for one in taken
        )

    def _note(self, applied: Applied, stored: BatchApplied) -> int:
        """Count what was taken, and return how many records and runs it was."""
        self.facts["lag"] = applied.lag + stored.lag
        self.facts["waiting"] = list(applied.waiting)
        self.facts["repeated"] += applied.repeated
        self.facts["refolded"] += applied.refolded
        self.facts["forgotten"] += applied.forgotten
        return applied.records + stored.runs

    def _archive_enough(self) -> Any:
        """What fills a file; or all there is, for the sake of a log that is nearly full."""
        return self._archiver.step(1 if pressed(self._parts) else ARCHIVE_FROM)

    def _seconds(self) -> float:
        """How long the oldest delta has waited that some shard has still to take in."""
        from millstream.buffer.lag import seconds_behind
        from millstream.store.online import metas_of

        parts, topics = self._parts, self._parts.log.topics()
        found = []
        versions = [one for one in parts.registry.groups() if feature_topic(one.id) in topics]
        for version, metas in zip(versions, metas_of(parts.served.store, versions), strict=True):
            positions = [0 if meta is None else meta.position for meta in metas]
            found.append(seconds_behind(parts.log, feature_topic(version.id), positions, parts.clock))
        return round(max(found, default=0.0), 1)

    def _newest_age(self) -> int | None:
        """The time (µs) since the newest arrival that any state holds."""
        from millstream.store.online import metas_of

        parts = self._parts
        if self._newest is None:
            metas = metas_of(parts.served.store, list(parts.registry.groups()))
            self._newest = max((meta.newest_arrival for some in metas for meta in some if meta is not None), default=0)
        return parts.clock.now() - self._newest if self._newest else None

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait for deltas and runs."""
        self._quiet.rest(stop, seconds)

    def close(self) -> None:
        """Give up the shards, and let a backfill that is under way come to an end of its own, or of the process.

        One that waits is waited for: a process that ends while another thread is in a library's code may abort.
        """
        self._stop.set()
        self._worker.close()
        self._archive.close(BACKFILL_ENDS)
        self._beside.join(BACKFILL_ENDS)

    def _backfill(self) -> None:
        """Bring new versions to where ingestion can go on, until none is left; a failure is tried again."""
        settled, again = None, 0.0
        while not self._stop.is_set():
            try:
                revision = self._parts.registry.revision()
                if revision != settled or time.monotonic() >= again:
                    settled = None if self._fill() else revision
                    again = time.monotonic() + SURE
            except MillstreamError as error:
                complain(error.message)
            except Exception as error:  # said aloud: a thread that ended would leave the version waiting without a word
                complain(f"backfill: {type(error).__name__}: {error}")
            self._stop.wait(1.0)

    def _fill(self) -> bool:
        """Bring each unfinished version as far as it can be now; returns whether there were any."""
        apply.settle(self._parts)
        apply.start(self._parts)
        versions = apply.unfinished(self._parts)
        for version in versions:
            with alone(self._parts, f"backfill {version.id}", wait=False) as mine:
                if mine:
                    self.facts["backfilling"] = version.id
                    apply.backfill(self._parts, apply.again(self._parts, version))
                    apply.finish(self._parts, version)
        self.facts.pop("backfilling", None)
        return bool(versions)


class Batch:
    """Batch computing, when it is due."""

    def __init__(self, parts: Parts) -> None:
        self._computer = Every(1.0, parts.layers.batch_computer().step)
        self._failed: MillstreamError | None = None
        self.facts: dict[str, Any] = {"runs": 0, "lag": 0}

    def step(self) -> int:
        """Run what is due.

        Raises:
            MillstreamError: the first failure, after all groups had their turn, and again until they are next tried.
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

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait a moment: what is due says the clock."""
        stop.wait(seconds)

    def close(self) -> None:
        """Nothing is open."""


class Sync:
    """Sync of the stores on its interval, retention, dropping of what nobody reads, and upkeep of the offline files."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._syncer = parts.layers.syncer()
        self._due = 0
        self._pressed = Every(PRESSED_EVERY, lambda: pressed(parts))
        self.facts: dict[str, Any] = {"lag": 0, "groups": {}}

    def step(self) -> int:
        """Sync, compact and trim when the interval has passed on the project's clock, or the log is nearly full."""
        now = self._parts.clock.now()
        if now < self._due and not self._pressed.step():
            return 0
        self.facts["trimmed"] = self.facts.get("trimmed", 0) + trim(self._parts)
        reports = self._syncer.step()
        self.facts["dropped"] = self.facts.get("dropped", 0) + drop_unused(self._parts)
        for one in reports:
            told = self.facts["groups"].setdefault(one.gv, {"compared": 0, "disagreeing": 0})
            told |= {"lag_s": one.lag / 1e6, "agreed_at": one.agreed_at}
            if one.compared:
                told |= {"compared": one.compared, "disagreeing": one.disagreeing}
        self._due = now + self._parts.settings.sync_every
        tended = tend(self._parts)
        self.facts["compacted"] = self.facts.get("compacted", 0) + tended.compacted
        self.facts["deleted"] = self.facts.get("deleted", 0) + tended.deleted
        offline = self._parts.offline
        if isinstance(offline, Upkeep):
            self.facts["files"] = sum(offline.facts(table).files for table in offline.tables())
        return sum(one.rows for one in reports)

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait a moment: what is due says the clock."""
        stop.wait(seconds)

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
        self._quiet = Quiet(parts.log)
        self._verify = Every(VERIFY_EVERY, self._verified)
        self._retrain = Every(1.0, self._retrained)
        self.facts: dict[str, Any] = {"lag": 0}

    def step(self) -> int:
        """Profile what was captured; verify each minute; retrain what is due."""
        counted = self._quiet.read(self._profiled, lambda counted: not counted)
        self._verify.step()
        self._retrain.step()
        return counted or 0

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait for captures."""
        self._quiet.rest(stop, seconds)

    def close(self) -> None:
        """Nothing is open."""

    def _profiled(self) -> int:
        return sum(profiler.step() for profiler in self._profilers)

    def _verified(self) -> None:
        from millstream.monitor.verify import verify

        for model in self._models:
            captures = self._parts.histories.captures(model.name, VERIFY_SAMPLE)
            if captures.num_rows:
                found = verify(captures, self._parts.histories.verification())
                self.facts[f"verify {model.name}"] = {"requests": found.requests, "mismatches": found.mismatches}

    def _retrained(self) -> None:
        from millstream.train.retrain import due, retrain
        from millstream.train.training_set import training_set

        parts = self._parts
        for model in self._models:
            if due(model, parts.model_versions, parts.clock.now()):
                examples = training_set(model, parts.histories.training(), now=parts.clock.now())
                decision = retrain(model, examples, parts.model_versions)
                self.facts[f"retrain {model.name}"] = decision.reason


def settled(parts: Parts) -> None:
    """Finish what a command that died has left; what keeps one from it is said, and stops nothing else."""
    try:
        apply.settle(parts)
    except DiskFull:
        raise
    except MillstreamError as error:
        complain(error.message)


WORKS: dict[str, Callable[[Parts], Work]] = {
    "intake": Intake,
    "compute": Compute,
    "ingest": Ingest,
    "batch": Batch,
    "sync": Sync,
    "monitor": Monitor,
}
"""How the work of each layer is made; `serve` and `generator` have loops of their own."""
ONE_AT_A_TIME = ("sync", "monitor")
"""Layers of which one process works at a time, on whatever host; the others stand by."""
