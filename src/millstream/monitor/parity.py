"""Parity: what was served beside what training would use for the same keys and moments, every difference explained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.monitor.replay import Pasts, Reading, Replay, column_values, differs
from millstream.monitor.verify import Mismatch, _shown, served_columns
from millstream.train.point_in_time import AT, Past, join

if TYPE_CHECKING:
    from millstream.definitions import FeatureView

LATENCY, OVERFLOW, UNEXPLAINED = "latency", "overflow", "unexplained"


@dataclass(frozen=True)
class ParityReport:
    """What `parity` found.

    Attributes:
        requests: captures compared.
        values: values compared.
        latency: values that differ because an event was applied earlier or later than training assumes.
        overflow: values that differ because a state keeps a limited number of exact newest events.
        unexplained: values that differ for no known reason; this must be 0.
        by_column: (column, reason) to how many values.
    """

    requests: int
    values: int
    latency: int
    overflow: int
    unexplained: int
    by_column: dict[tuple[str, str], int] = field(default_factory=dict)
    shown: tuple[Mismatch, ...] = ()


def parity(view: FeatureView, captures: pa.Table, pasts: Pasts, past: Past) -> ParityReport:
    """Compare captured vectors with `training_set`'s at the same keys and instants, and split every difference.

    Args:
        view: the view that was served.
        captures: rows as the capture topic holds them.
        pasts: history to recompute what was applied from.
        past: what a point-in-time join reads.
    """
    replay = Replay(view, captures, pasts)
    rows = np.flatnonzero(replay.whole)
    trained = join(view, _examples(view, captures), past)
    reasons: dict[str, np.ndarray] = {}
    for reading in replay.readings():
        _split_reading(replay, reading, trained, reasons)
    counts: Counter[tuple[str, str]] = Counter()
    for entry in view.entries:
        if entry.on_demand is not None and entry.column in captures.column_names:
            _inherit(captures, trained, entry.column, entry.on_demand.arguments, reasons)
    for name in served_columns(view):
        for reason in (LATENCY, OVERFLOW, UNEXPLAINED):
            found = reasons.get(name)
            counts[name, reason] = 0 if found is None else int((found[rows] == reason).sum())
    total = {
        reason: sum(n for (_, why), n in counts.items() if why == reason) for reason in (LATENCY, OVERFLOW, UNEXPLAINED)
    }
    return ParityReport(
        len(rows), len(rows) * len(served_columns(view)), total[LATENCY], total[OVERFLOW], total[UNEXPLAINED],
        {key: n for key, n in counts.items() if n}, _first(captures, trained, reasons, rows),
    )  # fmt: skip


def _examples(view: FeatureView, captures: pa.Table) -> pa.Table:
    names = [*view.entity_keys, *(name for name in view.request if name not in view.entity_keys)]
    return pa.table({**{name: captures[name] for name in names}, AT: captures["_at"]})


def _reasons_of(reasons: dict[str, np.ndarray], name: str, size: int) -> np.ndarray:
    if name not in reasons:
        reasons[name] = np.full(size, "", "<U11")
    return reasons[name]


def _split_reading(replay: Replay, reading: Reading, trained: pa.Table, reasons: dict[str, np.ndarray]) -> None:
    """Say of every differing value of one group why it differs."""
    columns = [c for c in reading.read.columns if c.feature in reading.version.schema]  # its view may have moved on
    served = {c.column: replay.served(c.column)[reading.rows] for c in columns}
    wanted = {c.column: column_values(trained[c.column])[reading.rows] for c in columns}
    wrong = {name: differs(served[name], wanted[name]) for name in served}
    only = np.flatnonzero(np.any(list(wrong.values()), axis=0))
    if not len(only):
        return
    group = reading.version.group
    batch = isinstance(group, BatchFeatureGroup) and group.query is not None
    state = replay.values(reading, only=only)
    rule = state if batch else replay.values(reading, by_rule=True, only=only)
    for column in columns:
        name, default = column.column, column.default
        out = _reasons_of(reasons, name, len(replay.at))
        by_rule = _defaulted(rule[column.feature], default)
        by_state = _defaulted(state[column.feature], default)
        off = wrong[name][only]
        same_state, same_rule = ~differs(served[name][only], by_state), ~differs(served[name][only], by_rule)
        places = reading.rows[only]
        out[places[off & same_rule]] = LATENCY
        out[places[off & ~same_rule & same_state]] = OVERFLOW
        out[places[off & ~same_rule & ~same_state]] = UNEXPLAINED


def _defaulted(values: np.ndarray, default: object) -> np.ndarray:
    if default is None:
        return values
    missing = np.array([v is None for v in values]) if values.dtype == object else np.isnan(values)
    return np.where(missing, np.array(default, values.dtype), values)


def _inherit(
    captures: pa.Table, trained: pa.Table, name: str, arguments: tuple[str, ...], reasons: dict[str, np.ndarray]
) -> None:
    """An on-demand feature differs because an argument does; the gravest reason of them is its own."""
    wrong = differs(column_values(captures[name]), column_values(trained[name]))
    out = _reasons_of(reasons, name, len(wrong))
    out[wrong] = UNEXPLAINED
    for reason in (LATENCY, OVERFLOW):
        for argument in arguments:
            if argument in reasons:
                out[wrong & (reasons[argument] == reason)] = reason
    for argument in arguments:
        if argument in reasons:
            out[wrong & (reasons[argument] == UNEXPLAINED)] = UNEXPLAINED


def _first(
    captures: pa.Table, trained: pa.Table, reasons: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[Mismatch, ...]:
    """The first unexplained values, for a person to look at."""
    shown = []
    for name, why in reasons.items():
        for row in rows[why[rows] == UNEXPLAINED][:3].tolist():
            served, wanted = captures[name][row].as_py(), trained[name][row].as_py()
            shown.append(Mismatch(captures["_request_id"][row].as_py(), name, _shown(served), _shown(wanted)))
    return tuple(shown[:10])
