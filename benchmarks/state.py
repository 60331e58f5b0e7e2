"""What a key costs: bytes of state, and the CPU of reading it; for information, without a peer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import NOW, PAYMENTS, arrived, payments, serving_groups
from millstream.fold import fold, layout_of, prepare, value


def run(scale: Scale) -> Iterator[Claim]:
    """Each of the eight groups, after thirty days of a hundred payments a user."""
    users = scale.of(2_000, least=20)
    events = arrived(payments(100 * users, users, days=30.0))
    groups = serving_groups()
    for group, prepared in zip(groups, prepare(groups, PAYMENTS, events), strict=True):
        layout = layout_of(group)
        states = fold(layout, prepared)
        at = np.full(len(states), NOW, np.int64)

        def read(layout=layout, states=states, at=at) -> float:  # type: ignore[no-untyped-def]
            return seconds(lambda: value(layout, states, at)) / len(states) * 1e6

        ours, _ = in_turns(read, None, scale.repeats)
        used, most = states.data.nbytes / len(states), layout.state_bytes_max
        note = f"{used:,.0f} bytes a key, at most {most:,}; {len(layout.columns)} features"
        yield Claim(f"reading {group.name}", "µs/key", ours, note=note)
