"""From validated events to what the kernels fold: filtered, derived, keyed and lifted to lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import comparable
from millstream.definitions.inlining import inlined
from millstream.definitions.schema import digits_of
from millstream.definitions.windows import PROBED
from millstream.fold.entry_inputs import EntryInput, entries_of
from millstream.fold.entry_layout import Bag
from millstream.fold.evaluating import evaluate
from millstream.fold.keys import distinct, encode_keys, narrowed
from millstream.fold.lane_plans import Slot
from millstream.fold.layout import RULE_GAP, FoldLayout, Layout, layout_of
from millstream.fold.lifting import (
    EMPTY,
    LaneInput,
    flags,
    flat,
    lanes_of,
    present,
)
from millstream.fold.sections import SectionRows
from millstream.fold.shared import KeptRows, SharedRows
from millstream.fold.shares import side_by_side

if TYPE_CHECKING:
    from millstream.definitions import BatchFeatureGroup, EventStream, StreamFeatureGroup, Table
    from millstream.definitions.windows import WindowedFeature


@dataclass(frozen=True, eq=False)
class Prepared:
    """The events of one group, ready to fold; arrays have one row per event that counts.

    `keys` are the distinct entity keys and `codes` say which one each event has. Times and arrivals are in µs.
    `entries` has, for each bag of the group, whether the event has an entry and its lanes. `sections` has what the group's
    row windows and sessions read of the events.
    `skipped` counts by reason what does not count for this group; `dead` holds (row of the table, reason).
    """

    keys: list[bytes]
    codes: np.ndarray
    times: np.ndarray
    arrivals: np.ndarray
    partitions: np.ndarray
    positions: np.ndarray
    lanes: np.ndarray
    entries: np.ndarray
    skipped: dict[str, int]
    dead: list[tuple[int, str]]
    sections: tuple[SectionRows, ...] = ()

    def take(self, places: np.ndarray) -> Prepared:
        """The events at some places, under the same keys and codes."""
        columns = ("codes", "times", "arrivals", "partitions", "positions", "lanes", "entries")
        taken = {name: getattr(self, name).take(places, axis=0) for name in columns}
        return replace(self, sections=tuple(rows.take(places) for rows in self.sections), **taken)


def prepare(
    groups: Sequence[StreamFeatureGroup | BatchFeatureGroup], stream: EventStream | Table, table: pa.Table
) -> list[Prepared]:
    """Evaluate the filters, derived columns and keys of all groups of a source in one query, and lift to lanes.

    An expression that fails on a row makes that row a dead letter of every group here that uses it; the rest goes on.

    Args:
        groups: the groups that read the source.
        stream: the source, whose time column dates the rows; `_time` does where it has none.
        table: its validated rows, without repeats, with `_partition`, `_position` and `_arrival` (µs).

    Returns:
        What each group folds, in the order of the groups.

    Raises:
        MillstreamError: when expressions cannot be evaluated and no row is to blame, as when memory runs out.
    """
    wanted = dict.fromkeys(sql for group in groups for sql in plan_of(group).wanted)
    columns, failed = evaluate(table, wanted)
    rows = SharedRows(table, stream.time or "_time", columns)
    return side_by_side([partial(_prepare_one, group, failed, rows) for group in groups], len(rows) * len(groups))


def aggregated(
    group: StreamFeatureGroup | BatchFeatureGroup,
    feature: WindowedFeature,
    table: pa.Table,
    asked: Mapping[str, pa.Scalar],
) -> np.ndarray:
    """Say which events of a group one of its features aggregates: those of its filter with a value to aggregate.

    Args:
        group: the group.
        feature: the feature, one of the group's columns.
        table: rows that `prepare` keeps for the group.
        asked: the request's fields that the feature reads: where it looks one up, it aggregates the events that have it.

    Returns:
        One boolean for each row of the table.

    Raises:
        MillstreamError: when expressions cannot be evaluated and no row is to blame, as when memory runs out.
    """
    if feature.parts:
        parts: np.ndarray = np.any([aggregated(group, part, table, asked) for part in feature.parts], axis=0)
        return parts
    where, *values = (
        None if sql is None else inlined(sql, *_columns_of(group), aggregated=sql is not feature.where)
        for sql in (feature.where, *feature.read)
    )
    columns, _ = evaluate(table, dict.fromkeys(sql for sql in (where, *values) if sql))
    found = np.ones(table.num_rows, bool) if where is None else flags(columns[where])
    read = [columns[sql] for sql in values if sql]
    there = [present(column) for column in read]
    if there:
        found &= np.logical_or.reduce(there) if feature.fields else np.logical_and.reduce(there)
    if feature.kind in PROBED:
        same = pc.equal(comparable(read[0]), comparable(pa.array([asked[feature.request or ""]]))[0])
        found &= np.asarray(pc.fill_null(same, False)).astype(bool)
    return found


def lanes_of_table(group: StreamFeatureGroup, table: pa.Table, at: np.ndarray) -> np.ndarray:
    """Return the lanes, then the entries, of each row of a source's table at an instant.

    Of each section of the group there follow whether the row counts, its lanes and its entries. What a row has that does
    not count is empty.

    Args:
        group: the group.
        table: rows with the columns of the group's sources.
        at: the instant (µs) of each row, int64, shape (rows,).

    Returns:
        int64 lanes, one row for each row of the table.

    Raises:
        MillstreamError: when expressions cannot be evaluated and no row is to blame, as when memory runs out.
    """
    plan, rows = plan_of(group), len(at)
    columns, failed = evaluate(table, plan.wanted)
    keep = np.ones(rows, bool)
    keep[[row for sql in plan.wanted for row in failed.get(sql, ())]] = False
    if plan.where:
        keep &= flags(columns[plan.where])
    for sql in plan.keys:
        if columns[sql].null_count:
            keep &= np.asarray(columns[sql].is_valid())
    read = [part.read(columns, rows) for part in plan.parts]
    for item in _every(read):
        keep &= ~item.refused
    kept, blocks = np.flatnonzero(keep), list[np.ndarray]()
    for i, (part, (inputs, bags)) in enumerate(zip(plan.parts, read, strict=True)):
        found = np.empty((rows, part.layout.n_lanes), np.int64)
        for slot in part.layout.slots:
            found[:, slot.offset : slot.offset + slot.width] = EMPTY[slot.op]
        found[kept] = lanes_of(part.layout, inputs, at, kept, len(kept) == rows)
        entries = np.zeros((rows, part.layout.entries.width if part.layout.entries else 0), np.int64)
        entries[kept] = entries_of(part.layout.entries, bags, at[kept], kept)
        blocks += [keep.reshape(-1, 1), found, entries][0 if i else 1 :]
    return np.hstack(blocks).astype(np.int64, copy=False)


#: A lane group, and its expression, its condition and its other expression as SQL in which derived columns are written out.
SlotPlan = tuple[Slot, str | None, str | None, str | None]


@dataclass(frozen=True)
class BagPlan:
    """What one bag reads of a row, as SQL in which derived columns are written out."""

    bag: Bag
    expressions: tuple[str, ...]
    where: str | None
    other: str | None
    payload: tuple[SlotPlan, ...]

    def read(self, columns: dict[str, pa.ChunkedArray], rows: int) -> EntryInput:
        """What the bag reads of some rows."""
        where = flags(columns[self.where]) if self.where else None
        if self.other:
            there = present(columns[self.other])
            where = there if where is None else where & there
        payload = [LaneInput(*item, columns, rows) for item in self.payload]
        return EntryInput(self.bag, [columns[sql] for sql in self.expressions], where, payload)

    @property
    def wanted(self) -> tuple[str | None, ...]:
        """All that it reads."""
        return (*self.expressions, self.where, self.other, *(sql for _, *read in self.payload for sql in read))


@dataclass(frozen=True)
class _PartPlan:
    """What the features over windows of time, or those of a section, read of a row."""

    layout: FoldLayout
    inputs: tuple[SlotPlan, ...]
    bags: tuple[BagPlan, ...]

    def read(self, columns: dict[str, pa.ChunkedArray], rows: int) -> tuple[list[LaneInput], list[EntryInput]]:
        """What each lane group and each bag reads of some rows."""
        return [LaneInput(*item, columns, rows) for item in self.inputs], [bag.read(columns, rows) for bag in self.bags]


def _every(read: Sequence[tuple[list[LaneInput], list[EntryInput]]]) -> list[LaneInput | EntryInput]:
    """All that reads rows, of every part of a group."""
    found: list[LaneInput | EntryInput] = []
    for inputs, bags in read:
        found += [*inputs, *bags, *(item for bag in bags for item in bag.payload)]
    return found


@dataclass(frozen=True)
class Plan:
    """What one group needs of a row, as SQL in which derived columns are written out."""

    layout: Layout
    where: str | None
    keys: tuple[str, ...]
    parts: tuple[_PartPlan, ...]
    wanted: tuple[str, ...]


_plans: dict[int, tuple[Any, Plan]] = {}
_PLANS_KEPT = 1_024


def plan_of(group: Any) -> Plan:
    """The group's plan, made once per definition object, which is kept so that its identity stays its own."""
    known = _plans.get(id(group))
    if known is None:
        if len(_plans) >= _PLANS_KEPT:
            _plans.clear()
        known = _plans[id(group)] = (group, _plan(group))
    return known[1]


