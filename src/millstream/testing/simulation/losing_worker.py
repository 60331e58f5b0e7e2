"""A worker of a simulated process: all partitions are its own, were it not told otherwise at any time."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from random import Random
from typing import Any

from millstream.buffer.log import Transaction
from millstream.buffer.worker import EveryPartition, Owned
from millstream.testing.adversarial_worker import AdversarialWorker


class LosingWorker:
    """A worker that loses some or all of its partitions at any time, and gets them back under another epoch.

    Whether another has them meanwhile is the simulation's to say: a second process believes to own the same.

    Args:
        log: the adversarial log.
        topics: what it reads.
        seed: what it draws from.

    Attributes:
        lacking: whether it was told of less than there is, since that was last set to False.
    """

    def __init__(self, log: Any, topics: Iterable[str], seed: int) -> None:
        self._every = EveryPartition(log, topics)
        opened = _as_it_is if log.atomic else log.transaction
        self._worker = AdversarialWorker(self._every, Random(f"ownership of {seed}"), opened, atomic=log.atomic)
        self.lacking = False

    def assigned(self) -> Owned:
        """Return what it is told to own."""
        told = self._worker.assigned()
        self.lacking |= any(len(row) > len(told.get(topic, ())) for topic, row in self._every.assigned().items())
        return told

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction, which may turn out not to be one of an owner."""
        return self._worker.transaction()

    def close(self) -> None:
        """There is nothing to give up."""


def _as_it_is(transaction: AbstractContextManager[Transaction]) -> AbstractContextManager[Transaction]:
    return transaction
