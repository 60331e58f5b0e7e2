"""What decays, of states or of history, written beside what other lanes give; `decay_layout` says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from millstream.definitions.windows import default_hop
from millstream.fold import decay_kernels
from millstream.fold.decay_layout import DecayLayout, halvings
from millstream.fold.past import Past

if TYPE_CHECKING:
    from millstream.fold.preparation import Prepared


def lift_decayed(times: np.ndarray, numbers: np.ndarray, half_life: int, out: np.ndarray, offset: int) -> None:
    """Write what each event adds to its tile, as three limbs.

    Args:
        times: the times of the events (µs), int64, shape (events,).
        numbers: what of each decays, float64; NaN adds nothing.
        half_life: the half-life (µs), which is how long a tile is.
        out: the lanes of the events, int64, shape (events, lanes), changed in place.
        offset: the lane of `out` at which the limbs begin.
    """
    hop = default_hop(half_life)
    until_end = (times // half_life + 1) * half_life - times // hop * hop
    _, high, low = halvings(until_end, half_life, hop)
    decay_kernels.lift_decayed(numbers, high, low, out, offset)


def decayed_of_states(
    decay: DecayLayout,
    data: np.ndarray,
    offsets: np.ndarray,
    at: np.ndarray,
    requests: np.ndarray,
    numbers: np.ndarray,
) -> None:
    """Write what decays of states at instants.

    Args:
        decay: what of the group decays.
        data: the states, one after another, int64.
        offsets: where each begins in `data`, and where the last ends, int64, shape (states + 1,).
        at: the instant of each (µs), int64, shape (states,).
        requests: the lanes of one more event at each instant, one after another, int64, or none at all.
        numbers: the output's numbers, float64, a row for each state, changed in place.
    """
    decay.write(decay_kernels.value(data, offsets, at, requests, decay.size, decay.totals), at, numbers)


@dataclass(frozen=True, eq=False)
class DecayedHistory:
    """The events of history, and the (key, instant) rows that are asked of them, with lanes to add to each, or none."""

    decay: DecayLayout
    events: Prepared
    past: Past
    requests: np.ndarray

    def by_rule(self, numbers: np.ndarray) -> None:
        """Write what decays by the rule itself, every event of a key being looked at for every row."""
        self._write(numbers, True)

    def sliding(self, numbers: np.ndarray) -> None:
        """Write what `by_rule` does, tiles being filled and left along a key's events."""
        self._write(numbers, False)

    def _write(self, numbers: np.ndarray, by_rule: bool) -> None:
        lines, lanes = self.past.lines, self.events.lanes.reshape(-1)
        found = np.empty((len(self.decay.totals), len(self.past.at)))
        self.past.in_shares(
            lambda first, last: decay_kernels.as_of(
                lines, lanes, self.decay.size, self.requests, self.decay.totals, by_rule, first, last, found
            )
        )
        self.decay.write(found, self.past.at, numbers)
