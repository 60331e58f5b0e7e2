"""Parity: what was served beside what training would use for the same keys and moments, every difference explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from millstream.definitions.data_types import carried
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.monitor.replay import Pasts, Reading, Replay, cohorts, defaulted, differs, pieces
from millstream.monitor.verify import SHOWN, Mismatch, served_columns, shown_value
from millstream.train.point_in_time import AT, Past, columns_of, join

if TYPE_CHECKING:
    from millstream.definitions.group_version import GroupVersion
    from millstream.definitions.source import EventStream
    from millstream.history.selection import Wanted

LATENCY, OVERFLOW, BEHIND, UNEXPLAINED = "latency", "overflow", "behind", "unexplained"
_REASONS = (LATENCY, OVERFLOW, BEHIND, UNEXPLAINED)  # each graver than those before it

PastOf = Callable[[Mapping[str, "GroupVersion"], Mapping["EventStream", Sequence["Wanted"]]], Past]


@dataclass(frozen=True)
class ParityReport:
    """What `parity` found; two reports add up to one.

    Attributes:
        requests: captures compared.
        values: values compared.
        latency: values that differ because an event was applied earlier or later than training assumes.
        overflow: values that differ because a state keeps a limited number of exact newest events.
        behind: values that differ because they were asked for at an instant before what online states are exact for, so
            that history alone tells them; serving says so in its answer.
        unexplained: values that differ for no known reason; this must be 0.
        by_column: (column, reason) to how many values.
        shown: the first unexplained values.
    """

    requests: int = 0
    values: int = 0
    latency: int = 0
    overflow: int = 0
    unexplained: int = 0
    by_column: Mapping[tuple[str, str], int] = field(default_factory=dict)
    shown: tuple[Mismatch, ...] = ()
    behind: int = 0

    def __add__(self, other: ParityReport) -> ParityReport:
        return ParityReport(
            self.requests + other.requests, self.values + other.values, self.latency + other.latency,
            self.overflow + other.overflow, self.unexplained + other.unexplained,
            dict(Counter(self.by_column) + Counter(other.by_column)), (self.shown + other.shown)[:SHOWN],
            self.behind + other.behind,
        )  # fmt: skip


def parity(captures: pa.Table, pasts: Pasts, past: PastOf) -> ParityReport:
    """Compare captured vectors with `training_set`'s at the same keys and instants, and split every difference.

    Args:
        captures: rows as the capture topic holds them.
        pasts: history and definitions to recompute what was applied from.
        past: what a point-in-time join reads, given the group versions by the names of their groups, and by stream the
            events that are needed.

    Raises:
        NotFound: the registry has no such revision of the view that a capture names.
    """
    replays = (replay for piece in pieces(captures) for replay in cohorts(piece, pasts))
    return sum((_compared(replay, past) for replay in replays), ParityReport())


def _compared(replay: Replay, past: PastOf) -> ParityReport:
    view, captures = replay.view, replay.captures
    rows = np.flatnonzero(replay.whole | replay.behind)
    names = [*view.entity_keys, *(name for name in view.request if name not in view.entity_keys)]
    examples = pa.table({**{name: captures[name] for name in names}, AT: captures["_at"]})
    trained = join(view, examples, past({one.group.name: one for one in replay.versions.values()}, replay.wanted))
    reasons: dict[str, np.ndarray] = {}
    for reading in replay.readings:
        _split_reading(replay, reading, trained, reasons)
    for feature in view.on_demand:  # each after those it needs, whose reasons it has
        _inherit(captures, trained, feature.name, feature.arguments, reasons)
    counts: Counter[tuple[str, str]] = Counter()
    for name, why in reasons.items():
        for reason in _REASONS:
            counts[name, reason] = int((why[rows] == reason).sum())
    total = {reason: sum(n for (_, why), n in counts.items() if why == reason) for reason in _REASONS}
    return ParityReport(
        len(rows), len(rows) * len(served_columns(view)), total[LATENCY], total[OVERFLOW], total[UNEXPLAINED],
        {key: n for key, n in counts.items() if n}, _first(captures, trained, reasons, rows), total[BEHIND],
    )  # fmt: skip


def _reasons_of(reasons: dict[str, np.ndarray], name: str, size: int) -> np.ndarray:
    if name not in reasons:
        reasons[name] = np.full(size, "", "<U11")
    return reasons[name]


def _split_reading(replay: Replay, reading: Reading, trained: pa.Table, reasons: dict[str, np.ndarray]) -> None:
    """Say of every differing value of one group why it differs."""
    columns = reading.read.columns
    served = {c.column: carried(replay.captures[c.column]) for c in columns}
    wrong = {name: differs(values, carried(trained[name])) for name, values in served.items()}
    asked = np.any(list(wrong.values()), axis=0)
    told = np.array([facts[reading.read.name].fallback is None for facts in replay.facts], bool)
    for name, off in wrong.items():
        _reasons_of(reasons, name, len(replay.at))[off & ~told] = BEHIND
    only = np.flatnonzero(asked & told)
    if not len(only):
        return
    group = reading.version.group
    batch = isinstance(group, BatchFeatureGroup) and group.query is not None
    state = columns_of(reading.read, replay.values(reading, only=only), len(only))
    rule = state if batch else columns_of(reading.read, replay.values(reading, by_rule=True, only=only), len(only))
    early = np.zeros(len(only), bool) if batch else replay.early(reading, only)
    for column in columns:
        name, default = column.column, column.default
        out = _reasons_of(reasons, name, len(replay.at))
        by_rule, by_state = defaulted(rule[name], default), defaulted(state[name], default)
        off = wrong[name][only]
        same_state, same_rule = ~differs(served[name][only], by_state), ~differs(served[name][only], by_rule)
        out[only[off & same_rule]] = LATENCY
        out[only[off & ~same_rule & same_state & ~early]] = OVERFLOW
        out[only[off & ~same_rule & same_state & early]] = BEHIND
        out[only[off & ~same_rule & ~same_state]] = UNEXPLAINED


def _inherit(
    captures: pa.Table, trained: pa.Table, name: str, arguments: tuple[str, ...], reasons: dict[str, np.ndarray]
) -> None:
    """An on-demand feature differs because an argument does; the gravest reason of them is its own."""
    wrong = differs(carried(captures[name]), carried(trained[name]))
    out = _reasons_of(reasons, name, len(wrong))
    out[wrong] = UNEXPLAINED
    for reason in _REASONS:
        for argument in arguments:
            if argument in reasons:
                out[wrong & (reasons[argument] == reason)] = reason


def _first(
    captures: pa.Table, trained: pa.Table, reasons: dict[str, np.ndarray], rows: np.ndarray
) -> tuple[Mismatch, ...]:
    """The first unexplained values, for a person to look at."""
    shown = []
    for name, why in reasons.items():
        for row in rows[why[rows] == UNEXPLAINED][:3].tolist():
            served, wanted = captures[name][row].as_py(), trained[name][row].as_py()
            shown.append(Mismatch(captures["_request_id"][row].as_py(), name, shown_value(served), shown_value(wanted)))
    return tuple(shown[:SHOWN])
