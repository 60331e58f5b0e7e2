"""Time of stream computing for four groups of one stream (user, device, card, user and payee), beside one of them alone.

Fair: both compute the same events from the same durable log in this process, with the same features in each group; each
event is in every group, and a pair of user and payee is seen a few times only, so that the fourth group has the most keys
and deltas to write. All groups share what can be shared: reading, decoding, validation, SQL, and what is made of a column.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import millstream as ms
from benchmarks.computing import Computing
from benchmarks.harness import Claim, Scale, in_turns
from benchmarks.world import USER, WIDE, wide_payments
from millstream.definitions import EventStream, StreamFeatureGroup

DEVICE = ms.Entity("device", keys={"device_id": "string"})
CARD = ms.Entity("card", keys={"card_id": "int64"})
PAIR = ms.Entity("pair", keys={"user_id": "int64", "payee_id": "int64"})
STREAM = ms.EventStream("wide", time="paid_at", schema=WIDE)


def run(scale: Scale) -> Iterator[Claim]:
    """Arrow and JSON events of a thousand users; of ten thousand for information."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for users, encoding, target in ((1_000, "arrow", 0.5), (1_000, "json", 0.5), (10_000, "arrow", None)):
            events = wide_payments(scale.of(200_000, least=2_000), scale.of(users, least=50))
            computing = Computing(folder / f"{encoding}{users}", events, WIDE)
            stack.callback(computing.close)
            four = (USER, DEVICE, CARD, PAIR)
            found = in_turns(_taken(computing, encoding, four), _taken(computing, encoding, (USER,)), scale.repeats)
            name = f"four groups of {encoding} events, {users:,} users"
            yield Claim(name, "s", *found, "one group", "lower", target)


def _taken(computing: Computing, encoding: str, entities: tuple[ms.Entity, ...]) -> Callable[[], float]:
    return lambda: computing.seconds(STREAM, encoding, lambda source: [_velocity(source, one) for one in entities])


def _velocity(source: EventStream, entity: ms.Entity) -> StreamFeatureGroup:
    over = ["1h", "24h"]
    features = [
        ms.Count(over=over), ms.Sum("amount", over=over), ms.Mean("amount", over=over), ms.Max("amount", over=over),
        ms.Count(name="declined", where="status = 'declined'", over=over),
    ]  # fmt: skip
    name = f"{entity.name}_{source.name}"
    return ms.StreamFeatureGroup(name, entity=entity, source=source, where="amount > 0", features=features)
