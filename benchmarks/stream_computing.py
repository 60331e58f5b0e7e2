"""Events per second through stream computing, beside bytewax folding the same events by event-time windows.

Fair: one process each. Ours reads a durable log and ends each micro-batch with a durable transaction of deltas and
positions, for eight features over two windows of every user; bytewax goes from memory to memory, keeps nothing, and folds
a count, a sum and a maximum over one window. Both take 50,000 events at a time, and a thousand users, which suits bytewax:
it looks at every key it knows after each batch. JSON is decoded by the same library on both sides; where ours gets Arrow,
bytewax gets finished objects.
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
from benchmarks.world import PAYMENTS, SCHEMA, USER, payments
from millstream.definitions import EventStream, StreamFeatureGroup

UNIQUE = ms.EventStream("unique", time="paid_at", schema=SCHEMA, deduplicate="payment_id", within="1h")
#: By number of users: the stream, its encoding, the peer's windows, and the ratio that is claimed.
LINES: dict[int, list[tuple[EventStream, str, str, float | None]]] = {
    1_000: [
        (PAYMENTS, "arrow", "tumbling", 2.0),
        (PAYMENTS, "json", "tumbling", 2.0),
        (PAYMENTS, "arrow", "sliding", None),
        (UNIQUE, "arrow", "tumbling", None),
        (UNIQUE, "json", "tumbling", None),
    ],
    10_000: [(PAYMENTS, "arrow", "tumbling", None)],
}


def run(scale: Scale) -> Iterator[Claim]:
    """Arrow and JSON events against a tumbling window; sliding ones, repeats and more users for information."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bytewax = stack.enter_context(peer("bytewax")) if scale.foreign else None
        for users in (1_000, 10_000):
            events = payments(scale.of(400_000, least=2_000), scale.of(users, least=50), days=0.25)
            computing = Computing(folder / str(users), events, SCHEMA)
            stack.callback(computing.close)
            if bytewax:
                open_events(bytewax, folder / "events.json", events)
            for stream, encoding, window, target in LINES[users]:
                theirs = _peer(bytewax, window, encoding == "arrow", len(events)) if bytewax else None
                found = in_turns(_ours(computing, stream, encoding, len(events)), theirs, scale.repeats)
                name = f"{encoding} events of {users:,} users" + (", repeats left out" if stream.deduplicate else "")
                yield Claim(name, "events/s", *found, f"bytewax, {window} 1 h", "higher", target)


def _spending(source: EventStream) -> list[StreamFeatureGroup]:
    over = ["1h", "24h"]
    features = [
        ms.Count(over=over),
        ms.Sum("amount", over=over),
        ms.Mean("amount", over=over),
        ms.Max("amount", over=over),
    ]
    return [ms.StreamFeatureGroup(f"spending_{source.name}", entity=USER, source=source, features=features)]


def _ours(computing: Computing, stream: EventStream, encoding: str, rows: int) -> Callable[[], float]:
    return lambda: rows / computing.seconds(stream, encoding, _spending)


def _peer(bytewax: Peer, window: str, decoded: bool, rows: int) -> Callable[[], float]:
    def measure() -> float:
        found = bytewax.ask(do="run", window=window, decoded=decoded)
        assert found["counted"] >= rows, f"bytewax counted {found['counted']} of {rows} events"
        return float(rows / found["wall"])

    return measure
