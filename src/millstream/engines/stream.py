"""What runs group versions: from their start markers in the streams they read, into their feature topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """What one step did.

    Args:
        records: records read, each counted once however many group versions took it.
        dead: dead letters written.
        skipped: by reason, what did not count, summed over group versions.
        keys: states written to the feature topics.
        fenced: micro-batches discarded because another worker had gone on.
        lag: about how many records the hindmost reader of each stream has still before it; 0 when there are none.
    """

    records: int = 0
    dead: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    keys: int = 0
    fenced: int = 0
    lag: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            records=self.records + other.records,
            dead=self.dead + other.dead,
            skipped=dict(Counter(self.skipped) + Counter(other.skipped)),
            keys=self.keys + other.keys,
            fenced=self.fenced + other.fenced,
            lag=self.lag + other.lag,
        )


class StreamEngine(Protocol):
    """Runs the group versions of a project that have been started.

    It is made anew when definitions have changed, with the versions that are then in use. Each version begins at its
    start markers and is folded exactly once into its own feature topic, whose partitions and records are those of
    every engine, so that ingestion never knows which engine has written them. What an engine cannot compute it refuses
    at `plan`.
    """

    def step(self) -> Progress:
        """Go on until there is something to tell, at most for about one micro-batch of every stream, durably.

        Called again and again by one thread; an engine that runs elsewhere says here what it has done since.

        Raises:
            MillstreamError: what it cannot go on from; whoever calls waits, and calls again.
        """
        ...

    def close(self) -> None:
        """Let go of what this process holds; nothing that has been computed is lost, and nothing is asked after it."""
        ...
