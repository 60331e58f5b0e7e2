"""The work of a layer that one process does at a time: others of the layer stand by, and take over when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from millstream.project.alone import LOOK, Turn
from millstream.project.parts import Parts

if TYPE_CHECKING:
    from millstream.running.layers import Work


class Standby:
    """Work that begins when it is this process's turn, and ends when that is over.

    Args:
        parts: the project.
        layer: the layer's name.
        made: makes the work, each time that a turn begins.

    Attributes:
        facts: what the work says; while it is another's turn, that this process is `standing_by`.
    """

    def __init__(self, parts: Parts, layer: str, made: Callable[[Parts], Work]) -> None:
        self._parts, self._made = parts, made
        self._turn = Turn(parts, f"layer {layer}")
        self._work: Work | None = None
        self.facts: dict[str, Any] = {"standing_by": True}

    def step(self) -> int:
        """One step of the work, if it is this process's turn."""
        if not self._turn.mine():
            self._end()
            self.facts.clear()
            self.facts["standing_by"] = True
            return 0
        if self._work is None:
            self._work = self._made(self._parts)
        handled = self._work.step()
        self.facts.clear()
        self.facts.update(self._work.facts)
        return handled

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait as the work does, or for a turn."""
        if self._work is None:
            stop.wait(LOOK)
        else:
            self._work.rest(stop, seconds)

    def close(self) -> None:
        """Let go of what is open, and leave it to another process."""
        self._end()
        self._turn.close()

    def _end(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()
