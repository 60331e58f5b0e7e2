"""Compile the kernels once, so that the first real event does not wait for them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def warm() -> None:
    """Run every kernel on a handful of events; results are cached on disk by Numba.

    Set-up calls this once; a process that finds the cache loads it in well under a second.
    """
    from millstream import Count, Entity, EventStream, First, Last, Max, Min, Std, StreamFeatureGroup, Sum, TimeSince
    from millstream.fold.layout import layout_of
    from millstream.fold.prepare import prepare
    from millstream.fold.states import as_of, fold, merge, value

    stream = EventStream("warm", time="at", schema={"k": "int64", "x": "float64", "s": "string", "at": "timestamp"})
    group = StreamFeatureGroup(
        "warm", entity=Entity("k", keys={"k": "int64"}), source=stream,
        features=[Count(over=["1m", "1h"]), Sum("x", over="1h"), Std("x", over="1h"), Min("x", over="1h"),
                  Max("x"), First("x"), Last("s"), Last("x", over="1h", delay="1m", name="y"), TimeSince()],
    )  # fmt: skip
    times = np.arange(8, dtype=np.int64) * 10_000_000
    table = pa.table({
        "k": np.arange(8) % 2, "x": np.arange(8.0), "s": ["a"] * 8, "at": pa.array(times, pa.timestamp("us", "UTC")),
        "_arrival": times, "_partition": np.zeros(8, np.int64), "_position": np.arange(8),
    })  # fmt: skip
    (prepared,) = prepare([group], stream, table)
    layout = layout_of(group)
    states = fold(layout, prepared)
    value(layout, merge(layout, states, states), times[:2])
    for sweep in (False, True):
        as_of(layout, prepared, prepared.times, prepared.keys, times[-2:], times[-2:], sweep=sweep)
