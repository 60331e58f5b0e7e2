"""Requests as events: the lanes and entries of one more row at the instant of each read, from a table of many or from a few.

Training makes them by the query that prepares events, the online read by the compiled form of the same expressions, which
is held to the query when a view is built.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.definitions.data_types import arrow_type, where
from millstream.definitions.request_row import compiled, source_columns
from millstream.engines.engine import FIRST, LAST
from millstream.fold import row_lift
from millstream.fold.decayed import lift_decayed
from millstream.fold.entries import INPUT, NEWEST, SPREAD
from millstream.fold.entry_inputs import HASHED, hash_of_bytes, hash_of_lane
from millstream.fold.fixed_point import LIMIT
from millstream.fold.lifting import bin_of
from millstream.fold.ordered import coded, width_of
from millstream.fold.preparation import BagPlan, Plan, lanes_of_table, plan_of
from millstream.fold.sections import SectionRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from millstream.definitions import StreamFeatureGroup
    from millstream.fold.lane_plans import Slot


def request_lanes(
    group: StreamFeatureGroup, fields: Mapping[str, str], given: Mapping[str, pa.Array], at: np.ndarray
) -> np.ndarray:
    """Return for each of many requests what it adds to the group, which may be nothing: its lanes, then its entries.

    Args:
        group: the group that is read.
        fields: by columns of its source, the fields that give them; the others are null.
        given: those fields, one value for each request.
        at: the instants (µs); a request without one (`FIRST`) adds nothing.
    """
    return lanes_of_table(group, request_table(group, fields, given, at), at)


def request_table(
    group: StreamFeatureGroup, fields: Mapping[str, str], given: Mapping[str, pa.Array], at: np.ndarray
) -> pa.Table:
    """Return many requests as rows of the group's sources, without values where a request has no instant.

    Args:
        group: the group that is read.
        fields: by columns of its source, the fields that give them; the others are null.
        given: those fields, one value for each request.
        at: the instants (µs), int64; `FIRST` for a request without one.
    """
    dated = at != FIRST
    times = pa.array(np.where(dated, at, 0)).cast(arrow_type("timestamp"))
    columns: dict[str, Any] = {}
    for name, kind in source_columns(group).items():
        column = given[fields[name]] if name in fields else pa.nulls(len(at), arrow_type(kind))
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_integer(column.type) and kind == "timestamp":
            column = column.cast(pa.int64())
        column = column.cast(arrow_type(kind))
        keep = pa.array(dated)
        if kind == "float64":
            keep = pc.and_(keep, pc.fill_null(pc.is_finite(column), False))
        columns[name] = where(keep, column)
    columns |= {source.time: times for source in group.sources}
    return pa.table(columns)


@dataclass(frozen=True, eq=False)
class Added:
    """What requests add to groups: lanes, row by row for each group; `begins` says where a group's are (-1: none are).

    `entries` are those of each group, one row for each request; `sections` what they add to each of its sections.
    """

    lanes: np.ndarray
    begins: np.ndarray
    entries: Sequence[np.ndarray]
    sections: Sequence[tuple[SectionRows, ...]]


class RequestRows:
    """Makes what few requests at a time add to the groups of a view, without a query.

    Args:
        reads: for each group its fields by the columns of its source (the others are null); None where nothing is added.
    """

    def __init__(self, reads: Sequence[tuple[StreamFeatureGroup, Mapping[str, str]] | None]) -> None:
        self._row, self._kept = _Row(), _KeptValues()
        self._bins: list[tuple[int, tuple[float, ...]]] = []
        self._cuts: list[list[tuple[int, int, int, int]]] = []
        checks: list[tuple[int, int]] = []
        slots: list[tuple[int, ...]] = []
        bags: list[tuple[int, ...]] = []
        payload: list[tuple[int, ...]] = []
        groups: list[tuple[int, ...]] = []
        self._decayed: list[tuple[int, Slot, int]] = []
        for read in reads:
            width = entries = 0
            cuts: list[tuple[int, int, int, int]] = []
            if read is not None:
                plan, places = plan_of(read[0]), self._row.places(*read)
                checks += _checks(plan, places)
                self._decayed += _decayed(len(groups), plan, places)
                for part in plan.parts:
                    slots += [_slot(width, *item, places, self._kept, self._bins) for item in part.inputs]
                    for at, bag in enumerate(part.bags):
                        begin = entries + int(part.layout.entries.rows[at, INPUT])  # type: ignore[union-attr]
                        bags.append(_bag(begin, bag, places, self._kept))
                        begin += 1 + bag.bag.key_lanes
                        payload += [_slot(begin, *item, places, self._kept, self._bins) for item in bag.payload]
                    ends = (
                        width + part.layout.n_lanes,
                        entries + (part.layout.entries.width if part.layout.entries else 0),
                    )
                    cuts.append((width, ends[0], entries, ends[1]))
                    width, entries = ends
            groups.append((0, width, 0, entries, len(checks), len(slots), len(bags), len(payload)))
            self._cuts.append(cuts)
        self._adds = np.array([read is not None for read in reads])
        self._checks = np.array(checks, np.int64).reshape(-1, 2)
        self._slots, self._payload = (np.array(part, np.int64).reshape(-1, 10) for part in (slots, payload))
        self._slots[self._slots[:, row_lift.LIFT] == row_lift.BINS, row_lift.NUMBER] += len(self._row)
        self._bags = np.array(bags, np.int64).reshape(-1, row_lift.PARTS + 2 * row_lift.MOST_PARTS)
        self._groups = np.array(groups, np.int64).reshape(-1, 8)

    def added(self, values: Mapping[str, Sequence[Any]], at: np.ndarray) -> Added:
        """Return what requests, by their fields (None for null) and instants (µs), add to the groups."""
        rows = [self._row.values(values, i, instant) for i, instant in enumerate(at.tolist())]
        groups, begins, sizes = self._one_placed if len(at) == 1 else self._placed(len(at))
        lanes, entries = (np.empty((1, size), np.int64) for size in sizes)
        numbers = np.array([list(map(_number, row)) for row in rows], np.float64).reshape(len(at), len(self._row))
        if self._bins:
            numbers = np.column_stack([numbers, *(bin_of(numbers[:, place], edges) for place, edges in self._bins)])
        kept = np.array([list(self._kept.lanes(row)) for row in rows], np.int64).reshape(len(at), self._kept.width)
        counts = np.zeros((len(groups), len(at)), np.bool_)
        row_lift.lift_rows(
            numbers, kept, at, self._checks, self._slots, self._bags, self._payload, groups, lanes, entries, counts
        )
        for group, slot, number in self._decayed:
            begin, width = groups[group, :2].tolist()
            mine = lanes[0, begin : begin + width * len(at)].reshape(len(at), width)
            values_of = numbers[:, number] if number >= 0 else np.ones(len(at))
            lift_decayed(at, np.where(mine[:, slot.offset] == 1, values_of, np.nan), slot.half_life, mine, slot.offset)
        parts = _by_group(entries[0], groups[:, 2:4], len(at))
        found = Added(lanes[0], begins, parts, [()] * len(groups))
        return self._with_sections(found, groups, counts) if any(len(cuts) > 1 for cuts in self._cuts) else found

    def _placed(self, rows: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The groups with the places of so many rows, where the lanes begin of those that add any, and how many there are."""
        groups = self._groups.copy()
        sizes = groups[:, [1, 3]] * rows
        ends = np.cumsum(sizes, axis=0)
        groups[:, [0, 2]] = ends - sizes
        return groups, np.where(self._adds, groups[:, 0], -1), ends[-1].tolist()

    @cached_property
    def _one_placed(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        return self._placed(1)

    def _with_sections(self, added: Added, groups: np.ndarray, counts: np.ndarray) -> Added:
        """What was lifted side by side for the sections of groups too, each apart."""
        n, lanes, begins = counts.shape[1], [added.lanes], added.begins.copy()
        entries, sections, end = list(added.entries), list(added.sections), len(added.lanes)
        for g, cuts in enumerate(self._cuts):
            if len(cuts) < 2:
                continue
            begin, width = groups[g, 0], groups[g, 1]
            block = added.lanes[begin : begin + width * n].reshape(n, width)
            parts = [
                SectionRows(
                    counts[g], np.ascontiguousarray(block[:, a:b]), np.ascontiguousarray(added.entries[g][:, c:d])
                )
                for a, b, c, d in cuts
            ]
            begins[g], entries[g], sections[g] = end, parts[0].entries, tuple(parts[1:])
            lanes.append(parts[0].lanes.reshape(-1))
            end += lanes[-1].size
        return Added(np.concatenate(lanes), begins, entries, sections)


def _by_group(entries: np.ndarray, places: np.ndarray, rows: int) -> list[np.ndarray]:
    """The entries of each group, one row for each request."""
    if not entries.size:
        return [np.empty((rows, 0), np.int64)] * len(places)
    return [entries[begin : begin + width * rows].reshape(rows, width) for begin, width in places.tolist()]


#: What stands for the value of an expression that fails on a row.
_FAILED = object()


def _number(value: Any) -> float:
    """A value as the lift of rows takes it: NaN for null, infinity for what fails, 0 for what is there but no number."""
    if value is None:
        return math.nan
    if isinstance(value, int | float):
        number = float(value)
        return number if math.isfinite(number) else math.nan
    return math.inf if value is _FAILED else 0.0


class _Row:
    """The expressions that groups evaluate of a request, each once for all groups that read it by the same fields."""

    def __init__(self) -> None:
        self._rows: list[tuple[dict[str, None], tuple[tuple[str, str, bool], ...], tuple[str, ...]]] = []
        self._expressions: dict[tuple[int, str], Callable[[Mapping[str, Any]], Any]] = {}

    def places(self, group: StreamFeatureGroup, fields: Mapping[str, str]) -> dict[str, int]:
        """Return by its text the place of each expression of a group among the values of a row."""
        kinds = source_columns(group)
        given = tuple(
            (name.lower(), field, kinds[name] == "float64") for name, field in fields.items() if name in kinds
        )
        row = (
            dict.fromkeys(name.lower() for name in kinds),
            given,
            tuple(source.time.lower() for source in group.sources),
        )
        if row not in self._rows:
            self._rows.append(row)
        number, found = self._rows.index(row), {}
        for sql, expression in compiled(f"StreamFeatureGroup '{group.name}'", group).items():
            self._expressions.setdefault((number, sql), expression.value)
            found[sql] = list(self._expressions).index((number, sql))
        return found

    def __len__(self) -> int:
        return len(self._expressions)

    def values(self, given: Mapping[str, Sequence[Any]], i: int, at: int) -> list[Any]:
        """Return what all expressions are for one of some requests."""
        rows, found = [], []
        for nulls, columns, times in self._rows:
            row: dict[str, Any] = {**nulls}
            for name, field, real in columns:
                value = given[field][i]
                row[name] = value if not real or value is None or math.isfinite(value) else None
            for name in times:
                row[name] = at
            rows.append(row)
        for (number, _), expression in self._expressions.items():
            try:
                found.append(expression(rows[number]))
            except ArithmeticError:
                found.append(_FAILED)
        return found


class _KeptValues:
    """The values of a row that are kept as they are, as lanes after one that says whether there is any."""

    def __init__(self) -> None:
        self._all: dict[tuple[tuple[int, ...], tuple[str, ...], int, str], tuple[int, int]] = {}
        self.width = 0

    def place(
        self, values: tuple[int, ...], kinds: tuple[str, ...], max_bytes: int, form: str = "value"
    ) -> tuple[int, int]:
        """Return where the lanes of a value, by its place in the row, begin, and how many follow the first.

        `form` is "value", "hash", "bounded" for a number that must lie within the range of quantiles, or "struct" for
        several values in turn.
        """
        key = (values, kinds, max_bytes, form)
        if key not in self._all:
            width = sum(width_of(kind, max_bytes) for kind in kinds) + (len(kinds) if form == "struct" else 0)
            self._all[key] = (self.width, 1 if form == "hash" else width)
            self.width += 1 + self._all[key][1]
        return self._all[key]

    def lanes(self, row: Sequence[Any]) -> Iterator[int]:
        """Go through the lanes of all of them."""
        for (values, kinds, max_bytes, form), (_, width) in self._all.items():
            place, kind = values[0], kinds[0]
            if form == "struct":
                yield from _struct_of([row[one] for one in values], kinds, max_bytes)
            elif form == "hash":
                yield from hash_of(row[place], kind)
            elif form == "bounded" and isinstance(row[place], int | float) and LIMIT <= abs(row[place]) < math.inf:
                yield from (row_lift.TOO_LONG, 0)
            else:
                yield from _lanes_of(row[place], kind, max_bytes, width)


def _struct_of(values: Sequence[Any], kinds: Sequence[str], max_bytes: int) -> tuple[int, ...]:
    """Several values as `fold.entry_inputs` has a struct of them."""
    found = [
        _lanes_of(value, kind, max_bytes, width_of(kind, max_bytes)) for value, kind in zip(values, kinds, strict=True)
    ]
    states = [status for status, *_ in found]
    there = row_lift.GIVEN if row_lift.GIVEN in states else row_lift.NULL
    status = row_lift.TOO_LONG if row_lift.TOO_LONG in states else there
    return (status, *(lane for one, *lanes in found for lane in (int(one == row_lift.GIVEN), *lanes)))


def hash_of(value: Any, kind: str) -> tuple[int, ...]:
    """Return a value as `fold.entry_inputs` tells it apart: whether there is any (`row_lift.GIVEN`), and its 64 bits."""
    if value is None or value is _FAILED:
        return (row_lift.NULL, 0)
    if kind in HASHED:
        raw = value.encode() if isinstance(value, str) else value.bytes
        return (row_lift.GIVEN, hash_of_bytes(raw))
    status, lane = _lanes_of(value, kind, 0, 1)
    return (status, hash_of_lane(lane) if status == row_lift.GIVEN else 0)


def _lanes_of(value: Any, kind: str, max_bytes: int, width: int) -> tuple[int, ...]:
    """One value as `fold.ordered` has it."""
    if kind == "string" and isinstance(value, str):
        raw, tail = value.encode(), 1 if max_bytes < 256 else 2
        if len(raw) > max_bytes:
            return (row_lift.TOO_LONG, *[0] * width)
        packed = raw.ljust(8 * width - tail, b"\0") + len(raw).to_bytes(tail, "big")
        return (row_lift.GIVEN, *(lane - 2**63 for lane in struct.unpack(f">{width}Q", packed)))
    if value is None or value is _FAILED or (kind == "timestamp" and not FIRST <= value <= LAST):
        return (row_lift.NULL, *[0] * width)
    if kind in ("int64", "timestamp", "bool"):
        return (row_lift.GIVEN, int(value))
    if kind != "float64":
        found = coded("", pa.chunked_array([pa.array([value], arrow_type(kind))]), kind, max_bytes, None)
        status = row_lift.TOO_LONG if found.refused[0] else row_lift.GIVEN if found.valid[0] else row_lift.NULL
        return (status, *found.lanes[0].tolist())
    number = float(value)
    if not math.isfinite(number):
        return (row_lift.NULL, 0)
    (bits,) = struct.unpack("<q", struct.pack("<d", number + 0.0))
    return (row_lift.GIVEN, bits if bits >= 0 else bits ^ (2**63 - 1))


_LIFTS = {
    "rows": row_lift.FLAGS, "present": row_lift.FLAGS, "time": row_lift.TIMES, "positive": row_lift.POSITIVE,
    "not_positive": row_lift.NOT_POSITIVE, "sum": row_lift.SUMS, "squares": row_lift.SQUARES,
    "products": row_lift.PRODUCTS, "cubes": row_lift.CUBES, "fourths": row_lift.FOURTHS,
    "decayed": row_lift.WEIGHED, "decayed_count": row_lift.FLAGS,
    "logarithms": row_lift.LOGARITHMS, "extreme": row_lift.EXTREMES, "dated": row_lift.DATED, "kept": row_lift.KEPT,
    "kept_dated": row_lift.KEPT_DATED, "text": row_lift.KEPT_DATED, "chosen": row_lift.CHOSEN,
    "bins": row_lift.BINS,
    "vector": row_lift.CUBES,  # no field of a request is a list, so that all of its lanes are those of null
}  # fmt: skip


def _checks(plan: Plan, places: Mapping[str, int]) -> list[tuple[int, int]]:
    """What a row must be to count for a group."""
    checks = [(places[sql], row_lift.SOUND) for sql in plan.wanted]
    checks += [(places[sql], row_lift.THERE) for sql in plan.keys]
    return checks + ([(places[plan.where], row_lift.TRUE)] if plan.where else [])


def _decayed(group: int, plan: Plan, places: Mapping[str, int]) -> list[tuple[int, Slot, int]]:
    """What of a group decays: the group, the slot, and the place of what it adds; -1 where it counts."""
    return [
        (group, slot, -1 if slot.lift == "decayed_count" or sql is None else places[sql])
        for slot, sql, *_ in plan.parts[0].inputs
        if slot.half_life
    ]


def _slot(
    at: int,
    slot: Slot,
    sql: str | None,
    where: str | None,
    other: str | None,
    places: Mapping[str, int],
    kept: _KeptValues,
    bins: list[tuple[int, tuple[float, ...]]],
) -> tuple[int, ...]:
    """A row of the slots that `row_lift` knows, of a part of a group whose lanes begin at `at`.

    The number of one that counts in bins is which bin it is, and stands behind the others in the order of `bins`.
    """
    number, by, condition = (-1 if one is None else places[one] for one in (sql, other, where))
    if slot.bins:
        bins.append((number, slot.bins))
        number = len(bins) - 1
    kinds = slot.kinds or (("string",) if slot.lift == "text" else ())
    parts = [kept.place((place,), (kind,), slot.max_bytes) for place, kind in zip((number, by), kinds, strict=False)]
    parts += [(-1, 0)] * (2 - len(parts))
    return (
        _LIFTS[slot.lift], slot.op, at + slot.offset, slot.width, number, by, condition, parts[0][0], parts[1][0], parts[0][1],
    )  # fmt: skip


def _bag(at: int, plan: BagPlan, places: Mapping[str, int], kept: _KeptValues) -> tuple[int, ...]:
    """A row of the bags that `row_lift` knows."""
    bag = plan.bag
    forms = [part.form for part in bag.key]
    form = "hash" if "hash" in forms else "bounded" if bag.rule == SPREAD else "value"
    read = tuple(places[sql] for sql in plan.expressions)
    value, lanes = kept.place(
        read, tuple(kind for _, kind in bag.read), bag.max_bytes, "struct" if bag.fields else form
    )
    parts = [(row_lift.OF_TIME if part.form == "time" else row_lift.OF_VALUE, int(part.inverted)) for part in bag.key]
    parts += [(row_lift.NO_PART, 0)] * (row_lift.MOST_PARTS - len(parts))
    condition, needed = (-1 if sql is None else places[sql] for sql in (plan.where, plan.other))
    values = [kept.place((needed,), slot.kinds, slot.max_bytes)[0] for slot in bag.payload if slot.kinds]
    beside = row_lift.THE_TIME if bag.rule == NEWEST else row_lift.ONE if bag.counted else row_lift.NOTHING
    return (
        at, condition, value, lanes, beside, needed, *(values or [-1])[:1], *(number for part in parts for number in part),
    )  # fmt: skip
