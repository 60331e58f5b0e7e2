"""The point-in-time join: what would have been served for each example, computed from history.

A stream group is folded over the events available at each example's instant; a batch group gives the newest row visible
then. Keys are grouped once per group and key mapping and every step is over whole columns, so the time goes into the
kernel. No example is lost and their order is kept: without history an example gets what an empty history gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.buffer.codec.types import from_arrow
from millstream.definitions.data_types import carried
from millstream.definitions.feature_group import BatchFeatureGroup
from millstream.definitions.feature_view import FeatureView, GroupRead, ViewColumn
from millstream.definitions.group_version import Group
from millstream.definitions.list_columns import Lists
from millstream.definitions.source import Source
from millstream.engines.engine import FIRST
from millstream.errors import TrainingError, nearest
from millstream.fold import Prepared, as_of, encode_keys, layout_of, prepare, probes_of, request_lanes
from millstream.fold.rows import rows_as_of
from millstream.fold.sections import joined as joined_sections
from millstream.store.offline import Where
from millstream.train.encoding import typed
from millstream.train.stated import newest_of, of_keys

Columns = dict[str, NDArray[Any]]
Instants = NDArray[np.int64]
_Read = Callable[[pa.Array, GroupRead], Columns]  # from encoded keys, one per example, to the group's features

AT = "_at"  # the column of an example that holds its instant


class Past(Protocol):
    """What a join reads: stored history, or tables in memory."""

    def group(self, group: Group) -> Group:
        """Return the version of a view's group to compute; called first for every group of the view."""
        ...

    def events(self, source: Source) -> pa.Table:
        """Return the validated events of a source, without repeats, with `_partition`, `_position` and `_arrival`."""
        ...

    def rows(self, group: BatchFeatureGroup, where: Where = ()) -> Iterable[pa.Table]:
        """Return the rows the query ever stated, some at a time: join keys, `event_time`, `available_time`, its features.

        At least one piece comes, which may be empty. Those that are not meant by `where` may be left out.
        """
        ...

    def available(self, group: Group, events: Prepared) -> Instants:
        """Return when (µs) serving had each of the events; called once per group that folds."""
        ...


def join(view: FeatureView, examples: pa.Table, past: Past) -> pa.Table:
    """Return the view's columns for each example, as they would have been served at its instant.

    Args:
        view: the features wanted.
        examples: the view's entity keys and request fields, and `_at`, the instant of each example (int64, µs). An
            example without an instant reads an empty history.
        past: where events and rows come from.

    Returns:
        pa.Table: one row per example, in their order: the entity keys, `_at`, then the view's columns.

    Raises:
        TrainingError: the examples lack a column, or hold a value of another type than the view's.
    """
    given = _given(view, examples)
    at = np.asarray(given[AT].fill_null(FIRST)).astype(np.int64)
    found = {name: carried(given[name]) for name in view.request}
    seen: dict[Source, pa.Table] = {}
    for group, reads in _by_group(view, past):
        read = _reader(group, past, at, seen, given)
        for one in reads:
            features = read(encode_keys(group.entity.keys, [given[key] for _, key in one.keys]), one)
            found |= columns_of(one, features, len(at))
    inputs = view.assemble(found, at)
    columns = {name: given[name] for name in (*view.entity_keys, AT)}
    for entry in view.entries:
        stays = entry.kind == "request"
        columns[entry.column] = given[entry.column] if stays else typed(inputs[entry.column], entry.dtype)
    return pa.table(columns)


def columns_of(read: GroupRead, features: Mapping[str, NDArray[Any]], rows: int) -> Columns:
    """Return the view's columns of one read of a group.

    Args:
        read: the read, which says which columns those are.
        features: the features that were computed, by name; one that the group's version does not have is null.
        rows: how many examples there are.
    """

    def of(column: ViewColumn) -> NDArray[Any]:
        values = features.get(column.feature)
        there = values is not None and (not column.of_list or isinstance(values, Lists))
        return column.of(values) if there else column.nulls(rows)

    return {column.column: of(column) for column in read.columns}


