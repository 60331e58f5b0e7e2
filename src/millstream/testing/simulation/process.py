"""One process of a simulated project: its own parts, opened when it began, and the layers that it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from millstream.buffer.parts import LARGEST
from millstream.clock import Clock
from millstream.ingest.retention import trim
from millstream.project import apply
from millstream.project.alone import alone
from millstream.project.layers import Layers
from millstream.project.parts import Parts
from millstream.project.retire import drop_unused
from millstream.project.serving import Scoring
from millstream.project.upkeep import tend
from millstream.serve.capture import CaptureJournal
from millstream.settings import Settings
from millstream.testing.adversarial_log import AdversarialLog
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.testing.simulation.losing_worker import LosingWorker
from millstream.testing.simulation.web import Web

RUNS: Mapping[str, tuple[str, ...]] = {
    "compute": ("compute",),
    "ingest": ("ingest", "archive", "backfill"),
    "batch": ("batch",),
    "sync": ("sync", "trim", "upkeep"),
    "serve": ("ship",),
    "monitor": (),
}
"""The layers of each process."""


class Adversary(NamedTuple):
    """What the adversarial log and store of a process are like.

    Attributes:
        seed: what they draw from.
        atomic: whether transactions of the log happen wholly or not at all; if not, the store is the embedded one.
        largest: the most bytes of one record that computing writes: what is larger is in parts.
    """

    seed: int
    atomic: bool = True
    largest: int = LARGEST


class SimulatedParts(Parts):
    """A project's parts on a clock that the simulation moves; on an adversarial log and store if there is an adversary."""

    def __init__(self, settings: Settings, clock: Clock, adversary: Adversary | None = None) -> None:
        super().__init__(settings)
        self.__dict__["clock"] = clock
        self._adversary = adversary
        if adversary is not None:
            self.layers = LayersOfSmallRecords(self, adversary.largest)

    @cached_property
    def log(self) -> Any:
        """The log."""
        log: Any = super().log
        if self._adversary is None:
            return log
        return AdversarialLog(log, self._adversary.seed, atomic=self._adversary.atomic)

    @cached_property
    def online(self) -> Any:
        """The online store."""
        online: Any = super().online
        if self._adversary is None or not self._adversary.atomic:  # one thing at a time
            return online
        return AdversarialOnlineStore(online, self._adversary.seed)

    def close(self) -> None:
        """Let go of all that is open but the engine: it belongs to the thread, and its connections hold no project's rows
        once a query is done; to make them takes longer than most of what a process does."""
        self.__dict__.pop("batch_engine", None)
        super().close()

    def worker(self) -> LosingWorker | None:
        """Who computes, if it may lose what it owns at any time."""
        if self._adversary is None:
            return None
        topics = self.log.topics()
        names = [stream.name for stream in self.registry.streams() if stream.name in topics]
        return LosingWorker(self.log, names, self._adversary.seed)


class LayersOfSmallRecords(Layers):
    """The layers of a project, where computing writes what is larger than so many bytes in parts."""

    def __init__(self, parts: Parts, largest: int) -> None:
        super().__init__(parts)
        self._largest = largest

    def computer(self, worker: Any = None) -> Any:
        """Stream computing."""
        return self._in_parts(super().computer(worker))

    def batch_computer(self) -> Any:
        """Batch computing."""
        return self._in_parts(super().batch_computer())

    def _in_parts(self, computer: Any) -> Any:
        computer._log = SmallRecords(computer._log, self._largest)
        return computer


