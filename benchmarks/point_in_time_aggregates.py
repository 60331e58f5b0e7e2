"""Distinct counts, medians, last values and windows of events, point in time, beside the same in DuckDB and polars.

Fair: the same Arrow table goes in, every event is an example too, a column comes out, on the same cores, and the values
agree: those of counts and lists wholly, the others to 1e-9. DuckDB is asked for the frames by which its documentation says
these things, polars for its rolling windows. Times are whole seconds, no two of them the same, and hops one second, so that
a constant frame says exactly what our windows say. A window of 24 hours holds about three events of a user where there are
30 days of them, and a hundred at its fullest where all events are of one day.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import SECOND, arrived
from millstream.definitions.list_columns import Lists
from millstream.fold import as_of, encode_keys, layout_of, prepare

FIRST_DAY = 1_600_000_000 * SECOND
DAY = 86_400
USER = ms.Entity("user", keys={"user": "int64"})
SALES = ms.EventStream("sales", time="paid_at", schema={
    "user": "int64", "device": "int64", "amount": "float64", "paid_at": "timestamp"})  # fmt: skip
_OF_A_DAY = "over (partition by user order by second range between 86400 preceding and 1 preceding)"
_OF_20 = "over (partition by user order by second rows between 20 preceding and 1 preceding)"


@dataclass(frozen=True)
class Asked:
    """One feature: ours, DuckDB's, and polars' over the amounts of a user before an example's, where that has any."""

    feature: object
    sql: str
    polars: str | None = None

    @property
    def group(self) -> ms.StreamFeatureGroup:
        """The group that has this feature alone."""
        return ms.StreamFeatureGroup("bench", entity=USER, source=SALES, features=[self.feature])


OF_A_DAY = {
    "DistinctCount": Asked(ms.DistinctCount("device", over="24h", hop="1s"), f"count(distinct device) {_OF_A_DAY}"),
    "Median": Asked(ms.Median("amount", over="24h", hop="1s"), f"quantile_cont(amount, 0.5) {_OF_A_DAY}"),
    "LastK(5)": Asked(ms.LastK("amount", 5, over="24h", hop="1s"),
                      f"coalesce((list(amount) {_OF_A_DAY})[-1:-5:-1], [])"),
}  # fmt: skip
OF_20 = {
    "Sum of 20 events": Asked(ms.Sum("amount", over="20 events"), f"coalesce(sum(amount) {_OF_20}, 0)", "rolling_sum"),
    "Std of 20 events": Asked(ms.Std("amount", over="20 events"), f"stddev_samp(amount) {_OF_20}", "rolling_std"),
}


def run(scale: Scale) -> Iterator[Claim]:
    """Each feature of as many examples as events, of users with a hundred events each."""
    rows = scale.of(1_000_000, least=2_000)
    month, day = _sales(rows, 30 * DAY), _sales(rows, DAY)
    for name, asked in OF_A_DAY.items():
        yield _claim(f"{name} of 24h, {rows:,} events in 30 days", asked, month, scale)
    for name, asked in OF_A_DAY.items():
        # Of more than 64 values a median is an estimate, which is another number than DuckDB's.
        yield _claim(f"{name} of 24h, {rows:,} events in a day", asked, day, scale, same=name != "Median")
    for name, asked in OF_20.items():
        yield _claim(f"{name}, {rows:,} events", asked, month, scale, target=2)
        yield _claim(f"{name}, {rows:,} events", asked, month, scale, target=2, peer=polars)


def _claim(
    what: str,
    asked: Asked,
    sales: pa.Table,
    scale: Scale,
    *,
    target: float = 5,
    same: bool = True,
    peer: Callable[[Asked, pa.Table], pa.Array] | None = None,
) -> Claim:
    theirs = peer or duckdb
    if same:
        _check(ours(asked, sales), theirs(asked, sales))
    found = in_turns(
        lambda: seconds(lambda: ours(asked, sales)), lambda: seconds(lambda: theirs(asked, sales)), scale.repeats
    )
    frames = "DuckDB ROWS frame" if asked.polars else "DuckDB RANGE frame"
    return Claim(what, "s", *found, peer=f"polars {asked.polars}" if peer else frames, target=target)


def _sales(rows: int, span: int) -> pa.Table:
    """About as many sales in a span of seconds, in the order of their times; a user has no two at once."""
    rng = np.random.default_rng(4)
    users = max(20, rows // 100)
    drawn = np.unique(rng.integers(0, span * users, rows))
    return pa.table({
        "user": drawn % users,
        "device": rng.integers(0, 1_000, len(drawn)),
        "amount": np.round(rng.lognormal(3, 1, len(drawn)), 2),
        "paid_at": pa.array(drawn // users * SECOND + FIRST_DAY, pa.timestamp("us", "UTC")),
    })  # fmt: skip


def ours(asked: Asked, sales: pa.Table) -> pa.Array:
    """The feature of every sale by the kernels, from Arrow to Arrow."""
    (prepared,) = prepare([asked.group], SALES, arrived(sales))
    at = sales["paid_at"].cast(pa.int64()).to_numpy()
    keys = encode_keys(USER.keys, [sales["user"]])
    (column,) = as_of(layout_of(asked.group), prepared, prepared.arrivals, keys, at, at).columns.values()
    return column.to_arrow(pa.list_(pa.float64())) if isinstance(column, Lists) else pa.array(column)


def duckdb(asked: Asked, sales: pa.Table) -> pa.Array:
    """The same by DuckDB."""
    import duckdb

    with duckdb.connect(config={"threads": os.cpu_count() or 1}) as connection:
        connection.register("sales", sales)
        found = connection.sql(f"""
            with numbered as (select *, epoch_us(paid_at) // {SECOND} as second, row_number() over () as place from sales),
            valued as (select place, {asked.sql} as value from numbered)
            select value from valued order by place""").to_arrow_table()
    return found["value"].combine_chunks()


def polars(asked: Asked, sales: pa.Table) -> pa.Array:
    """The same by polars, in whose rolling windows a row has a place of its own: hence those of the rows before it."""
    import polars

    before, least = polars.col("amount").shift(1), 1 if asked.polars == "rolling_sum" else 2
    rolling = getattr(before, asked.polars or "")(20, min_samples=least).over("user")
    column = polars.DataFrame(sales).select(rolling).to_arrow().column(0)
    return pc.fill_null(column, 0.0) if asked.polars == "rolling_sum" else column


def _check(mine: pa.Array, other: pa.Array) -> None:
    assert len(mine) == len(other)
    if pa.types.is_list(mine.type):
        assert mine.equals(other.cast(mine.type)), "lists"
        return
    left, right = mine.to_numpy(zero_copy_only=False), other.cast(pa.float64()).to_numpy(zero_copy_only=False)
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-6, equal_nan=True)