def _plan(group: Any) -> Plan:
    layout, (derive, columns) = layout_of(group), _columns_of(group)

    def inline(sql: str | None, aggregated: bool = False) -> str | None:
        return None if sql is None else inlined(sql, derive, columns, aggregated=aggregated)

    where = inline(group.where)
    keys = tuple(inline((group.keys or {}).get(name, name)) or "" for name in group.entity.keys)
    every: list[str | None] = [where, *keys]
    parts: list[_PartPlan] = []
    for part in (layout, *layout.sections):
        inputs = _inlined(part.slots, inline)
        bags = tuple(
            BagPlan(
                bag,
                tuple(inline(sql, True) or "" for sql, _ in bag.read),
                inline(bag.where),
                inline(bag.other, True),
                _inlined(bag.payload, inline),
            )
            for bag in (part.entries.bags if part.entries else ())
        )
        every += [sql for _, *read in inputs for sql in read]
        every += [sql for bag in bags for sql in bag.wanted]
        parts.append(_PartPlan(part, inputs, bags))
    return Plan(layout, where, keys, tuple(parts), tuple(dict.fromkeys(sql for sql in every if sql)))


def _inlined(slots: Sequence[Slot], inline: Callable[..., str | None]) -> tuple[SlotPlan, ...]:
    return tuple((slot, inline(slot.expression, True), inline(slot.where), inline(slot.other, True)) for slot in slots)


