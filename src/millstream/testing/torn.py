"""A transaction that comes apart, as it may on a log that is not atomic."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.buffer.topics import DEAD, feature_topic, staging_topic
from millstream.errors import Fenced, LogError

Append = tuple[str, int, Batch, int | None]
Commit = tuple[str, str, int, int]
OURS = (feature_topic(""), staging_topic(""), DEAD)
"""What the topics begin with whose records say where they come from; producers get what they were acknowledged."""


@dataclass
class Faults:
    """What becomes of the transactions of one process.

    Args:
        chance: what it draws from.
        share: the share of transactions that come apart, from 0 to 1.
        late: what is still on its way.
    """

    chance: random.Random
    share: float
    late: list[Append | Commit] = field(default_factory=list)


class TornWork:
    """Gathers what a transaction is to do; at its end all of it happens, or some.

    Args:
        log: the log that holds the records.
        faults: what becomes of it.
    """

    def __init__(self, log: EmbeddedLog, faults: Faults) -> None:
        self._log, self._faults = log, faults
        self._appends: list[Append] = []
        self._commits: list[Commit] = []

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the number of its first record, if all goes well; see `Transaction.append`."""
        self._log.behind(topic, partition, 0)
        if batch.count < 1:
            return self._log.append(topic, partition, batch, arrival)  # which refuses it
        before = [one.count for at, number, one, _ in self._appends if (at, number) == (topic, partition)]
        self._appends.append((topic, partition, batch, arrival))
        return self._log.ends(topic)[partition][1] + sum(before)

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position, whatever it is by then; see `Transaction.commit`."""
        self._log.behind(topic, partition, 0)
        self._commits.append((consumer, topic, partition, position))

    def end(self, *, failed: bool = False) -> None:
        """Do what was gathered, or a part of it.

        Args:
            failed: whether the block has raised, so that what happens in spite of it is not what was wanted.

        Raises:
            Fenced: what was appended is there in part, or will be.
        """
        chance, ours = self._faults.chance, all(topic.startswith(OURS) for topic, *_ in self._appends)
        self._wake()
        if failed:
            if ours and chance.random() < self._faults.share:
                self._do(self._appends[: chance.randint(0, len(self._appends))])
        elif not (ours or self._commits) or chance.random() >= self._faults.share:
            self._do(self._appends, self._commits)
        elif self._appends and self._commits:  # nobody is told
            data = chance.random() < 0.5
            self._do(self._appends if data else [], [] if data else self._commits)
        elif self._commits:
            self._faults.late += self._commits if chance.random() < 0.5 else []
        else:
            self._come_apart()

    def _come_apart(self) -> None:
        """Some of the batches are there, others may come when their writer is long taken for dead."""
        done = self._faults.chance.randint(0, len(self._appends))
        self._do(self._appends[:done])
        if self._faults.chance.random() < 0.5:
            self._faults.late += [one for one in self._appends[done:] if one[0].startswith(feature_topic(""))]
        raise Fenced("Topic: another worker has taken over in the midst of a write.", "try again.")

    def _wake(self) -> None:
        """What is on its way may come now, in its order."""
        while self._faults.late and self._faults.chance.random() < 0.5:
            one = self._faults.late.pop(0)
            with suppress(LogError):  # its topic has been dropped
                self._do(*(([one], []) if isinstance(one[2], Batch) else ([], [one])))

    def _do(self, appends: list[Append], commits: list[Commit] | None = None) -> None:
        expected = [self._log.committed(consumer, topic)[at] for consumer, topic, at, _ in commits or []]
        with self._log.transaction() as work:
            for append in appends:
                work.append(*append)
            for (consumer, topic, partition, position), known in zip(commits or [], expected, strict=True):
                work.commit(consumer, topic, partition, known, position)
