"""What set-up compiles is all that a first event, request or training set runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
from tests.properties.worlds import BASE, MINUTE, Event, group_of, prepared

from millstream.fold import as_of, exact, fold, layout_of, merge, value
from millstream.fold.spans import _begin_of_session
from millstream.fold.states import States
from millstream.fold.views import Vector
from millstream.fold.warm import saying_when_compiling, warm

ROOT = Path(__file__).parents[3]
WINDOWS = (("1m", "0s", "_0"), ("1h", "1m", "_1"), (None, "0s", "_2"), ("2 events", "0s", "_3"))
EVENTS = [
    Event(k % 2, BASE + k * MINUTE, BASE + k * MINUTE, float(k), 1.0, "ab"[k % 2], k % 3 > 0, k) for k in range(12)
]


def compiled() -> dict[str, int]:
    """For how many types of arguments each kernel that Python calls is compiled in this process."""
    from millstream.fold import (
        decay_kernels,
        entry_history,
        entry_states,
        entry_windows,
        foremost_entries,
        history,
        kernels,
        lane_history,
        lift,
        stretches,
        timelines,
        views,
    )

    modules = (
        history, decay_kernels, entry_history, entry_states, entry_windows, foremost_entries, kernels, lane_history, lift,
        stretches, timelines, views,
    )  # fmt: skip
    return {
        f"{module.__name__}.{name}": len(kernel.signatures)
        for module in modules
        for name, kernel in vars(module).items()
        if hasattr(kernel, "signatures")
    }


def read_in_every_way(values: bool) -> None:
    """States as they were folded and as they are stored, one and many, now and in history."""
    group = group_of(WINDOWS, False, values=values)
    layout, batch = layout_of(group), prepared(group, EVENTS)
    states = fold(layout, batch)
    stored = States.from_bytes(states.to_bytes())
    for some in (states, stored, merge(layout, states, stored), States.from_bytes([None, b""])):
        value(layout, some, np.array([BASE, BASE + MINUTE]))
    for read in ([None, None], states.to_bytes()):
        Vector([layout]).read([read], np.array([BASE, BASE + MINUTE]))
    late = batch.arrivals[::-1].copy()
    fixed = np.array([BASE + 9 * MINUTE] * 3)
    fixed.flags.writeable = False
    for at in (fixed, fixed[:1], fixed[:0]):
        keys = list(batch.keys[:1]) * len(at)
        for sweep in (False, True):
            as_of(layout, batch, late, keys, at, at, sweep=sweep)
        exact(layout, batch, late, keys, at, at)


def test_nothing_is_compiled_after_set_up():
    """In a process of its own, as in this one other tests compile what they give the kernels by hand."""
    found = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr


def test_what_is_compiled_is_said_once_and_what_is_compiled_already_is_not():
    """A kernel without a cache of its own, so that it is compiled here whatever ran before."""
    said: list[str] = []
    kernel = numba.njit(_begin_of_session.py_func)
    with saying_when_compiling(said.append):
        assert kernel(np.arange(3), np.zeros(3), 9, 2, 1) == 0
        assert kernel(np.arange(3), np.zeros(3), 9.5, 2, 1) == 0
    assert len(said) == 1
    assert said[0].startswith("Compiling kernels")
    with saying_when_compiling(said.append):
        kernel(np.arange(3), np.zeros(3), 9, 2, 1)
        numba.njit(lambda x: x + 1)(1)  # no kernel of ours
    assert len(said) == 1


if __name__ == "__main__":
    warm()
    before = compiled()
    for values in (False, True):
        read_in_every_way(values)
    now = compiled()
    assert sum(before.values()) > 20, before
    assert now == before, {name: (before.get(name), count) for name, count in now.items() if before.get(name) != count}