class SmallRecords:
    """A log of which it is said that it takes small records only, for who goes by that when it cuts what it writes."""

    def __init__(self, log: Any, largest: int) -> None:
        self._log, self.largest = log, largest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Process:
    """A process; what it knows of the definitions it learnt when it last looked.

    Args:
        name: what it is called.
        settings: the project.
        clock: the project's clock.
        adversary: what its adversarial log and store are like; without one it has the embedded ones as they are.
    """

    def __init__(self, name: str, settings: Settings, clock: Clock, adversary: Adversary | None = None) -> None:
        self.name = name
        self.parts = SimulatedParts(settings, clock, adversary)
        self._scoring: Scoring | None = None
        self._web: Web | None = None
        self.dead = False
        self._revision: int | None = None
        self._made: dict[str, Any] = {}
        self.worker: LosingWorker | None = None

    @property
    def scoring(self) -> Scoring:
        """What scores, captures and looks back."""
        if self._scoring is None:
            self._scoring = Scoring(self.parts)
        return self._scoring

    @property
    def web(self) -> Web:
        """What answers over HTTP."""
        if self._web is None:
            self._web = Web(self.parts)
        return self._web

    def step(self, layer: str, *, look: bool = True) -> int:
        """One step of a layer; returns how much was done.

        Args:
            layer: the layer.
            look: whether to look for new definitions first, as a layer does once a second.
        """
        if look or self._revision is None:
            self._look()
        return _STEPS[layer](self)

    def made(self, name: str) -> Any:
        """What a layer works with, made from the definitions that are known."""
        if name == "computer" and name not in self._made:
            self.worker = self.parts.worker()
            self._made[name] = self.parts.layers.computer(self.worker)
        if name not in self._made:
            self._made[name] = getattr(self.parts.layers, name)()
        return self._made[name]

    def end(self) -> None:
        """It is dead, or ended by its supervisor: nothing more is written, and what the kernel held for it is let go."""
        self._forget()
        log = self.parts.__dict__.get("log")
        if log is not None:
            log.close()
        for journal in self._journals():
            journal._lock_file.close()
            _close_files(journal.own)
        if self._web is not None:
            self._web.end()
        self.parts.close()
        self.parts.__dict__.clear()
        self.dead = True

    def _journals(self) -> list[CaptureJournal]:
        found = [None if self._scoring is None else self._scoring._journal]
        found.append(None if self._web is None else self._web.service._journal)
        return [one for one in found if one is not None]

    def _look(self) -> None:
        revision = self.parts.registry.revision()
        if revision != self._revision:
            self._forget()
            self._revision = revision

    def _forget(self) -> None:
        computer = self._made.pop("computer", None)
        if computer is not None:
            computer.close()
        self._made.clear()


def _close_files(folder: Path) -> None:
    """Close what this process has open in a folder, as its end would."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{number}").startswith(f"{folder}/"):
                os.close(int(number))


def _compute(process: Process) -> int:
    computer, worker = process.made("computer"), process.worker
    if worker is None:
        done = computer.step()
        return int(done.records + done.lag)
    worker.lacking = False
    done = computer.step()
    return int(done.records + done.lag + worker.lacking)  # who owns nothing knows of nothing that is left


def _batch(process: Process) -> int:
    computer = process.made("batch_computer")
    return len(computer.step()) + len(computer.due())  # a run that came apart is due again


def _ingest(process: Process) -> int:
    apply.rebuild_damaged(process.parts)
    applied = process.made("ingester").step()
    stored = process.made("batch_ingester").step()
    return int(applied.records + applied.lag - applied.held + stored.runs + stored.written + stored.lag)


def _archive(process: Process) -> int:
    done = process.made("archiver").step()
    return int(done.rows + done.lag)


def _sync(process: Process) -> int:
    reports = process.made("syncer").step()
    wrong = [one for one in reports if one.disagreeing]
    assert not wrong, f"the online store agrees with history: {wrong}"
    return sum(one.rows for one in reports)


def _trim(process: Process) -> int:
    return trim(process.parts)


def _upkeep(process: Process) -> int:
    dropped, tended = drop_unused(process.parts), tend(process.parts)
    return dropped + tended.compacted + tended.deleted


def _ship(process: Process) -> int:
    beside = 0 if process._web is None else process._web.service._shipper.step()
    return beside + process.scoring.ship()


def _backfill(process: Process) -> int:
    """Bring new versions to where they can be read, as the ingestion process does beside its loop."""
    parts = process.parts
    done = 0
    for version in apply.unfinished(parts):
        apply.start(parts)
        with alone(parts, f"backfill {version.id}", wait=False) as mine:
            if mine:
                apply.backfill(parts, apply.again(parts, version))
                done += apply.finish(parts, version)
    return done


_STEPS: dict[str, Callable[[Process], int]] = {
    "compute": _compute,
    "ingest": _ingest,
    "batch": _batch,
    "archive": _archive,
    "sync": _sync,
    "trim": _trim,
    "upkeep": _upkeep,
    "ship": _ship,
    "backfill": _backfill,
}