def _columns_of(group: Any) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """The derived columns of a group, and the types of the columns of its sources."""
    columns = {name: kind for source in group.sources for name, kind in (source.schema or {}).items()}
    return tuple((group.derive or {}).items()), columns


def _prepare_one(group: Any, failed: dict[str, dict[int, str]], rows: SharedRows) -> Prepared:
    plan, skipped = plan_of(group), Counter[str]()
    layout, columns = plan.layout, rows.columns
    dead = {row: reason for sql in plan.wanted for row, reason in failed.get(sql, {}).items()}
    keep = np.ones(len(rows), bool)
    keep[list(dead)] = False
    if plan.where:
        _drop(keep, ~rows.once(("where", plan.where), partial(flags, columns[plan.where])), "filtered", skipped)
    keys, null, wide = _key_columns(group, rows)
    for row in np.flatnonzero(keep & wide).tolist():
        dead[row], keep[row] = "a key is no whole number of 64 bits, or no date of the years 1 to 9999", False
    _drop(keep, null, "null_key", skipped)
    _drop(keep, rows.once(("late", layout), partial(layout.too_late, rows.times, rows.arrivals)), "too_late", skipped)
    read = [rows.once(("read", part), partial(part.read, columns, len(rows))) for part in plan.parts]
    every = _every(read)
    for item in every:
        for row in np.flatnonzero(keep & item.refused).tolist():
            dead[row], keep[row] = item.reason, False
    skipped["not_finite"] += sum(int((item.not_finite & keep).sum()) for item in every)
    kept = rows.kept(keep)
    tasks: list[Callable[[], Any]] = [partial(_told_apart, group, keys, kept)]
    for part, items in zip(plan.parts, read, strict=True):
        tasks.append(partial(kept.once, part, partial(_lifted, part.layout, *items, rows, kept)))
    (known, codes), *lifted = side_by_side(tasks, len(kept))
    sections = _sections(layout, lifted[1:], kept.times, kept.arrivals, skipped)
    return Prepared(
        keys=known, codes=codes, times=kept.times, arrivals=kept.arrivals, partitions=kept.partitions,
        positions=kept.positions, lanes=lifted[0][0], entries=lifted[0][1], skipped=dict(+skipped), dead=sorted(dead.items()),
        sections=sections,
    )  # fmt: skip


