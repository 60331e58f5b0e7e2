"""Compile the kernels once, so that the first real event does not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pyarrow as pa


def warm(*parts: Literal["lanes", "entries"]) -> None:
    """Run every kernel on a handful of events; results are cached on disk by Numba.

    Set-up calls this once, for lanes, and that of the tests for entries too; a process that finds the cache loads it in
    well under a second.

    Args:
        parts: "lanes", what most aggregates are made of, or "entries", those that tell values apart or decay, and windows
            of events; both unless given.
    """
    from millstream import Entity, EventStream, StreamFeatureGroup
    from millstream.fold.layout import layout_of
    from millstream.fold.preparation import prepare
    from millstream.fold.requests import RequestRows

    stream = EventStream(
        "warm", time="at",
        schema={"k": "int64", "x": "float64", "n": "int64", "s": "string", "ok": "bool", "v": "list<float64>",
                "at": "timestamp"},
    )  # fmt: skip
    entity = Entity("k", keys={"k": "int64"})
    times = np.arange(8, dtype=np.int64) * 10_000_000
    numbers = np.arange(8)
    table = pa.table({
        "k": numbers % 2, "x": np.arange(8.0), "n": numbers, "s": ["a"] * 8, "ok": numbers > 0, "v": [[0.5]] * 8,
        "at": pa.array(times, pa.timestamp("us", "UTC")),
        "_arrival": times, "_partition": np.zeros(8, np.int64), "_position": numbers,
    })  # fmt: skip
    for part in parts or ("lanes", "entries"):
        features = _with_lanes() if part == "lanes" else _with_entries()
        group = StreamFeatureGroup("warm", entity=entity, source=stream, features=features)
        (prepared,) = prepare([group], stream, table)
        _run(layout_of(group), prepared, times)
    RequestRows([(group, {})]).added({}, times[:1])


@contextmanager
def saying_when_compiling(say: Callable[[str], None]) -> Iterator[None]:
    """Say so, once, if a kernel is compiled while the block runs, so that nobody waits for minutes in silence.

    Args:
        say: called with a sentence before the first kernel is compiled; what is found in the cache says nothing.
    """
    from numba.core import event

    class Compiling(event.Listener):  # type: ignore[misc]
        """Hears of each function that Numba compiles in this process."""

        told = False

        def on_start(self, event: Any) -> None:
            if not self.told and event.data["dispatcher"].py_func.__module__.startswith(__package__ + "."):
                self.told = True
                say("Compiling kernels that this machine has not run before; they are kept. It takes a minute or two.")

        def on_end(self, event: Any) -> None:
            """What was compiled says nothing."""

    with event.install_listener("numba:compile", Compiling()):
        yield


def _with_lanes() -> list[Any]:
    from millstream import (
        ArgMax,
        Correlation,
        Count,
        First,
        GeometricMean,
        Last,
        Max,
        Min,
        Skewness,
        Std,
        Sum,
        TimeSince,
        VectorMean,
    )

    return [
        Count(over=["1m", "1h"]), Sum("x", over="1h"), Std("x", over="1h"), Min("x", over="1h"), Max("x"), First("x"),
        Last("s"), Last("x", over="1h", delay="1m", name="y"), TimeSince(), Skewness("x"), GeometricMean("x"),
        Correlation("x", "n"), Max("n"), Min("s", where="ok"), Last("ok"), Max("at"), ArgMax("s", by="x"),
        VectorMean("v", dim=1),
    ]  # fmt: skip


def _with_entries() -> list[Any]:
    from millstream import (
        By,
        Count,
        DecayedMean,
        DistinctCount,
        Entropy,
        Lag,
        LastDistinctK,
        LastK,
        Median,
        Mode,
        Std,
        Sum,
        TopK,
    )

    return [
        Count(),
        DistinctCount("s"),
        DistinctCount("x"),
        Median("x"),
        Entropy("s"),
        Mode("x"),
        Lag("x"),
        Lag("s", 2),
        LastK("s"),
        Sum("x", over="2 events"),
        LastK("s", over="2 events"),
        TopK("s"),
        DecayedMean("x", half_life="1h"),
        LastDistinctK("s"),
        By("s", Std("x")),
        LastK(["s", "x"]),
    ]


def _run(layout: Any, prepared: Any, times: np.ndarray) -> None:
    from millstream.fold.states import as_of, exact, fold, merge, value
    from millstream.fold.views import Vector

    states = fold(layout, prepared)
    value(layout, merge(layout, states, states), times[:2])
    Vector([layout]).read([states.to_bytes()], times[-2:])
    asked = prepared.times, prepared.keys, times[-2:], times[-2:]
    for sweep in (False, True):
        as_of(layout, prepared, *asked, sweep=sweep)
    exact(layout, prepared, *asked)
