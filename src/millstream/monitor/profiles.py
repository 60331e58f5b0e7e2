"""How served features and scores are distributed: counts in bins that are frozen once, so any two spans compare.

Bins come from a reference, the training set or the first captures, and never move after; a profile of a span is a few
numbers per column, and the profiles of two spans add up to that of both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.buffer.reading import Readable, through
from millstream.buffer.topics import capture_topic
from millstream.history.captures import capture_tables

QUANTILES = 20
CATEGORIES = 50
ENOUGH = 500
HOUR = 3_600_000_000
DAY = 24 * HOUR
HOURS = 168
"""How many hours are kept as they are; those before are added up by day."""
DAYS = 400
"""How many of those days are kept."""
OTHER = "(other)"

PROFILE = pa.schema(
    [
        ("column", pa.string()), ("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64()),
        ("rows", pa.int64()), ("nulls", pa.int64()), ("mean", pa.float64()),
        ("edges", pa.list_(pa.float64())), ("labels", pa.list_(pa.string())), ("counts", pa.list_(pa.int64())),
    ]
)  # fmt: skip
"""One row per column and span: `counts` holds one more bin than `edges` for a number (the bins are below the first
edge, from each edge to the next, and from the last on), or one per label for a category."""


@dataclass(frozen=True)
class Bins:
    """The frozen bins of one column: `edges` of a number, `labels` of a category, of which the last is all others."""

    column: str
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """`number` or `category`."""
        return "category" if self.labels else "number"

    def count(self, values: pa.ChunkedArray) -> list[int]:
        """Return how many non-null values fall into each bin."""
        if self.labels:
            known = pa.array(self.labels[:-1], pa.string())
            places = pc.fill_null(pc.index_in(_words(values), known), len(self.labels) - 1)
            return [int(n) for n in np.bincount(np.asarray(places), minlength=len(self.labels))]
        places = np.searchsorted(np.array(self.edges), _numbers(values), side="right")
        return [int(n) for n in np.bincount(places, minlength=len(self.edges) + 1)]


def freeze(reference: pa.Table) -> tuple[Bins, ...]:
    """Return bins for every column of a reference that can be profiled: twenty quantiles, or the fifty commonest words.

    Of the columns of a capture that begin with an underscore only the score is taken.

    >>> freeze(pa.table({"amount": [1.0, 2.0, 3.0, None], "country": ["de", "fr", "de", "de"]}))[1].labels
    ('de', 'fr', '(other)')
    """
    found = []
    for name in reference.column_names:
        kind = reference[name].type
        if name.startswith("_") and name != "_score":
            continue
        values = pc.drop_null(reference[name])
        if pa.types.is_string(kind) or pa.types.is_boolean(kind):
            found.append(Bins(name, labels=(*_commonest(values), OTHER)))
        elif (
            pa.types.is_floating(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_date32(kind)
            or pa.types.is_decimal(kind)
        ):
            numbers = _numbers(values)
            shares = np.arange(1, QUANTILES) / QUANTILES
            edges = np.unique(np.quantile(numbers, shares)) if len(numbers) else np.empty(0)
            found.append(Bins(name, edges=tuple(float(edge) for edge in edges)))
    return tuple(found)


def profile(bins: Sequence[Bins], table: pa.Table, start: int, end: int) -> pa.Table:
    """Return the profile (see `PROFILE`) of the rows of one span.

    Args:
        bins: the bins of each column; one that the rows do not have is left out.
        table: the rows.
        start: where the span begins (µs).
        end: where it ends (µs).

    >>> bins = freeze(pa.table({"amount": [1.0, 2.0, 3.0]}))
    >>> rows = profile(bins, pa.table({"amount": [0.5, None, 9.5]}), 0, 10).to_pylist()
    >>> rows[0]["rows"], rows[0]["nulls"], rows[0]["mean"], rows[0]["counts"][0], rows[0]["counts"][-1]
    (3, 1, 5.0, 1, 1)
    """
    rows = []
    for one in bins:
        if one.column not in table.column_names:
            continue
        values = table[one.column]
        kept = pc.drop_null(values)
        mean = float(_numbers(kept).mean()) if one.kind == "number" and len(kept) else None
        rows.append({
            "column": one.column, "kind": one.kind, "start": start, "end": end, "rows": len(values),
            "nulls": len(values) - len(kept), "mean": mean, "edges": one.edges, "labels": one.labels,
            "counts": one.count(kept),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, PROFILE)


def combine(profiles: Sequence[pa.Table]) -> pa.Table:
    """Return profiles of the same bins added up: rows of one column and span become one."""
    added: dict[tuple[str, int, int], dict[str, Any]] = {}
    for row in (row for one in profiles for row in one.to_pylist()):
        key = (row["column"], row["start"], row["end"])
        added[key] = _added(added[key], row) if key in added else row
    ordered = sorted(added.values(), key=lambda row: row["start"])
    return pa.Table.from_pylist(ordered, PROFILE)


def bins_of(profiled: pa.Table) -> tuple[Bins, ...]:
    """Return the bins that a profile was made with."""
    columns = profiled.select(["column", "edges", "labels"]).to_pylist()
    return tuple(
        {row["column"]: Bins(row["column"], tuple(row["edges"]), tuple(row["labels"])) for row in columns}.values()
    )


class Captures(Readable, Protocol):
    """The part of a log that captures are read through."""

    def topics(self) -> dict[str, int]:
        """Return all topics with their numbers of partitions."""
        ...

    def ends(self, topic: str) -> list[tuple[int, int]]:
        """Return the first position kept and where it ends, for each partition."""
        ...


class Profiler:
    """Keeps the profile of one model's captures, hour by hour for a week and then day by day, in `{folder}/{model}.arrow`.

    The file holds the position it has read up to, so a restart counts nothing twice. Bins are frozen from
    `reference`, if given, else from the first 500 captures; a column that appears later is frozen when it does.
    """

    def __init__(self, log: Captures, folder: Path, model: str, *, reference: pa.Table | None = None) -> None:
        self._log, self._topic = log, capture_topic(model)
        self._path = folder / f"{model}.arrow"
        self._profile, self._position = _opened(self._path)
        self._bins = {one.column: one for one in bins_of(self._profile)}
        if reference is not None and not self._bins:
            self._bins = {one.column: one for one in freeze(reference)}

    def table(self) -> pa.Table:
        """Return the profile kept so far."""
        return self._profile

    def step(self, limit: int = 50_000) -> int:
        """Count what was captured since; returns the number of captures counted."""
        if self._topic not in self._log.topics():
            return 0
        first, end = self._log.ends(self._topic)[0]
        pieces: list[pa.Table] = []
        rows, position = 0, max(self._position, first)
        for records in through(self._log, self._topic, 0, position, end, limit):
            pieces += capture_tables(records)
            rows, position = rows + len(records), records.next
            if rows >= limit:
                break
        if not rows or (not self._bins and rows < ENOUGH):
            return 0
        captures = pa.concat_tables(pieces, promote_options="default")
        for one in freeze(captures):
            self._bins.setdefault(one.column, one)
        hours = np.asarray(captures["_received_at"]) // HOUR
        parts = [
            profile(
                list(self._bins.values()),
                captures.filter(pa.array(hours == hour)),
                int(hour) * HOUR,
                int(hour + 1) * HOUR,
            )
            for hour in np.unique(hours)
        ]
        self._profile = _thinned(_added_to(self._profile, parts))
        self._position = position
        _write(self._path, self._profile, self._position)
        return rows


def _added_to(kept: pa.Table, parts: Sequence[pa.Table]) -> pa.Table:
    """A profile and some spans more; only what it has of those spans is taken apart."""
    touched = _starts_in(kept, {start for part in parts for start in part["start"].to_pylist()})
    return _ordered([kept.filter(pa.array(~touched)), combine([kept.filter(pa.array(touched)), *parts])])


def _thinned(kept: pa.Table) -> pa.Table:
    """A profile with no more than so many hours, the newest, and so many days before them; by count, not by the clock."""
    starts = np.asarray(kept["start"])
    long = np.asarray(kept["end"]) - starts > HOUR
    hours = np.unique(starts[~long])
    if len(hours) <= HOURS:
        return kept
    old = ~long & (starts < hours[-HOURS])
    begin = starts[old] // DAY * DAY
    days = kept.filter(pa.array(old))
    for name, instants in (("start", begin), ("end", begin + DAY)):
        days = days.set_column(days.column_names.index(name), name, pa.array(instants))
    days = _added_to(kept.filter(pa.array(long)), [days])
    newest = set(np.unique(np.asarray(days["start"]))[-DAYS:].tolist())
    return _ordered([days.filter(pa.array(_starts_in(days, newest))), kept.filter(pa.array(~long & ~old))])


def _starts_in(kept: pa.Table, starts: Collection[int]) -> np.ndarray:
    return np.isin(np.asarray(kept["start"]), np.fromiter(starts, np.int64, len(starts)))


def _ordered(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows of some profiles, the oldest spans first."""
    rows = pa.concat_tables(parts)
    order = np.argsort(np.asarray(rows["start"]), kind="stable")
    return rows.take(pa.array(order)).combine_chunks()


