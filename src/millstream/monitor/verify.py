"""Verify: every served value recomputed from history, and held to be the same bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from millstream.monitor.replay import Columns, Pasts, Replay, column_values, differs

if TYPE_CHECKING:
    import pyarrow as pa

    from millstream.definitions import FeatureView

#: How many mismatches a report shows in full.
SHOWN = 10


@dataclass(frozen=True)
class Mismatch:
    """One served value that history does not give."""

    request_id: str
    column: str
    served: Any
    recomputed: Any


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        requests: captures that were recomputed.
        values: values that were compared.
        mismatches: values that are not the same bits.
        degraded: captures left out because a group could not be read when they were served.
        shown: the first mismatches.
    """

    requests: int
    values: int
    mismatches: int
    degraded: int
    shown: tuple[Mismatch, ...] = ()


def verify(view: FeatureView, captures: pa.Table, past: Pasts) -> VerifyReport:
    """Recompute captured vectors with exactly the events that were applied when they were served.

    Use it on live traffic, continuously: a mismatch is a bug, lost data or tampering, never noise.

    Args:
        view: the view that was served.
        captures: rows as the capture topic holds them.
        past: history to recompute from.

    Returns:
        VerifyReport: counts, and the first mismatches.
    """
    replay = Replay(view, captures, past)
    wanted = replay.recompute()
    rows = np.flatnonzero(replay.whole)
    mismatches, shown = 0, list[Mismatch]()
    columns = [name for name in served_columns(view) if name in captures.column_names]
    for name in columns:
        served = column_values(captures[name])
        wrong = rows[differs(served[rows], wanted[name][rows])]
        mismatches += len(wrong)
        for row in wrong[: SHOWN - len(shown)].tolist():
            request = captures["_request_id"][row].as_py()
            shown.append(Mismatch(request, name, _shown(served[row]), _shown(wanted[name][row])))
    return VerifyReport(len(rows), len(rows) * len(columns), mismatches, len(replay.at) - len(rows), tuple(shown))


def served_columns(view: FeatureView) -> list[str]:
    """The columns that serving computed: all but the request's own fields."""
    return [entry.column for entry in view.entries if entry.kind != "request"]


def _shown(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


__all__ = ["Columns", "Mismatch", "Pasts", "VerifyReport", "served_columns", "verify"]
