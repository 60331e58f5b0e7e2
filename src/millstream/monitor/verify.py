"""Verify: every served value recomputed from history, and held to be the same bits."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from millstream.definitions.data_types import carried
from millstream.errors import RequestError, shown
from millstream.monitor.replay import Pasts, Replay, cohorts, differs, pieces

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
    """What `verify` found; two reports add up to one.

    Attributes:
        requests: captures that were recomputed.
        values: values that were compared.
        mismatches: values that are not the same bits.
        degraded: captures left out because a group could not be read when they were served.
        shown: the first mismatches.
    """

    requests: int = 0
    values: int = 0
    mismatches: int = 0
    degraded: int = 0
    shown: tuple[Mismatch, ...] = ()

    def __add__(self, other: VerifyReport) -> VerifyReport:
        return VerifyReport(
            self.requests + other.requests, self.values + other.values, self.mismatches + other.mismatches,
            self.degraded + other.degraded, (self.shown + other.shown)[:SHOWN],
        )  # fmt: skip


def check_sample(what: str, sample: object) -> int | None:
    """The number of captures to look at, None for all; raises `RequestError` for what is no such number.

    >>> check_sample("verify", 10)
    10
    """
    if sample is None:
        return None
    try:
        number = -1 if isinstance(sample, bool) else operator.index(sample)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 1:
        raise RequestError(
            f"{what} was given sample={shown(sample)}; expected how many of the newest captures, 1 or more.", field="sample",
            given=sample, expected="a whole number from 1", hint="leave it out to look at all of them.",
        )  # fmt: skip
    return number


def verify(captures: pa.Table, past: Pasts) -> VerifyReport:
    """Recompute captured vectors with exactly the events that were applied when they were served.

    Use it on live traffic, continuously: a mismatch is a bug, lost data or tampering, never noise. Each vector is
    recomputed by the view and the functions that served it, whatever they have become since.

    Args:
        captures: rows as the capture topic holds them.
        past: history and definitions to recompute from.

    Returns:
        VerifyReport: counts, and the first mismatches.

    Raises:
        NotFound: the registry has no such revision of the view that a capture names.
    """
    replays = (replay for piece in pieces(captures) for replay in cohorts(piece, past))
    return sum(map(_verified, replays), VerifyReport())


def _verified(replay: Replay) -> VerifyReport:
    captures, wanted = replay.captures, replay.recompute()
    rows = np.flatnonzero(replay.whole)
    mismatches, shown = 0, list[Mismatch]()
    columns = served_columns(replay.view)
    for name in columns:
        served = carried(captures[name])
        wrong = rows[differs(served[rows], wanted[name][rows])]
        mismatches += len(wrong)
        for row in wrong[: SHOWN - len(shown)].tolist():
            request = captures["_request_id"][row].as_py()
            shown.append(Mismatch(request, name, shown_value(served[row]), shown_value(wanted[name][row])))
    return VerifyReport(len(rows), len(rows) * len(columns), mismatches, len(replay.at) - len(rows), tuple(shown))


def served_columns(view: FeatureView) -> list[str]:
    """The columns that serving computed: all but the request's own fields."""
    return [entry.column for entry in view.entries if entry.kind != "request"]


def shown_value(value: Any) -> Any:
    """Return a value as a report shows it."""
    return None if isinstance(value, float) and np.isnan(value) else value