def _added(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    sides = [(side["mean"], side["rows"] - side["nulls"]) for side in (left, right) if side["mean"] is not None]
    total = sum(count for _, count in sides)
    mean = sum(mean * count for mean, count in sides) / total if total else None
    counts = [a + b for a, b in zip(left["counts"], right["counts"], strict=True)]
    rows, nulls = left["rows"] + right["rows"], left["nulls"] + right["nulls"]
    return {**left, "rows": rows, "nulls": nulls, "mean": mean, "counts": counts}


def _commonest(values: pa.ChunkedArray) -> list[str]:
    counted = pc.value_counts(_words(values))
    pairs = sorted(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True), key=_by_count
    )
    return [word for word, _ in pairs[:CATEGORIES]]


def _by_count(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _words(values: pa.ChunkedArray) -> pa.Array:
    words = values.cast(pa.string())
    return words.combine_chunks() if isinstance(words, pa.ChunkedArray) else words


def _numbers(values: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_date32(values.type):  # in days since 1970
        values = values.cast(pa.int32())
    return np.asarray(values.cast(pa.float64(), safe=False), np.float64)


def _opened(path: Path) -> tuple[pa.Table, int]:
    if not path.exists():
        return PROFILE.empty_table(), 0
    with pa.ipc.open_file(path) as file:
        table = file.read_all()
    return table.replace_schema_metadata(None), int(table.schema.metadata[b"position"])


def _write(path: Path, table: pa.Table, position: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = table.replace_schema_metadata({"position": str(position)})
    fresh = path.with_suffix(".new")
    with pa.ipc.new_file(fresh, kept.schema) as writer:
        writer.write_table(kept)
    fresh.replace(path)
