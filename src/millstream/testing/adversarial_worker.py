"""A worker that keeps the text of its protocol and nothing more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from millstream.buffer.log import Batch, Transaction
from millstream.buffer.worker import Owned, Worker
from millstream.errors import Fenced

LOST, LATE, IN_THE_MIDST = 0.2, 0.2, 0.1
"""The shares of calls that say nothing of what is owned, or what was so before; of transactions whose owner is gone."""
_EPOCHS = 1 << 20


class AdversarialWorker:
    """A worker whose ownership is lost at any time; `AdversarialLog` makes it, or what knows who else there is.

    Now and then it owns less than it might, and gets it back under a new epoch; it hears late of what went to others, so
    that two believe that they own a partition; it has lost one in the midst of a batch. On an atomic log what it does
    then does not happen. On any other nothing keeps it from it.

    Args:
        worker: the worker that it would be.
        chance: what it draws from.
        transaction: opens a transaction: of the log where that is not atomic, else around one of the worker.
        atomic: whether the log is.
    """

    def __init__(
        self,
        worker: Worker,
        chance: random.Random,
        transaction: Callable[..., AbstractContextManager[Transaction]],
        *,
        atomic: bool,
    ) -> None:
        self._worker, self._chance, self._transaction, self._atomic = worker, chance, transaction, atomic
        self._told: dict[str, dict[int, int]] = {}
        self._times: Counter[tuple[str, int]] = Counter()

    def assigned(self) -> Owned:
        """Return some of what it owns, or what it once owned."""
        owned, drawn = self._worker.assigned(), self._chance.random()
        if self._told and drawn < LATE:
            return self._told
        told: dict[str, dict[int, int]] = {}
        for topic, row in owned.items():
            for partition, epoch in row.items():
                if drawn < LATE + LOST and self._chance.random() < 0.5:
                    self._times[topic, partition] += 1
                else:
                    told.setdefault(topic, {})[partition] = epoch * _EPOCHS + self._times[topic, partition]
        self._told = told
        return told

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction, which may turn out not to be one of an owner."""
        if not self._atomic:
            with self._transaction() as work:
                yield work
            return
        with self._transaction(self._worker.transaction()) as work:
            yield _Told(work, self._told)
            if self._chance.random() < IN_THE_MIDST:
                raise Fenced("Worker: its partitions have gone to another in the midst of a batch.", "ask again.")

    def close(self) -> None:
        """Give up all partitions."""
        self._worker.close()


class _Told:
    """A transaction of a worker that has been told what it owns."""

    def __init__(self, work: Transaction, told: Owned) -> None:
        self._work, self._owned = work, told

    def append(self, topic: str, partition: int, batch: Batch, arrival: int | None = None) -> int:
        """Append a batch and return the position of its first record."""
        return self._work.append(topic, partition, batch, arrival)

    def commit(self, consumer: str, topic: str, partition: int, expected: int | None, position: int) -> None:
        """Move a consumer's position, where the worker owns it as it was told."""
        if partition not in self._owned.get(topic, {}):
            raise Fenced(f"Worker: topic '{topic}', partition {partition}, is another's.", "ask again.")
        self._work.commit(consumer, topic, partition, expected, position)
