"""Flips one bit of a log's file after the other and reports how a process of its own fares that reads all of it.

Run as a program: a folder with a log, how many flips for each page, and a seed; prints one word for each flip.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path

from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import MillstreamError

Content = dict[str, object]


def content(folder: Path) -> Content:
    """All that a log says."""
    log = EmbeddedLog(folder, SimulatedClock(0), 1)
    found: Content = {"topics": log.topics()}
    for topic in log.topics():
        found[topic] = log.ends(topic), log.committed("reader", topic)
        for partition, (first, following) in enumerate(log.ends(topic)):
            found[f"{topic}/{partition}"] = log.read(topic, partition, first, following - first + 1)
    log.close()
    return found


def fares(folder: Path, expected: Content) -> str:
    """What comes of reading a damaged log in a forked process."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        code = 3
        try:
            code = 0 if content(folder) == expected else 1
        except MillstreamError as error:
            code = 2 if str(folder) in error.message and error.hint else 4
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "endless" if os.WTERMSIG(status) == signal.SIGALRM else "crashed"
    return ("right", "wrong", "refused", "foreign", "unnamed")[os.WEXITSTATUS(status)]


def main(folder: Path, each: int, seed: int) -> None:
    chance = random.Random(seed)
    whole = (folder / "data.mdb").read_bytes()
    expected = content(folder)
    place = folder.with_name("damaged")
    for page in range(len(whole) // 4096):
        for _ in range(each):
            at, bit = (
                page * 4096 + chance.randrange(int(sys.argv[4]) if len(sys.argv) > 4 else 4096),
                chance.randrange(8),
            )
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (place / "data.mdb").write_bytes(damaged)
            print(fares(place, expected), page, at % 4096, bit, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
