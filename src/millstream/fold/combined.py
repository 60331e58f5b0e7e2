"""What is worked out of folded values as they are read: ratios, differences and z-scores.

Not in the kernels: it reads rounded values of whichever kind, row for row, and holds for states and history alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from millstream.definitions.whole_numbers import floats
from millstream.fold.layout import Layout


def combined(
    layout: Layout, outputs: Mapping[str, np.ndarray], probes: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the columns of a group, from what the kernels give by its layout.

    `probes` are the fields of the request in the order of the layout's, one column each; nulls unless given.
    """
    found = dict(outputs)
    with np.errstate(all="ignore"):
        for one in layout.combinations:
            a, b = floats(outputs[one.a]), floats(outputs[one.b])
            if one.request is not None:
                asked = np.full(len(a), np.nan) if probes is None else probes[:, layout.probes.index(one.request)]
                value = _divided(asked - a, b)
            else:
                value = _divided(a, b) if one.kind == "ratio" else a - b
            found[one.column] = np.where(np.isfinite(value), value + 0.0, np.nan)
    return {name: found[name] for name in layout.columns}


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.divide(a, b, out=np.full(len(a), np.nan), where=b != 0)
    return out


def probes_of(layout: Layout, fields: Mapping[str, np.ndarray], rows: int) -> np.ndarray | None:
    """Return the fields of requests that a layout reads, as `value` and `as_of` take them; one that is not given is null.

    Give those alone that the view reads the group with: another one of such a name may be of any type.
    """
    if not fields or not layout.probes:
        return None
    nulls = np.full(rows, np.nan)
    return np.column_stack([floats(fields[name]) if name in fields else nulls for name in layout.probes])
