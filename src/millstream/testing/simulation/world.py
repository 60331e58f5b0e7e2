"""A project in the hands of a simulation: its processes, its producers, and everything that may happen to them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from millstream.clock import SimulatedClock
from millstream.errors import DiskFull, MillstreamError
from millstream.project import applying, moving, serving
from millstream.project.facade import Project
from millstream.settings import Settings
from millstream.testing.simulation import truth
from millstream.testing.simulation.actions import Action
from millstream.testing.simulation.declared import ACCOUNTS, Declared, changed
from millstream.testing.simulation.disk import Disk, Fate, Killed
from millstream.testing.simulation.ledger import INSTANT, Ledger
from millstream.testing.simulation.models import fitted
from millstream.testing.simulation.process import RUNS, Process


@dataclass
class World:
    """A project, the clock and the disk it runs on, and what the world outside it knows.

    Attributes:
        folder: Where it is.
        shape: What its team has declared.
        clock: Its clock.
        disk: Its disk.
        ledger: What producers sent and the log took.
        accounts: The rows of the table that queries read.
        waiting: What producers have sent and nobody acknowledged: they will send it again.
        scores: By request id, each score that was answered.
        champions: The versions deployed, oldest first, without those rolled back.
        undone: A change that the operator's command did not live to finish.
        jumped: Whether the clock was ever set wrong.
        rolled: Whether the champion is one that was rolled back to.
    """

    folder: Path
    shape: Declared
    clock: SimulatedClock
    ledger: Ledger = field(default_factory=Ledger)
    accounts: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    champions: list[int] = field(default_factory=list)
    undone: bool = False
    jumped: bool = False
    rolled: bool = False
    zombies: list[Process] = field(default_factory=list)
    asks: int = 0
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = Settings.load(self.folder)
        self.disk = Disk(self.settings.data)
        self._processes: dict[str, Process] = {}
        self._acting: list[Process] = []

    # One action.

    def do(self, action: Action) -> str:
        """Let one thing happen; returns what came of it.

        Raises:
            AssertionError: When something does not hold.
        """
        turn = action.turn
        said: list[str] = []
        fate = None
        if action.fate is not None:
            fate = Fate(*action.fate, turn=(lambda: said.append(self._turn(turn))) if turn else None)
        self.disk.meet(fate)
        outcome = self._outcome(action)
        self.disk.between()
        written = " ".join(self.disk.written())
        self.disk.meet(None)
        return " ".join(filter(None, [outcome, written and f"wrote {written}", *said]))

    def _turn(self, action: Action) -> str:
        acting, self._acting = self._acting, []
        try:
            self.disk.meet(None)
            return f"meanwhile {action}: {self._outcome(action)}"
        finally:
            self._acting = acting

    def _outcome(self, action: Action) -> str:
        self._acting = []
        try:
            return str(getattr(self, action.name)(*action.given))
        except Killed as where:
            for process in self._acting:
                self.bury(process)
            return f"died writing {where}"
        except DiskFull as error:
            assert self.disk.full, f"there is room, and yet: {error.message}"
            return "no room"

    def process(self, name: str) -> Process:
        """The process of that name that is at work now."""
        if name not in self._processes:
            self._processes[name] = Process(name, self.settings, self.clock)
        self._acting.append(self._processes[name])
        return self._processes[name]

    def bury(self, process: Process) -> None:
        """A process is dead; the next one to be asked for is another."""
        process.end()
        if self._processes.get(process.name) is process:
            del self._processes[process.name]
        if process in self.zombies:
            self.zombies.remove(process)

    def archived(self) -> bool:
        """Whether there is an archive at all."""
        return (self.settings.data / "offline" / "warehouse" / "events").exists()

    # Producers.

    def send(self, stream: str, drawn: Sequence[tuple[Any, ...]], heard: bool) -> str:
        """Events that arrive now; an id says what else an event holds. The acknowledgement is heard, or lost."""
        return self._append(stream, [self._event(*one) for one in drawn], heard)

    def burst(self, size: int) -> str:
        """More events of one key within three seconds than its state keeps apart."""
        rows = [self._event(1_000 + i, 1, 2, 0.1 * i, "DE", True, i * 40_000) for i in range(size)]
        return self._append("events", rows, True)

    def retry(self) -> str:
        """A producer that heard nothing sends again."""
        if not self.waiting:
            return "nothing"
        return self._append(*self.waiting.pop(0), True)

    def _event(self, number: int, k: Any, other: Any, x: Any, s: Any, ok: Any, late: int) -> dict[str, Any]:
        now = self.clock.now()
        fresh = {"id": f"{'w' if x == 'much' else 'e'}{number}", "k": k, "other": other, "x": x, "s": s, "ok": ok,
                 "at": now - late}  # fmt: skip
        return {**self.events.setdefault(fresh["id"], fresh), "seen": now}

    def _append(self, stream: str, rows: list[dict[str, Any]], heard: bool) -> str:
        parts = self.process("producer").parts
        declared = {one.name: one for one in parts.registry.streams()}
        if stream not in declared or not rows:
            return "no such stream"
        definition = declared[stream]
        again = definition.deduplicate is not None
        ends = [end for _, end in parts.log.ends(stream)]
        try:
            moving.append(parts, stream, rows, history=False)
        except (Killed, DiskFull):
            if again:
                self.waiting.append((stream, rows))
            raise
        finally:
            self._landed(definition, rows, ends)
        if not heard and again:
            self.waiting.append((stream, rows))
            return "acknowledgement lost"
        self.ledger.acknowledge(stream, rows)
        return f"acknowledged {len(rows)}"

    def _landed(self, stream: Any, rows: list[dict[str, Any]], ends: list[int]) -> None:
        """Note what is in the log, whether or not anybody was told: it is all there, or nothing is."""
        parts = self.process("witness").parts
        after = [end for _, end in parts.log.ends(stream.name)]
        came = sum(after) - sum(ends)
        assert came in (0, len(rows)), f"an append is whole or nothing: {came} of {len(rows)} rows of '{stream.name}'"
        if came:
            self.ledger.land(stream, rows, self.clock.now(), ends)
            if stream.partition_by is None:
                grown = next(p for p, (was, now) in enumerate(zip(ends, after, strict=True)) if now > was)
                self.ledger.place(stream.name, len(rows), grown, ends[grown])

    def table(self, drawn: Sequence[tuple[Any, ...]]) -> str:
        """Rows that could not be known before: ten minutes after their time is after the last run."""
        now = self.clock.now()
        self.accounts += [{"k": k, "x": x, "s": s, "at": now + late} for k, x, s, late in drawn]
        kinds = {"k": pa.int64(), "x": pa.float64(), "s": pa.string(), "at": INSTANT}
        written = {name: pa.array([one[name] for one in self.accounts], kind) for name, kind in kinds.items()}
        pq.write_table(pa.table(written), self.folder / ACCOUNTS.path)
        return ""

    # Layers.

    def layer(self, name: str, stale: bool = False) -> str:
        """One step of a layer; a stale one has not looked for new definitions."""
        process = self.process(next(one for one, layers in RUNS.items() if name in layers))
        try:
            return f"{process.step(name, look=not stale)}"
        except DiskFull:
            raise
        except MillstreamError as error:
            assert stale or self.undone or self.disk.full, f"{name} goes on: {error.message}"
            return f"refused: {type(error).__name__}"

    def trim(self) -> str:
        """Retention."""
        return self.layer("trim")

    def zombie(self, name: str) -> str:
        """A process that is taken for dead: its successor begins, and it may wake."""
        process = self._processes.pop(name, None)
        if process is None:
            return "nobody"
        self.zombies.append(process)
        return "asleep"

    def wake(self, number: int, layer: str) -> str:
        """An old process goes on with what it knew."""
        if not self.zombies:
            return "nobody"
        process = self.zombies[number % len(self.zombies)]
        self._acting.append(process)
        layers = RUNS[process.name]
        if not layers:
            return "idle"
        chosen = layer if layer in layers else layers[0]
        try:
            return f"{process.name} {chosen}: {process.step(chosen, look=False)}"
        except DiskFull:
            raise
        except MillstreamError as error:
            return f"{process.name} {chosen} refused: {type(error).__name__}"

    def restart(self, name: str | None) -> str:
        """A process is killed between two steps; all are, where none is named."""
        for process in [*self._processes.values(), *(self.zombies if name is None else ())]:
            if name in (None, process.name):
                self.bury(process)
        return ""

    # Readers.

    def score(self, drawn: Sequence[tuple[Any, ...]]) -> str:
        """Requests; their moment is now unless they say."""
        now = self.clock.now()
        rows = [
            {"k": k, "other": other, "amount": amount, "note": note, **({} if at is None else {"at": now + at})}
            for k, other, amount, note, at in drawn
        ]
        try:
            scored = self.process("serve").scoring.score("model", rows)
        except DiskFull:
            raise
        except MillstreamError as error:
            assert self.undone or self.disk.full, f"scoring goes on: {error.message}"
            return f"refused: {type(error).__name__}"
        self.scores |= dict(zip(scored["request_id"].to_pylist(), scored["score"].to_pylist(), strict=True))
        return f"scored {scored['score'].to_pylist()} degraded {scored['degraded'].to_pylist()}"

    def read(self) -> str:
        """Every key, as it is served now, held to what `ms.compute` makes of the events that were applied."""
        return truth.reads(self)

    def check(self) -> str:
        """Whatever was served can be recomputed, and every difference from training explained."""
        return truth.served(self)

    # Operators.

    def operator(self) -> Process:
        """The process of a command."""
        return self.process("operator")

    def change(self, change: tuple[str, Any]) -> str:
        """What is declared changes under traffic."""
        self.shape = changed(self.shape, dict([change]))
        self.undone = True
        return self.apply()

    def apply(self) -> str:
        """The operator applies what is declared; one who saw the command die does so again."""
        parts = self.operator().parts
        planned = applying.plan(parts, [self.shape.model], complete=False)
        done = applying.apply(parts, planned, allow_breaking=True, agreed=None)
        self.undone = False
        return f"{len(done)} changes"

    def anew(self, group: str) -> str:
        """Throw the states of a group away and fold history again."""
        parts = self.operator().parts
        applying.start(parts)
        version = applying.rebuild(parts, parts.registry.group(group))
        applying.backfill(parts, version)
        return version.id

    def deploy(self) -> str:
        """A model of what the view reads now, once the versions that are read have it."""
        project = Project(self.folder)
        project.parts = self.operator().parts
        view, versions = project.parts.registry.model("model").view, project.parts.versions()
        if not all(c.feature in versions[r.group.name].schema for r in view.groups for c in r.columns):
            return "not yet"
        booster, dictionaries = fitted(view)
        project.register("model", booster, dictionaries=dictionaries)
        return self._deployed(lambda: project.deploy("model"))

    def rollback(self) -> str:
        """The champion before this one is the champion again."""
        return truth.rolled_back(self)

    def _deployed(self, deploy: Any) -> str:
        try:
            version = deploy()
        finally:
            champion, self.rolled = self.champion(), False
            if champion is not None and self.champions[-1:] != [champion]:
                self.champions.append(champion)
        return f"version {version}"

    def champion(self) -> int | None:
        """Whoever was told, the registry says who is the champion."""
        found: int | None = self.process("witness").parts.model_versions.aliases("model").get(serving.CHAMPION)
        return found

    # Time and the machine.

    def advance(self, gap: int) -> str:
        """Time passes."""
        self.clock.advance(gap)
        return ""

    def jump(self, gap: int) -> str:
        """The clock is set wrong, or right again."""
        self.clock.advance(gap)
        self.jumped = True
        return ""

    def fill(self, place: str) -> str:
        """A disk is full."""
        self.disk.full.add(place)
        return ""

    def room(self) -> str:
        """There is room again."""
        self.disk.full.clear()
        return ""

    def forget(self) -> str:
        """The index of event ids is gone: a cache, which may be deleted at any time."""
        for process in [*self._processes.values(), *self.zombies]:
            if process.name == "compute":
                self.bury(process)
        shutil.rmtree(self.settings.data / "repeats", ignore_errors=True)
        return ""

    def end(self) -> None:
        """Everything ends."""
        self.restart(None)