def union(pieces: Sequence[Prepared]) -> Prepared:
    """Return the prepared events of several sources as those of one, for a group that folds their union."""
    if len(pieces) == 1:
        return pieces[0]
    every = pa.concat_arrays([pa.array(piece.keys, pa.binary()) for piece in pieces]).dictionary_encode()
    places = np.asarray(every.indices).astype(np.int64)
    starts = np.cumsum([0, *(len(piece.keys) for piece in pieces)])

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    return Prepared(
        keys=every.dictionary.to_pylist(),
        codes=np.concatenate([places[start:][piece.codes] for start, piece in zip(starts, pieces, strict=False)]),
        times=joined("times"),
        arrivals=joined("arrivals"),
        partitions=joined("partitions"),
        positions=joined("positions"),
        lanes=joined("lanes"),
        entries=joined("entries"),
        skipped={},
        dead=[row for piece in pieces for row in piece.dead],
        sections=joined_sections([piece.sections for piece in pieces]),
    )


def _given(view: FeatureView, examples: pa.Table) -> dict[str, pa.Array]:
    """The examples' keys, request fields and instants, each of the type the view says."""
    wanted = {**view.entity_keys, **view.request, AT: "int64"}
    return {name: _conformed(view, examples, name, kind) for name, kind in wanted.items()}


def _conformed(view: FeatureView, examples: pa.Table, name: str, kind: str) -> pa.Array:
    if name not in examples.column_names:
        close = nearest(name, examples.column_names)
        raise TrainingError(
            f"Examples of view '{view.name}' lack the column '{name}'; they have {', '.join(examples.column_names)}.",
            f"rename '{close}' to '{name}'." if close else f"add '{name}' as {kind}; null where it is not known.",
        )
    column = examples[name].combine_chunks()
    values, wrong = from_arrow(column, kind)
    if wrong is not None and wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise TrainingError(
            f"Examples of view '{view.name}': '{name}' is {column[row].as_py()!r} in row {row}; expected {kind}.",
            f"convert the column to {kind}; null where it is not known.",
        )
    return values


def _by_group(view: FeatureView, past: Past) -> list[tuple[Group, list[GroupRead]]]:
    """Each group of the view once, with its reads: it is prepared once, whatever keys it is read by."""
    groups: dict[str, tuple[Group, list[GroupRead]]] = {}
    for read in view.groups:
        if read.group.name not in groups:
            groups[read.group.name] = (past.group(read.group), [])
        groups[read.group.name][1].append(read)
    return list(groups.values())


def _reader(
    group: Group, past: Past, at: Instants, seen: dict[Source, pa.Table], given: Mapping[str, pa.Array]
) -> _Read:
    """How to read the group at the examples' instants; `given` are their keys and request fields.

    `seen` keeps the events of each source for the next group.
    """
    if isinstance(group, BatchFeatureGroup) and group.query is not None:
        return partial(_stated, group, past, at, given)
    for source in group.sources:
        if source not in seen:
            seen[source] = past.events(source)
    events = union([prepare([group], source, seen[source])[0] for source in group.sources])
    available = past.available(group, events)
    layout = layout_of(group)

    def read(keys: pa.Array, one: GroupRead) -> Columns:
        probes = probes_of(layout, {name: given[name] for name in one.probes}, len(at))
        added = None if one.fields is None else request_lanes(group, one.fields, given, at)  # type: ignore[arg-type]
        return as_of(layout, events, available, keys, at, at, probes, added).columns

    return read


def _stated(
    group: BatchFeatureGroup, past: Past, at: Instants, given: Mapping[str, pa.Array], keys: pa.Array, one: GroupRead
) -> Columns:
    """A query's features at the examples' instants."""
    types = group.entity.keys
    pieces = past.rows(group, of_keys(types, [given[key] for _, key in one.keys]))
    return rows_as_of(group.schema_of_features, newest_of(types, pieces, keys, at), keys, at, group.ttl)
