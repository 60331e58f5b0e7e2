"""Events per second through stream computing of distinct counts, quantiles, last values and top values, beside bytewax.

Fair: one process each. Ours reads a durable log and ends each micro-batch with a durable transaction, for `DistinctCount`,
`Quantile`, `LastK` and `TopK` over three windows of every user, whose tails move in hops and whose values are exact while
they are few; bytewax goes from finished objects in memory to memory, keeps nothing, and folds an HLL and a KLL sketch of
Apache DataSketches, a deque and a dict over tumbling windows of the same lengths. Both take 50,000 events at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import millstream as ms
from benchmarks.computing import Computing
from benchmarks.harness import Claim, Scale, in_turns
from benchmarks.peers import Peer, open_events, peer
from benchmarks.world import USER, WIDE, wide_payments
from millstream.definitions import EventStream, StreamFeatureGroup

STREAM = ms.EventStream("wide", time="paid_at", schema=WIDE)
OVER = ["1h", "24h", "7d"]
HOURS = [1, 24, 168]


def run(scale: Scale) -> Iterator[Claim]:
    """Arrow events of a thousand users."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bytewax = stack.enter_context(peer("bytewax")) if scale.foreign else None
        events = wide_payments(scale.of(200_000, least=2_000), scale.of(1_000, least=50))
        computing = Computing(folder / "ours", events, WIDE)
        stack.callback(computing.close)
        if bytewax:
            open_events(bytewax, folder / "events.json", events)
        theirs = _peer(bytewax, len(events)) if bytewax else None
        found = in_turns(_ours(computing, len(events)), theirs, scale.repeats)
        yield Claim("four aggregates x 3 windows", "events/s", *found, "bytewax with DataSketches", "higher", 3.0)


def _ours(computing: Computing, rows: int) -> Callable[[], float]:
    return lambda: rows / computing.seconds(STREAM, "arrow", _values)


def _values(source: EventStream) -> list[StreamFeatureGroup]:
    features = [
        ms.DistinctCount("payee_id", over=OVER), ms.Quantile("amount", q=0.95, over=OVER),
        ms.LastK("amount", k=5, over=OVER), ms.TopK("payee_id", k=3, over=OVER),
    ]  # fmt: skip
    return [ms.StreamFeatureGroup(f"values_{source.name}", entity=USER, source=source, features=features)]


def _peer(bytewax: Peer, rows: int) -> Callable[[], float]:
    def measure() -> float:
        found = bytewax.ask(do="sketch", hours=HOURS)
        assert found["counted"] >= rows, f"bytewax counted {found['counted']} of {rows} events"
        return float(rows / found["wall"])

    return measure
