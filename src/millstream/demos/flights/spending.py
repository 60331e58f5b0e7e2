"""Where the time of a run goes: seconds by part, and in how many of them this thread had to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Part:
    """Seconds by the clock, and those of them in which the thread did not run: it waited for servers, a disk or a processor."""

    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class Spending:
    """Measures the parts of a run; a part that comes again is added to."""

    parts: dict[str, Part] = field(default_factory=dict)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """What runs in the block counts for a part."""
        part = self.parts.setdefault(name, Part())
        begun, worked = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            part.seconds += seconds
            part.waited += max(0.0, seconds - (time.thread_time() - worked))

    def rounded(self) -> dict[str, dict[str, float]]:
        """By part, what was measured, in hundredths of seconds."""
        return {
            name: {"seconds": round(part.seconds, 2), "waited": round(part.waited, 2)}
            for name, part in self.parts.items()
        }
