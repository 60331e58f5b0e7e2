"""Training sets: examples with the features they would have been served with, and the labels known by now.

Every example stays, in order; `matured()` are those to learn from: those whose label is known or, where no label means
something (`absent`), those old enough that none is to come. There a label that came early waits until its example is
as old, or the newest examples to learn from would be those few whose label comes early: the frauds alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.calls import checked_methods
from millstream.clock import to_datetime, to_micros
from millstream.definitions.data_types import INSTANT, comparable
from millstream.definitions.feature_view import FeatureView
from millstream.definitions.model import Label, Model
from millstream.errors import TrainingError, shown
from millstream.train.encoding import numbers
from millstream.train.point_in_time import AT, join
from millstream.train.stored_history import Pins, Stored

LABEL, LABEL_AT, MATURED = "_label", "_label_at", "_matured"


class Split(NamedTuple):
    """Matured rows, older ones to learn from and newer ones to measure on; no instant is in both."""

    train: pa.Table
    test: pa.Table


@checked_methods
@dataclass(frozen=True)
class TrainingSet:
    """Examples, features and labels of a model, and what they were made from.

    Attributes:
        table: one row per example, in the order of the examples: entity keys, `_at` (int64 µs), the view's columns,
            `_label` (float64, null while unknown), `_label_at` (when it was known) and `_matured`.
        model: the model's name.
        dtypes: the model's input columns, in order, with their types.
        now: the instant (µs) up to which it looks; what was known later is not in it.
        pins: the group versions, log positions and snapshots it was made from.
    """

    table: pa.Table
    model: str
    dtypes: Mapping[str, str]
    now: int
    pins: Pins = field(default_factory=Pins)

    def matured(self) -> pa.Table:
        """Return the rows to learn from, oldest first."""
        return self.table.filter(self.table[MATURED]).sort_by(AT)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the table's columns."""
        return tuple(self.table.column_names)

    def split(self, *, test: str | float = "20%", gap: timedelta | int = 0) -> Split:
        """Return the matured rows split by time: the newest to measure on, those before to learn from.

        Args:
            test: the share to measure on, "20%" or 0.2; rows of the same instant stay together, so it may be more.
            gap: what is left out before the first row to measure on: a timedelta, or microseconds. As long as labels
                take to come, it measures what training would have reached at that moment.

        Raises:
            TrainingError: a share that is not between 0 and 1, or a gap that is no time.
        """
        share = _share(test)
        rows = self.matured()
        if not rows.num_rows:
            return Split(rows, rows)
        at = rows[AT].to_numpy()
        cut = int(at[min(int(len(at) * (1 - share)), len(at) - 1)])
        return self.split_at(cut, gap=gap)

    def split_at(self, cut: int | str | datetime, *, gap: timedelta | int = 0) -> Split:
        """Return the matured rows before the instant `cut` less `gap`, and those from `cut` on; bare numbers are µs."""
        cut, gap = to_micros(cut), _gap(gap)
        rows = self.matured()
        at = rows[AT].to_numpy()
        first, last = np.searchsorted(at, [cut, cut - gap])
        return Split(rows.slice(0, last), rows.slice(first))

    def facts(self) -> dict[str, Any]:
        """Return what a model version keeps about the rows it learnt from, as JSON-able data."""
        rows = self.matured()
        times = pc.min_max(rows[AT])
        counts = {"examples": self.table.num_rows, "matured": rows.num_rows}
        return {**counts, "from": times["min"].as_py(), "until": times["max"].as_py(), "now": self.now} | {
            "pins": self.pins.to_dict()
        }

    def to_pandas(self) -> Any:
        """Return the table as a pandas frame."""
        return self.table.to_pandas()

    def to_polars(self) -> Any:
        """Return the table as a Polars frame."""
        import polars

        return polars.from_arrow(self.table)

    def __str__(self) -> str:
        known = self.table.num_rows - self.table[LABEL].null_count
        return (
            f"Training set of '{self.model}' at {to_datetime(self.now).isoformat()}: {self.table.num_rows:,} examples, "
            f"{known:,} with a label, {self.matured().num_rows:,} matured."
        )


def training_set(
    model: Model, past: Stored, *, now: int, start: int | None = None, end: int | None = None
) -> TrainingSet:
    """Return the model's examples with features as of each example's instant and the labels known at `now`.

    Args:
        model: says which examples, which view and which label.
        past: the stored history; its pins make the set repeatable.
        now: the present (µs): no example, event or label that arrived later is used.
        start, end: only examples at instants from `start` to before `end` (µs).

    Returns:
        TrainingSet: every such example once, in the order of history.

    Raises:
        TrainingError: nothing was captured yet, a group has no version, or that one lacks a feature of the view.
    """
    examples = _within(_examples(model, past, now), start, end)
    view = _resolved(model.view, past)
    joined = join(view, examples, past)
    labels = past.events(model.label.stream.name)
    columns = _labelled(model.label, examples, labels.filter(pc.less_equal(labels["_arrival"], now)), now)
    for name, column in columns.items():
        joined = joined.append_column(name, column)
    return TrainingSet(joined, model.name, dict(view.inputs), now, past.read)


