"""From validated events to what the kernels fold: filtered, derived, keyed and lifted to lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.expressions import inlined
from millstream.definitions.schema import digits_of
from millstream.fold import lanes, lift
from millstream.fold.decayed import lift_decayed
from millstream.fold.entries import INPUT
from millstream.fold.entry_inputs import EntryInput
from millstream.fold.entry_layout import Bag
from millstream.fold.evaluating import evaluate
from millstream.fold.fixed_point import LIMIT
from millstream.fold.instants import micros
from millstream.fold.keys import encode_keys, narrowed
from millstream.fold.layout import FoldLayout, Layout, Slot, layout_of
from millstream.fold.ordered import Coded, coded, lift_texts
from millstream.fold.sections import SectionRows
from millstream.fold.stretches import GAP

if TYPE_CHECKING:
    from millstream.definitions import BatchFeatureGroup, EventStream, StreamFeatureGroup, Table
    from millstream.definitions.windows import WindowedFeature

_EMPTY = {lanes.LEAST: lanes.EMPTY_LEAST, lanes.GREATEST: lanes.EMPTY_GREATEST, lanes.ADD: np.int64(0)}

_POWERS = {"cubes": 3, "fourths": 4}
#: What is kept as multiples of 2**-64, so that its range is bounded.
_SUMMED = ("sum", "squares", "products", "decayed", *_POWERS)


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
        taken = {name: getattr(self, name)[places] for name in columns}
        return replace(self, sections=tuple(rows.take(places) for rows in self.sections), **taken)


def prepare(
    groups: Sequence[StreamFeatureGroup | BatchFeatureGroup], stream: EventStream | Table, table: pa.Table
) -> list[Prepared]:
    """Evaluate the filters, derived columns and keys of all groups of a source in one query, and lift to lanes.

    `table` holds the validated rows of the source with `_partition`, `_position` and `_arrival`, without repeats.
    An expression that fails on a row makes that row a dead letter of every group here that uses it; the rest goes on.
    """
    wanted = dict.fromkeys(sql for group in groups for sql in plan_of(group).wanted)
    columns, failed = evaluate(table, wanted)
    common = _Rows(
        times=_int64(table[_time_column(stream)]), arrivals=_int64(table["_arrival"]),
        partitions=_int64(table["_partition"]), positions=_int64(table["_position"]),
    )  # fmt: skip
    return [_prepare_one(group, columns, failed, common) for group in groups]


def aggregated(group: StreamFeatureGroup | BatchFeatureGroup, feature: WindowedFeature, table: pa.Table) -> np.ndarray:
    """Say which events of a group one of its features aggregates: those of its filter with a value to aggregate.

    `table` holds rows that `prepare` keeps for the group.
    """
    if feature.parts:
        parts: np.ndarray = np.any([aggregated(group, part, table) for part in feature.parts], axis=0)
        return parts
    where, *values = (
        None if sql is None else inlined(sql, *_columns_of(group))
        for sql in (feature.where, feature.expression, feature.other)
    )
    columns, _ = evaluate(table, dict.fromkeys(sql for sql in (where, *values) if sql))
    found = np.ones(table.num_rows, bool) if where is None else _flags(columns[where])
    for sql in values:
        found = found & _present(columns[sql]) if sql else found
    return found


def lanes_of_table(group: StreamFeatureGroup, table: pa.Table, at: np.ndarray) -> np.ndarray:
    """Return the lanes, then the entries, of each row of a source's table at an instant (µs).

    Of each section of the group there follow whether the row counts, its lanes and its entries. What a row has that does
    not count is empty.
    """
    plan, rows = plan_of(group), len(at)
    columns, failed = evaluate(table, plan.wanted)
    keep = np.ones(rows, bool)
    keep[[row for sql in plan.wanted for row in failed.get(sql, ())]] = False
    if plan.where:
        keep &= _flags(columns[plan.where])
    for sql in plan.keys:
        if columns[sql].null_count:
            keep &= np.asarray(columns[sql].is_valid())
    read = [part.read(columns, rows) for part in plan.parts]
    every: list[_Input | EntryInput] = [item for part in read for items in part for item in items]
    for item in every:
        keep &= ~item.refused
    kept, blocks = np.flatnonzero(keep), list[np.ndarray]()
    for i, (part, (inputs, bags)) in enumerate(zip(plan.parts, read, strict=True)):
        found = np.empty((rows, part.layout.n_lanes), np.int64)
        for slot in part.layout.slots:
            found[:, slot.offset : slot.offset + slot.width] = _EMPTY[slot.op]
        found[kept] = _lift(part.layout, inputs, at, kept, len(kept) == rows)
        entries = np.zeros((rows, part.layout.entries.width if part.layout.entries else 0), np.int64)
        entries[kept] = _entries(part.layout, bags, at[kept], kept)
        blocks += [keep.reshape(-1, 1), found, entries][0 if i else 1 :]
    return np.hstack(blocks).astype(np.int64, copy=False)


@dataclass(frozen=True)
class _Rows:
    times: np.ndarray
    arrivals: np.ndarray
    partitions: np.ndarray
    positions: np.ndarray


def _time_column(source: EventStream | Table) -> str:
    return source.time or "_time"


def _int64(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.ascontiguousarray(column.to_numpy(), np.int64)


@dataclass(frozen=True)
class _PartPlan:
    """What the features over windows of time, or those of a section, read of a row."""

    layout: FoldLayout
    inputs: tuple[tuple[Slot, str | None, str | None, str | None], ...]
    bags: tuple[tuple[Bag, str, str | None], ...]

    def read(self, columns: dict[str, pa.ChunkedArray], rows: int) -> tuple[list[_Input], list[EntryInput]]:
        """What each lane group and each bag reads of some rows."""
        return (
            [_Input(*item, columns, rows) for item in self.inputs],
            [EntryInput(bag, columns[sql], _flags(columns[where]) if where else None) for bag, sql, where in self.bags],
        )


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

    def inline(sql: str | None) -> str | None:
        return None if sql is None else inlined(sql, derive, columns)

    where = inline(group.where)
    keys = tuple(inlined((group.keys or {}).get(name, name), derive, columns) for name in group.entity.keys)
    every: list[str | None] = [where, *keys]
    parts: list[_PartPlan] = []
    for part in (layout, *layout.sections):
        inputs = tuple((slot, inline(slot.expression), inline(slot.where), inline(slot.other)) for slot in part.slots)
        given = part.entries.bags if part.entries else ()
        bags = tuple((bag, inline(bag.expression) or "", inline(bag.where)) for bag in given)
        every += [sql for _, *read in inputs for sql in read]
        every += [sql for _, *read in bags for sql in read]
        parts.append(_PartPlan(part, inputs, bags))
    return Plan(layout, where, keys, tuple(parts), tuple(dict.fromkeys(sql for sql in every if sql)))


def _columns_of(group: Any) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    """The derived columns of a group, and the names of all that its expressions may read."""
    derive = tuple((group.derive or {}).items())
    names = {name for source in group.sources for name in source.schema or {}}
    return derive, frozenset(names | {name for name, _ in derive})


def _prepare_one(
    group: Any, columns: dict[str, pa.ChunkedArray], failed: dict[str, dict[int, str]], rows: _Rows
) -> Prepared:
    plan, skipped = plan_of(group), Counter[str]()
    layout = plan.layout
    dead = {row: reason for sql in plan.wanted for row, reason in failed.get(sql, {}).items()}
    keep = np.ones(len(rows.times), bool)
    keep[list(dead)] = False
    if plan.where:
        _drop(keep, ~_flags(columns[plan.where]), "filtered", skipped)
    keys, wide = _keys(group, columns)
    for row in np.flatnonzero(keep & wide).tolist():
        dead[row], keep[row] = "a key is no whole number of 64 bits, or no date of the years 1 to 9999", False
    if keys.null_count:
        _drop(keep, np.asarray(keys.is_null()), "null_key", skipped)
    _drop(keep, rows.times < layout.too_late_before(rows.arrivals), "too_late", skipped)
    read = [part.read(columns, len(keep)) for part in plan.parts]
    every: list[_Input | EntryInput] = [item for part in read for items in part for item in items]
    for item in every:
        for row in np.flatnonzero(keep & item.refused).tolist():
            dead[row], keep[row] = item.reason, False
    skipped["not_finite"] += sum(int((item.not_finite & keep).sum()) for item in every)
    everything = bool(keep.all())
    kept = np.arange(len(keep)) if everything else np.flatnonzero(keep)
    coded = (keys if everything else keys.take(pa.array(kept))).dictionary_encode()
    lifted = [
        (_lift(part.layout, inputs, rows.times, kept, everything),
         _entries(part.layout, bags, rows.times[kept], None if everything else kept))
        for part, (inputs, bags) in zip(plan.parts, read, strict=True)
    ]  # fmt: skip
    sections = _sections(layout, lifted[1:], rows.times[kept], rows.arrivals[kept], skipped)
    return Prepared(
        keys=coded.dictionary.to_pylist(), codes=coded.indices.to_numpy().astype(np.int64), times=rows.times[kept],
        arrivals=rows.arrivals[kept], partitions=rows.partitions[kept], positions=rows.positions[kept],
        lanes=lifted[0][0], entries=lifted[0][1], skipped=dict(+skipped), dead=sorted(dead.items()), sections=sections,
    )  # fmt: skip


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
        if section.rule[GAP] > 0:
            counts = arrivals - times <= section.late
            skipped["too_late_for_session"] += int((~counts).sum())
        found.append(SectionRows(counts, lanes_, entries))
    return tuple(found)


def _keys(group: Any, columns: dict[str, pa.ChunkedArray]) -> tuple[pa.Array, Any]:
    """The encoded keys, null where one is, and where one is a number beyond int64."""
    kinds = group.entity.keys.values()
    given = [_flat(columns[sql]) for sql in plan_of(group).keys]
    narrow = [(one, np.False_) if digits_of(kind) else narrowed(one) for kind, one in zip(kinds, given, strict=True)]
    wide = np.logical_or.reduce([beyond for _, beyond in narrow])
    return encode_keys(group.entity.keys, [column for column, _ in narrow]), wide


def _drop(keep: np.ndarray, out: np.ndarray, reason: str, skipped: Counter[str]) -> None:
    skipped[reason] += int((keep & out).sum())
    keep &= ~out


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    """A condition as booleans; unknown is false."""
    return np.asarray(pc.fill_null(column.cast(pa.bool_()), False)).astype(bool)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A numeric or boolean column, or one of instants (µs) or dates, as float64, NaN where null."""
    if pa.types.is_temporal(column.type):
        column = micros(column)
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _present(column: pa.ChunkedArray) -> np.ndarray:
    """Where a column has a value that an aggregate takes."""
    if pa.types.is_floating(column.type):
        return np.asarray(np.isfinite(_numbers(column)))
    return np.asarray(column.is_valid()).astype(bool)


