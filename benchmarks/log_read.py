"""Events per second out of the log and decoded, each sent alone, beside the same events sent by the thousand.

Fair: the same lines of JSON in one log, read 50,000 at once as computing does, and decoded into the same table. What is
sent alone has a row of its own, with a head, a checksum and a seal, each of which is looked at in every read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, payments
from millstream.buffer.codec.events import decode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.buffer.log import Batch
from millstream.clock import SimulatedClock

AT_ONCE = 50_000


def run(scale: Scale) -> Iterator[Claim]:
    """Reading alone, and with what computing does first: decoding."""
    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "log", SimulatedClock(NOW), map_gib=2, fsync=False)
        rows = scale.of(200_000, least=1_000)
        events = payments(rows, 1_000, days=0.25).to_pylist()
        lines = [msgspec.json.encode(event) for event in events]
        for topic, size in (("alone", 1), ("together", 1_000)):
            log.create(topic, 1)
            with log.transaction() as work:
                for first in range(0, rows, size):
                    some = lines[first : first + size]
                    work.append(topic, 0, Batch(b"\n".join(some), "json", len(some)))
        for decoded in (False, True):
            found = in_turns(_rate(log, "alone", decoded), _rate(log, "together", decoded), scale.repeats)
            name = "events of a row each, read" + (" and decoded" if decoded else "")
            yield Claim(name, "events/s", *found, "the same, a thousand a batch", "higher", 0.5 if decoded else None)
        log.close()


def _rate(log: EmbeddedLog, topic: str, decoded: bool) -> Callable[[], float]:
    end = log.ends(topic)[0][1]

    def read() -> None:
        position = 0
        while position < end:
            found = log.read(topic, 0, position, AT_ONCE)
            if decoded:
                decode(PAYMENTS, [found])
            position = found.next

    return lambda: end / seconds(read)