def _resolved(view: FeatureView, past: Stored) -> FeatureView:
    """The view with the types of the features that its groups' versions have."""
    known = {read.group.name: past.group(read.group).schema_of_features for read in view.groups}
    for read in view.groups:
        for column in read.columns:
            if column.feature not in known[read.group.name]:
                version = past.read.versions[read.group.name]
                raise TrainingError(
                    f"View '{view.name}' reads '{column.column}', which '{version}' does not have.",
                    f"wait until a newer version of '{read.group.name}' is live: see `millstream status`.",
                )
    return view.resolved(known)


def _examples(model: Model, past: Stored, now: int) -> pa.Table:
    """The examples known at `now`: their columns and `_at`."""
    if isinstance(model.examples, str):
        return _captured(model, past, now)
    events = past.events(model.examples.name)
    at = events[model.example_at or model.examples.time].cast(INSTANT).cast(pa.int64())
    known = pc.and_(pc.less_equal(events["_arrival"], now), pc.less_equal(at, now).fill_null(True))
    return events.append_column(AT, at).filter(known)


def _captured(model: Model, past: Stored, now: int) -> pa.Table:
    """What was served by `now`, each row once: it is captured at least once."""
    needed = [*model.view.entity_keys, *model.view.request, model.label.on, AT, "_received_at", "_request_id"]
    found = past.captures(model.name, needed, now)
    if found is None:
        raise TrainingError(
            f"Model '{model.name}' learns from captures, and none has been archived yet.",
            "train it on a stream first (examples=stream), or score some requests and wait for the archive.",
        )
    found = found.sort_by([("_received_at", "ascending"), ("_request_id", "ascending")])
    return found.take(_places(found["_request_id"], "min"))


def _within(examples: pa.Table, start: int | None, end: int | None) -> pa.Table:
    for bound, keeps in ((start, pc.greater_equal), (end, pc.less)):
        if bound is not None:
            examples = examples.filter(keeps(examples[AT], bound))
    return examples


def _labelled(label: Label, examples: pa.Table, labels: pa.Table, now: int) -> dict[str, pa.Array]:
    """The label of each example, when it was known, and whether the example is matured."""
    newest = _newest(label, labels)
    asked, known_for = comparable(examples[label.on]), comparable(newest[label.on]).combine_chunks()
    places = pc.index_in(asked, value_set=known_for).combine_chunks()
    value, known_at = numbers(newest[label.column].take(places)), newest["_arrival"].take(places)
    heard, known = np.asarray(places.is_valid()).astype(bool), ~np.isnan(value)
    at, dated = numbers(examples[AT]), np.asarray(examples[AT].is_valid()).astype(bool)
    due = dated & (at + label.after <= now)
    label_at = np.where(known, numbers(known_at), np.nan)
    matured = known & dated
    if label.absent is not None:
        silent = due & ~heard
        value, label_at = np.where(silent, float(label.absent), value), np.where(silent, at + label.after, label_at)
        matured = due & ~np.isnan(value)
    return {
        LABEL: pa.array(value, mask=np.isnan(value)),
        LABEL_AT: pa.array(np.nan_to_num(label_at).astype(np.int64), mask=np.isnan(label_at)),
        MATURED: pa.array(matured),
    }


def _newest(label: Label, labels: pa.Table) -> pa.Table:
    """One label for each value of `on`: the newest by its time and, of equal ones, the last that was known."""
    labels = labels.filter(labels[label.on].is_valid())
    order = [label.stream.time, "_arrival", "_partition", "_position"]
    labels = labels.sort_by([(name, "ascending") for name in order])
    return labels.take(_places(labels[label.on], "max"))


def _places(values: pa.ChunkedArray, which: str) -> pa.Array:
    """The place of the first ("min") or last ("max") row of each value, ascending."""
    rows = pa.table({"value": comparable(values), "place": pa.array(np.arange(len(values)))})
    found = rows.group_by("value").aggregate([("place", which)])[f"place_{which}"]
    return pa.array(np.sort(np.asarray(found)))


def _gap(gap: object) -> int:
    """The gap in µs; a negative one would put the same rows into both parts."""
    span = gap // timedelta(microseconds=1) if isinstance(gap, timedelta) and gap == gap else gap
    if isinstance(span, int | np.integer) and not isinstance(span, bool) and span >= 0:
        return int(span)
    raise TrainingError(f"split(gap={shown(gap)}): expected a timedelta, or microseconds, of 0 or more.", _GAP)


_GAP = "write gap=timedelta(days=30)."


def _share(test: str | float) -> float:
    try:
        share = float(test.removesuffix("%")) / 100 if isinstance(test, str) else float(test)
    except (ValueError, TypeError, OverflowError):
        share = -1.0
    if 0 < share < 1:
        return share
    raise TrainingError(
        f"split(test={shown(test)}): expected a share between 0 and 1.", 'write test="20%" or test=0.2.'
    )
