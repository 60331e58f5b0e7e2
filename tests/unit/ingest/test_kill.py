"""Real processes, killed with SIGKILL at any moment: nothing is lost and nothing counts twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.computing.chain import LOGINS, PAYMENTS, Chain, LogHistory, expected_states, payments
from tests.unit.ingest.worker import VERSIONS, Silent, chain_in, compute, fill, ingest

from millstream.ingest.backfill import fold_history

context = multiprocessing.get_context("forkserver")


class Doomed:
    """A process that is killed some time after its first work, then started again."""

    def __init__(self, work: Callable[[str, Any], None], folder: Path) -> None:
        self._work, self._folder = work, str(folder)
        self.start()

    def start(self) -> None:
        self.ready = context.Event()
        self.process = context.Process(target=self._work, args=(self._folder, self.ready), daemon=True)
        self.process.start()

    def kill(self) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def send(chain: Chain, number: int) -> None:
    chain.send(PAYMENTS, payments(60, number, first=60 * number))
    chain.send(LOGINS, [{k: v for k, v in row.items() if k != "id"} for row in payments(20, number)])


def check(chain: Chain) -> None:
    for version in VERSIONS:
        assert chain.states(version) == expected_states(chain, version)


def test_killing_computing_and_ingestion_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chain, dice = chain_in(str(tmp_path)), random.Random(4)
    chain.start("zero")
    send(chain, 0)
    layers = [Doomed(compute, tmp_path), Doomed(ingest, tmp_path)]
    for number in range(1, 13):
        send(chain, number)
        layer = dice.choice(layers)
        assert layer.ready.wait(60)
        send(chain, 100 + number)
        time.sleep(dice.uniform(0, 0.03))
        layer.kill()
        layer.start()
    for layer in layers:
        layer.kill()
    chain.drain()
    check(chain)


def test_killing_a_backfill_while_the_layers_go_on_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chain, dice = chain_in(str(tmp_path)), random.Random(5)
    for number in range(6):
        send(chain, number)
    chain.start("end")
    layers = [Doomed(compute, tmp_path), Doomed(ingest, tmp_path)]
    for number in range(6):
        filler = Doomed(fill, tmp_path)
        send(chain, 10 + number)
        filler.ready.wait(1)
        time.sleep(dice.uniform(0, 0.04 * number))
        filler.kill()
    for layer in layers:
        layer.kill()
    for version in VERSIONS:
        fold_history(version, LogHistory(chain.log), chain.online, chain.log, chain.marks, Silent(), chain.clock)
    chain.drain()
    check(chain)
