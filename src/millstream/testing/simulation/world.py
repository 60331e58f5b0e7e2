"""A project in the hands of a simulation: its clock, its disk, its processes, and what the world outside knows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millstream.clock import SimulatedClock
from millstream.project import serving
from millstream.settings import Settings
from millstream.testing.simulation.declared import Declared
from millstream.testing.simulation.disk import Disk, Killed
from millstream.testing.simulation.ledger import Ledger
from millstream.testing.simulation.process import Adversary, Process

if TYPE_CHECKING:
    from millstream.testing.simulation.flips import Flip


@dataclass
class World:
    """A project, the clock and the disk it runs on, and what the world outside it knows.

    Attributes:
        folder: where it is.
        shape: what its team has declared.
        clock: its clock.
        disk: its disk.
        ledger: what producers sent and the log took.
        accounts: the rows of the table that queries read.
        waiting: what producers have sent and nobody acknowledged: they will send it again.
        scores: by request id, each score that was answered.
        champions: the versions deployed, oldest first, without those rolled back.
        undone: a change that the operator's command did not live to finish.
        damaged: the groups of which a file is damaged.
        flips: the bits that have flipped on its disk, and were not flipped back.
        torn: the files of the journal of captures in which a bit has flipped.
        jumped: whether the clock was ever set wrong.
        furthest: how far it was at the furthest when it was set (µs).
        zombies: processes that are taken for dead.
        frozen: processes that are in the midst of a step, and will go on with it.
        events: by id, what else an event holds.
        precarious: whether the power will fail, so that what it may take is worth remembering.
        second: whether it is somebody else's turn, in the midst of a step.
        acting: the processes that the step at hand has asked for.
        broken: what does not hold, found in the midst of a step.
        go_on: lets what comes next happen now, in the midst of the step at hand.
        adversary: what the adversarial log and store of its processes are like; without one they have the embedded ones.
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
    damaged: set[str] = field(default_factory=set)
    flips: list[Flip] = field(default_factory=list)
    torn: list[Path] = field(default_factory=list)
    jumped: bool = False
    furthest: int = 0
    zombies: list[Process] = field(default_factory=list)
    frozen: list[Process] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    precarious: bool = False
    second: bool = False
    acting: list[Process] = field(default_factory=list)
    broken: Exception | None = None
    go_on: Callable[[int], None] = lambda _: None
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        self.settings = Settings.load(self.folder)
        self.disk = Disk(self.settings.data)
        self._processes: dict[tuple[str, bool], Process] = {}

    def process(self, name: str) -> Process:
        """The process of that name that is at work now; in somebody else's turn, the one beside it."""
        place = (name, self.second)
        if place not in self._processes:
            self._processes[place] = Process(name, self.settings, self.clock, self.adversary)
        self.acting.append(self._processes[place])
        return self._processes[place]

    def bury(self, process: Process) -> None:
        """A process is dead; the next one to be asked for is another."""
        process.end()
        self._processes = {place: one for place, one in self._processes.items() if one is not process}
        if process in self.zombies:
            self.zombies.remove(process)

    def archived(self) -> bool:
        """Whether there is an archive at all."""
        return (self.settings.data / "offline" / "warehouse" / "events").exists()

    def half_kept(self) -> bool:
        """Whether somebody died while a model was written."""
        return any((self.settings.data / "models").glob("*/.*"))

    @property
    def excused(self) -> bool:
        """Whether something may be refused now: a command was not finished, a disk is full, a file is damaged."""
        return self.undone or bool(self.disk.full) or bool(self.damaged) or bool(self.flips)

    def fits(self) -> bool:
        """Whether the champion reads no column that its view lacks now."""
        parts = self.process("witness").parts
        return set(parts.registry.model("model").view.columns).issuperset(parts.model_versions.load("model").columns)

    def put_aside(self, name: str) -> Process | None:
        """The process of a name, which is no longer the one at work."""
        return self._processes.pop((name, False), None)

    def sleep(self, actions: int) -> None:
        """Who acts now is frozen until so many actions have happened, its successors at work; then it wakes and goes on.

        Raises:
            Killed: when it was ended meanwhile.
        """
        frozen = list(dict.fromkeys(self.acting))
        self._processes = {place: one for place, one in self._processes.items() if one not in frozen}
        self.frozen += frozen
        self.go_on(actions)
        self.acting = frozen
        for process in frozen:
            self.frozen.remove(process)
        self.zombies += [process for process in frozen if not process.dead]
        if any(process.dead for process in frozen):
            raise Killed("while it was frozen")

    def kill(self, name: str | None = None, *, zombies: bool = False) -> None:
        """Kill the processes of a name; all, zombies too, where none is named."""
        others = [*self.zombies, *self.frozen] if zombies or name is None else []
        for process in [*self._processes.values(), *others]:
            if name in (None, process.name):
                self.bury(process)

    def end_seconds(self) -> None:
        """Of each process there is one again: those that had a turn beside another are killed."""
        for (_, second), process in list(self._processes.items()):
            if second:
                self.bury(process)

    def champion(self) -> int | None:
        """Whoever was told, the registry says who is the champion."""
        found: int | None = self.process("witness").parts.model_versions.aliases("model").get(serving.CHAMPION)
        return found