def _told_apart(group: Any, keys: list[pa.Array], kept: KeptRows) -> tuple[list[bytes], np.ndarray]:
    """The different keys of the rows that are kept, and the place of each row's among them."""
    encoded = encode_keys(group.entity.keys, keys)
    return distinct(encoded if kept.everything else encoded.take(pa.array(kept.places)))


def _lifted(
    layout: FoldLayout, inputs: list[LaneInput], bags: list[EntryInput], rows: SharedRows, kept: KeptRows
) -> tuple[np.ndarray, np.ndarray]:
    """The lanes, and the entries, of the rows that are kept."""
    return (
        lanes_of(layout, inputs, rows.times, kept.places, kept.everything),
        entries_of(layout.entries, bags, kept.times, None if kept.everything else kept.places),
    )


def _sections(
    layout: Layout,
    lifted: list[tuple[np.ndarray, np.ndarray]],
    times: np.ndarray,
    arrivals: np.ndarray,
    skipped: Counter[str],
) -> tuple[SectionRows, ...]:
    """What the group's sections read; a row that arrives too late for a session is counted as skipped by it."""
    found = []
    for section, (lanes_, entries) in zip(layout.sections, lifted, strict=True):
        counts = np.ones(len(times), bool)
        if section.rule[RULE_GAP] > 0:
            counts = arrivals - times <= section.late
            skipped["too_late_for_session"] += int((~counts).sum())
        found.append(SectionRows(counts, lanes_, entries))
    return tuple(found)


def _key_columns(group: Any, rows: SharedRows) -> tuple[list[pa.Array], Any, Any]:
    """The key's columns; in which rows one is null, and in which one is a number beyond int64."""
    found = [
        rows.once(("key", sql, digits_of(kind)), partial(_key_column, kind, rows.columns[sql]))
        for kind, sql in zip(group.entity.keys.values(), plan_of(group).keys, strict=True)
    ]
    null, wide = (reduce(np.logical_or, [one[i] for one in found]) for i in (1, 2))
    return [column for column, _, _ in found], null, wide


def _key_column(kind: str, column: pa.ChunkedArray) -> tuple[pa.Array, Any, Any]:
    given = flat(column)
    narrow, wide = (given, np.False_) if digits_of(kind) else narrowed(given)
    return narrow, np.asarray(narrow.is_null()) if narrow.null_count else np.False_, wide


def _drop(keep: np.ndarray, out: np.ndarray, reason: str, skipped: Counter[str]) -> None:
    if np.any(out):
        skipped[reason] += int((keep & out).sum())
        keep &= ~out
