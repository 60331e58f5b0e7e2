"""What is worked out of folded values as they are read: ratios, differences and z-scores.

Not in the kernels: it reads rounded values of whichever kind, row for row, and holds for states and history alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millstream.definitions.whole_numbers import floats
from millstream.fold.layout import Layout
from millstream.fold.probes import Probes


def combined(layout: Layout, outputs: Mapping[str, np.ndarray], probes: Probes | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a group, from what the kernels give by its layout.

    Args:
        layout: the group's layout.
        outputs: the values of each of the layout's `outputs` by its name, one for each row.
        probes: what requests have of the layout's, a row each; nulls unless given.
    """
    found = dict(outputs)
    with np.errstate(all="ignore"):
        for one in layout.combinations:
            a, b = floats(outputs[one.a]), floats(outputs[one.b])
            if one.request is not None:
                place = layout.probes.index(one.request)
                asked = np.full(len(a), np.nan) if probes is None else probes.numbers[:, place]
                value = _divided(asked - a, b)
            else:
                value = _divided(a, b) if one.kind == "ratio" else a - b
            found[one.column] = np.where(np.isfinite(value), value + 0.0, np.nan)
    return {name: found[name] for name in layout.columns}


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.divide(a, b, out=np.full(len(a), np.nan), where=b != 0)
    return out