class _Input:
    """What one lane group reads of each row, and which rows it must refuse."""

    def __init__(
        self,
        slot: Slot,
        expression: str | None,
        where_sql: str | None,
        other: str | None,
        columns: dict[str, pa.ChunkedArray],
        rows: int,
    ) -> None:
        self.slot, self.reason = slot, ""
        self.refused: Any = np.False_
        self.not_finite: Any = np.False_
        self.numbers: Any = None
        self.others: Any = None
        self.flags: Any = None
        self.text: Any = None
        self.kept: tuple[Coded, ...] = ()
        column = columns[expression] if expression else None
        where = _flags(columns[where_sql]) if where_sql else None
        if other:
            where = _present(columns[other]) if where is None else where & _present(columns[other])
        if slot.lift in ("rows", "time", "present", "decayed_count"):
            self.flags = np.ones(rows, bool) if where is None else where
            if column is not None:
                self.flags = self.flags & _present(column)
        elif slot.kinds:
            self._read_kept(columns, [sql for sql in (expression, other) if sql], where)
        elif slot.lift == "text":
            self._read_text(column, where)
        elif slot.lift in ("positive", "not_positive", "logarithms"):
            self._read_signs(column, where)
        else:
            self._read_numbers(column, where)
        if slot.lift == "products":
            self.others = _numbers(columns[other])  # type: ignore[index]

    def _read_text(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        text = _flat(column.cast(pa.string()))
        if where is not None:
            text = pc.if_else(pa.array(where), text, pa.scalar(None, pa.string()))
        longest, self.text = self.slot.max_bytes, text
        sizes = np.asarray(pc.fill_null(pc.binary_length(text), 0))
        self.refused = sizes > longest
        self.reason = f"`{self.slot.expression}` is longer than {longest} bytes (max_bytes of this aggregate)"

    def _read_kept(self, columns: dict[str, pa.ChunkedArray], read: Sequence[str], where: np.ndarray | None) -> None:
        """The value that is kept, and the one that it is chosen by where there is one."""
        said = [sql for sql in (self.slot.expression, self.slot.other) if sql]
        parts = zip(said, read, self.slot.kinds, strict=True)
        self.kept = tuple(coded(sql, columns[wide], kind, self.slot.max_bytes, where) for sql, wide, kind in parts)
        there = [one.valid | one.refused for one in self.kept]
        self.flags = np.logical_and.reduce([one.valid for one in self.kept])
        self.refused = np.logical_and.reduce(there) & ~self.flags
        self.reason = ", or ".join(one.reason for one in self.kept if one.reason)
        self.not_finite = np.logical_or.reduce([np.broadcast_to(one.infinite, len(self.flags)) for one in self.kept])

    def _read_numbers(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        numbers = _numbers(column)
        if where is not None:
            numbers[~where] = np.nan
        self.not_finite = np.isinf(numbers)
        numbers[self.not_finite] = np.nan
        if self.slot.lift in _SUMMED:
            with np.errstate(invalid="ignore"):
                self.refused = np.abs(numbers) >= LIMIT
            self.reason = f"`{self.slot.expression}` lies outside +-2**50, the range of exact sums"
        self.numbers = numbers

    def _read_signs(self, column: pa.ChunkedArray, where: np.ndarray | None) -> None:
        """Which numbers are positive, or are not; for their logarithms, those that are."""
        numbers = _numbers(column)
        there = np.isfinite(numbers) if where is None else where & np.isfinite(numbers)
        self.flags = there & ((numbers <= 0) if self.slot.lift == "not_positive" else (numbers > 0))
        self.numbers = np.where(self.flags, numbers, np.nan)


def _entries(layout: FoldLayout, bags: list[EntryInput], times: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """One row of entries per kept event."""
    out = np.empty((len(times), layout.entries.width if layout.entries else 0), np.int64)
    for i, item in enumerate(bags):
        item.lift(times, kept, out, int(layout.entries.rows[i, INPUT]))  # type: ignore[union-attr]
    return out


def _lift(
    layout: FoldLayout, inputs: list[_Input], times: np.ndarray, kept: np.ndarray, everything: bool
) -> np.ndarray:
    """One row of lanes per kept event."""
    out = np.empty((len(kept), layout.n_lanes), np.int64)

    def pick(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values if everything else values[kept])

    when = pick(times)
    for item in inputs:
        slot, empty = item.slot, _EMPTY[item.slot.op]
        if slot.lift in ("rows", "present", "positive", "not_positive"):
            lift.lift_count(pick(item.flags), out, slot.offset)
        elif slot.lift in ("decayed", "decayed_count"):
            numbers = np.where(item.flags, 1.0, np.nan) if slot.lift == "decayed_count" else item.numbers
            lift_decayed(when, pick(numbers), slot.half_life, out, slot.offset)
        elif slot.lift == "time":
            lift.lift_time(when, pick(item.flags), empty, out, slot.offset)
        elif slot.lift == "sum":
            lift.lift_sum(pick(item.numbers), out, slot.offset)
        elif slot.lift == "squares":
            lift.lift_squares(pick(item.numbers), out, slot.offset)
        elif slot.lift == "products":
            lift.lift_product(pick(item.numbers), pick(item.others), out, slot.offset)
        elif slot.lift == "bins":
            _put_bins(pick(item.numbers), slot, out)
        elif slot.lift in _POWERS:
            lift.lift_power(pick(item.numbers), _POWERS[slot.lift], slot.width, out, slot.offset)
        elif slot.lift == "logarithms":
            lift.lift_logarithm(pick(item.numbers), out, slot.offset)
        elif slot.lift == "extreme":
            lift.lift_extreme(pick(item.numbers), empty, out, slot.offset)
        elif slot.lift == "dated":
            lift.lift_dated(when, pick(item.numbers), empty, out, slot.offset)
        elif slot.kinds:
            _put_kept(item, when, pick, empty, out)
        else:
            text = item.text if everything else item.text.take(pa.array(kept))
            valid = np.asarray(text.is_valid()).astype(bool)
            lift_texts(text, valid, when, empty, out, slot.offset, slot.width)
    return out


def bin_of(numbers: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return the bin that each number lies in, counted from 0, as float64; NaN for none."""
    places = np.searchsorted(edges, numbers, side="right") - 1
    places[numbers == edges[-1]] = len(edges) - 2
    inside = (places >= 0) & (places < len(edges) - 1) & ~np.isnan(numbers)
    return np.where(inside, places, np.nan)


def _put_bins(numbers: np.ndarray, slot: Slot, out: np.ndarray) -> None:
    """One for the bin that each number lies in, if it lies in any; in the last one its end does too."""
    out[:, slot.offset : slot.offset + slot.width] = 0
    places = bin_of(numbers, slot.bins)
    inside = np.flatnonzero(~np.isnan(places))
    out[inside, slot.offset + places[inside].astype(np.int64)] = 1


def _put_kept(
    item: _Input, when: np.ndarray, pick: Callable[[np.ndarray], np.ndarray], empty: np.int64, out: np.ndarray
) -> None:
    """What a value is chosen by, its time, and the value itself; the latter two inverted for the latest of the least."""
    slot, valid = item.slot, pick(item.flags)
    first = np.zeros_like(when) if slot.lift == "kept" else when
    parts = [first.reshape(-1, 1), pick(item.kept[0].lanes)]
    if slot.lift == "chosen":
        inverted = slot.op == lanes.LEAST
        parts = [pick(item.kept[1].lanes), *(~part if inverted else part for part in parts)]
    place = slot.offset
    for part in parts:
        out[:, place : place + part.shape[1]] = np.where(valid[:, None], part, empty)
        place += part.shape[1]
