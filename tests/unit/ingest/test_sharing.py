"""Several processes ingest: they share the shards, and one that is killed, or stopped and goes on, changes no value."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.commands import Program
from tests.unit.computing.chain import PAYMENTS, VELOCITY, Chain, expected_states, payments, version_of

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.topics import feature_topic
from millstream.testing.adversarial_online import AdversarialOnlineStore

SHARDS = 4
TOPIC = feature_topic("velocity@1")
INGESTING = """
import os, signal, sys, time
from pathlib import Path
from tests.unit.ingest.test_sharing import TOPIC, chain_in
from millstream.buffer.topics import INGESTION

chain = chain_in(Path(sys.argv[1]), pieces=sys.argv[3] == "pieces")
worker = chain.log.worker(INGESTION, [TOPIC], owner=sys.argv[2])
ingester = chain.ingester(worker=worker)
write, stops, pieces = chain.online.write, [sys.argv[4] == "stops"], sys.argv[3] == "pieces"

def stop():
    if stops.pop() if stops else False:
        os.kill(os.getpid(), signal.SIGSTOP)

def late(*what):
    if pieces:
        chain.online.meanwhile = stop  # after its first piece
    else:
        stop()
    return write(*what)

chain.online.write = late
shared = False
while True:
    done = ingester.step()
    if not shared and len(worker.assigned().get(TOPIC, ())) == 2:
        shared = True
        print("shares", flush=True)
    if done.records or done.fenced:
        print("fenced" if done.fenced else "did", flush=True)
    time.sleep(0.01)
"""


def chain_in(folder: Path, *, pieces: bool) -> Chain:
    """The chain that all processes share; its store takes a write at once, or in pieces and without any lock."""
    chain = Chain(folder, versions=(version_of(VELOCITY, shards=SHARDS),))
    chain.log.close()
    chain.log = EmbeddedLog(folder / "log", chain.clock, map_gib=1, lease=1.0)
    if pieces:
        chain.online = AdversarialOnlineStore(chain.online, os.getpid())  # type: ignore[assignment]
    return chain


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def started(owner: str, kind: str = "whole", stops: str = "goes on") -> Program:
        programs.append(Program(INGESTING, str(tmp_path), owner, kind, stops))
        return programs[-1]

    yield started
    for program in programs:
        program.kill()


def until(found: Callable[[], Any], what: str, seconds: float = 60) -> float:
    """Wait for something; how long it took."""
    begun = time.monotonic()
    while not found():
        assert time.monotonic() - begun < seconds, what
        time.sleep(0.02)
    return time.monotonic() - begun


def await_share(program: Program) -> None:
    """Wait until a process shares the shards; whichever is there first may have had all of them for a moment."""
    while (line := program.stdout.readline()) != "shares\n":
        assert line


def taken(chain: Chain) -> list[bool]:
    """Of each shard whether the store has all that there is of it."""
    facts = chain.online.facts({"velocity@1": SHARDS})["velocity@1"]
    return [getattr(fact, "position", 0) == end for fact, (_, end) in zip(facts, chain.log.ends(TOPIC), strict=True)]


def feed(chain: Chain, number: int) -> None:
    chain.send(PAYMENTS, payments(60, number, first=60 * number))
    with chain.computer() as computer:
        computer.step()


def right(chain: Chain, kind: str) -> bool:
    """Whether the store holds what one fold of all events gives."""
    if kind == "pieces":
        chain.online = AdversarialOnlineStore(chain.online, 1)  # type: ignore[assignment,arg-type]
    return chain.states(chain.versions[0]) == expected_states(chain, chain.versions[0])


@pytest.mark.parametrize("kind", ["whole", "pieces"])
def test_the_shards_of_a_killed_process_go_to_the_others(tmp_path: Path, start: Any, kind: str) -> None:
    chain = chain_in(tmp_path, pieces=False)
    chain.start()
    killed, other = start("one", kind), start("two", kind)
    for program in (killed, other):
        await_share(program)
    for number in range(6):
        feed(chain, number)
    assert killed.stdout.readline()
    killed.kill()
    feed(chain, 6)
    waited = until(lambda: all(taken(chain)), "the other has taken all")
    assert kind == "pieces" or waited < 10  # a second or two, on a machine that does nothing else
    assert other.process.poll() is None
    assert right(chain, kind)


@pytest.mark.parametrize("kind", ["whole", "pieces"])
def test_one_that_was_stopped_in_a_write_and_goes_on_is_fenced(tmp_path: Path, start: Any, kind: str) -> None:
    chain = chain_in(tmp_path, pieces=False)
    chain.start()
    feed(chain, 0)
    stopped = start("one", kind, "stops")
    shown = psutil.Process(stopped.process.pid)
    until(lambda: shown.status() == psutil.STATUS_STOPPED, "it has stopped")
    start("two", kind)
    until(lambda: all(taken(chain)), "the other has taken all")
    feed(chain, 1)
    until(lambda: all(taken(chain)), "and what came then")
    stopped.process.send_signal(signal.SIGCONT)
    until(lambda: stopped.stdout.readline() == "fenced\n", "it is fenced")
    feed(chain, 2)
    until(lambda: all(taken(chain)), "both go on")
    assert right(chain, kind)
