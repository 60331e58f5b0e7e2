"""One layer in a process of its own, for the tests that kill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.computing.chain import ACTIVITY, LOGINS, PAYMENTS, VELOCITY, Chain, LogHistory, version_of

from millstream.ingest.backfill import fold_history

VERSIONS = (version_of(VELOCITY), version_of(ACTIVITY, shards=3))


def chain_in(folder: str) -> Chain:
    """The chain that all processes share."""
    return Chain(Path(folder), streams=(PAYMENTS, LOGINS), versions=VERSIONS)


class Silent:
    """A registry nobody asks."""

    def set_state(self, gv: str, state: str) -> None: ...

    def go_live(self, gv: str) -> bool: ...


def compute(folder: str, ready: Any) -> None:
    """Compute small micro-batches for ever."""
    computer = chain_in(folder).computer(micro_batch=40)
    while True:
        if computer.step().records:
            ready.set()


def ingest(folder: str, ready: Any) -> None:
    """Ingest for ever."""
    ingester = chain_in(folder).ingester()
    while True:
        if ingester.step().records:
            ready.set()


def fill(folder: str, ready: Any) -> None:
    """Backfill one version after the other, in small chunks."""
    chain = chain_in(folder)
    for version in VERSIONS:
        fold_history(
            version, LogHistory(chain.log), chain.online, chain.log, chain.marks, Silent(), chain.clock,
            progress=lambda done, total: ready.set(), rows=25,
        )  # fmt: skip
