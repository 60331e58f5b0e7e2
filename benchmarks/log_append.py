"""Durable appends by 1, 8 and 32 producers, beside one synced LMDB commit for each append.

Fair: both put the same bytes into LMDB on the same disk, from threads of one process, and count an append only once it is
on disk. Ours stamps it, checks that its topic is there, gives it a position and a checksum, and shares the wait for the
disk among all who wait; the peer waits for the disk in each commit, as LMDB does.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from benchmarks.harness import Claim, Scale, in_turns
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock

PAYLOAD = b"x" * 400
PRODUCERS = (1, 8, 32)
APPENDS = 400


def run(scale: Scale) -> Iterator[Claim]:
    """Measure appends a second."""
    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "log", SimulatedClock(0), map_gib=1)
        log.create("events", 4)
        raw = lmdb.open(str(Path(folder) / "raw"), map_size=1 << 30)

        def ours(number: int) -> None:
            log.append("events", number % 4, Batch(PAYLOAD, "bytes", 1))

        def theirs(number: int) -> None:
            with raw.begin(write=True) as rows:
                rows.put(number.to_bytes(8, "big"), PAYLOAD)

        for producers in PRODUCERS:
            count = scale.of(APPENDS, producers)
            mine, peers = in_turns(
                lambda p=producers, n=count: _rate(ours, p, n),  # type: ignore[misc]
                lambda p=producers, n=count: _rate(theirs, p, n),  # type: ignore[misc]
                scale.repeats,
            )
            name = f"durable appends, {producers} producer{'s' if producers > 1 else ''}"
            yield Claim(name, "appends/s", mine, peers, "LMDB, one synced commit each", better="higher")
        log.close()
        raw.close()


def _rate(append: Callable[[int], None], producers: int, count: int) -> float:
    """Appends a second, all producers together."""
    each = max(1, count // producers)

    def produce(first: int) -> None:
        for number in range(first, first + each):
            append(number)

    threads = [threading.Thread(target=produce, args=(one * each,)) for one in range(producers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return producers * each / (time.perf_counter() - began)
