"""Point-in-time windows for examples, as a training set needs them, beside the same windows in DuckDB's SQL.

Fair: the same Arrow tables go in, a column per feature comes out, on the same cores, and the values agree to 1e-9 of the
sum of absolute values. DuckDB is given the fastest form it has: events and examples in one table, and `RANGE` frames over
it. Times are whole seconds and hops one second, so that a constant frame says exactly what our windows say. Events that
arrive late and out of order, which count from their arrival on, are beyond `RANGE` frames: DuckDB then joins each example with
the events of its longest window, which is shown where users are alike; with a few large ones those are billions of pairs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import millstream as ms
from benchmarks.harness import Claim, Scale, in_turns, seconds
from benchmarks.world import PAYMENTS, SECOND, USER, arrived, payments
from millstream.fold import as_of, encode_keys, layout_of, prepare

DAYS = 30
WINDOWS = {"1h": 3_600, "24h": 86_400, "7d": 7 * 86_400}
GROUP = ms.StreamFeatureGroup(
    "bench", entity=USER, source=PAYMENTS,
    features=[ms.Count(over=list(WINDOWS), hop="1s"), ms.Sum("amount", over=list(WINDOWS), hop="1s"),
              ms.Mean("amount", over=list(WINDOWS), hop="1s"), ms.Max("amount", over=list(WINDOWS), hop="1s")],
)  # fmt: skip

FIRST_DAY = 1_522_540_800 * SECOND
SPANS = (1, 7, 30)
BUYER, SHOP = ms.Entity("buyer", keys={"buyer": "int64"}), ms.Entity("shop", keys={"shop": "int64"})
SALES = ms.EventStream("sales", time="at", schema={
    "buyer": "int64", "shop": "int64", "amount": "float64", "fraud": "float64", "at": "timestamp"})  # fmt: skip
_OVER = [f"{days}d" for days in SPANS]
SHORT = ms.FeatureView("short", request={}, features=[
    ms.StreamFeatureGroup("buyers", entity=BUYER, source=SALES, features=[
        ms.Count(over=_OVER, hop="1s"), ms.Mean("amount", over=_OVER, hop="1s")]),
    ms.StreamFeatureGroup("shops", entity=SHOP, source=SALES, features=[
        ms.Count(over=_OVER, hop="1s", delay="7d"), ms.Mean("fraud", over=_OVER, hop="1s", delay="7d")]),
])  # fmt: skip


def run(scale: Scale) -> Iterator[Claim]:
    """Twelve features of as many examples as events: many users with few events each, then few with many."""
    rows = scale.of(1_000_000, least=2_000)
    for name, users, skew in (("10,000 users", 10_000, 0.0), ("1,000 users, skewed", 1_000, 1.0)):
        events = _whole_seconds(payments(rows, scale.of(users, least=20), DAYS, skew=skew))
        examples = _whole_seconds(payments(rows, scale.of(users, least=20), DAYS, seed=1, skew=skew))
        examples = examples.select(["user_id", "paid_at"])
        _check(ours(events, examples), theirs(events, examples))
        found = in_turns(
            lambda: seconds(lambda: ours(events, examples)),  # noqa: B023
            lambda: seconds(lambda: theirs(events, examples)),  # noqa: B023
            scale.repeats,
        )
        what = f"12 features, {rows:,} events and examples, {name}"
        yield Claim(what, "s", *found, peer="DuckDB RANGE windows", target=4)
        delays = np.random.default_rng(2).integers(0, 3_600, rows) * SECOND
        if not skew:
            _check(ours(events, examples, delays), theirs(events, examples, delays))
        found = in_turns(
            lambda: seconds(lambda: ours(events, examples, delays)),  # noqa: B023
            None if skew else lambda: seconds(lambda: theirs(events, examples, delays)),  # noqa: B023
            scale.repeats,
        )
        yield Claim("the same, arriving up to an hour late", "s", *found, peer="" if skew else "DuckDB join")
    yield _short_histories(scale)


def _short_histories(scale: Scale) -> Claim:
    """Six features of a buyer and six, a week late, of a shop, through `ms.compute`: every event is an example too."""
    rows = scale.of(1_750_000, least=2_000)
    rng = np.random.default_rng(3)
    times = np.sort(rng.integers(0, 183 * 86_400, rows)) * SECOND + FIRST_DAY
    sales = pa.table({
        "buyer": rng.integers(0, max(2, rows // 350), rows),
        "shop": rng.integers(0, max(2, rows // 175), rows),
        "amount": np.round(rng.lognormal(3, 1, rows), 2),
        "fraud": (rng.random(rows) < 0.01).astype(float),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
    })  # fmt: skip
    examples = sales.select(["buyer", "shop", "at"])

    def ours() -> pa.Table:
        return ms.compute(SHORT, {SALES: sales}, examples).select([*SHORT.columns])

    def theirs() -> pa.Table:
        import duckdb

        with duckdb.connect(config={"threads": os.cpu_count() or 1}) as connection:
            connection.register("sales", sales)
            return connection.sql(_short_frames()).to_arrow_table()

    mine, other = ours(), theirs()
    for name in mine.column_names:
        left, right = (table[name].cast(pa.float64()).to_numpy() for table in (mine, other))
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=0, equal_nan=True, err_msg=name)
    found = in_turns(lambda: seconds(ours), lambda: seconds(theirs), scale.repeats)
    what = f"12 features of two keys, {rows:,} events and examples, 350 events a key"
    return Claim(what, "s", *found, peer="DuckDB RANGE windows", target=4)


def _short_frames() -> str:
    day = 86_400 * SECOND
    frames, columns = [], []
    for group, key, value, delay in (("buyers", "buyer", "amount", 0), ("shops", "shop", "fraud", 7)):
        for days in SPANS:
            name = f"{group}{days}"
            bounds = f"between {(days + delay) * day} preceding and {delay * day + 1} preceding"
            frames.append(f"{name} as (partition by {key} order by moment range {bounds})")
            columns.append(f"count(*) over {name} as {group}__count_{days}d")
            columns.append(f"avg({value}) over {name} as {group}__{value}_mean_{days}d")
    return f"""
        with numbered as (select *, epoch_us("at") as moment, row_number() over () as place from sales),
        valued as (select place, {", ".join(columns)} from numbered window {", ".join(frames)})
        select * exclude (place) from valued order by place"""


def _whole_seconds(events: pa.Table) -> pa.Table:
    times = events["paid_at"].cast(pa.int64()).to_numpy() // SECOND * SECOND
    place = events.schema.get_field_index("paid_at")
    return events.set_column(place, "paid_at", pa.array(times, pa.timestamp("us", "UTC")))


def ours(events: pa.Table, examples: pa.Table, delays: np.ndarray | int = 0) -> pa.Table:
    """The features of the examples by the kernels, from Arrow to Arrow; `delays` (µs) is how late each event is known."""
    (prepared,) = prepare([GROUP], PAYMENTS, arrived(events))
    at = examples["paid_at"].cast(pa.int64()).to_numpy()
    keys = encode_keys(USER.keys, [examples["user_id"]])
    return pa.table(as_of(layout_of(GROUP), prepared, prepared.arrivals + delays, keys, at, at).columns)


def theirs(events: pa.Table, examples: pa.Table, delays: np.ndarray | None = None) -> pa.Table:
    """The same by DuckDB, with `delays` by a join."""
    import duckdb

    with duckdb.connect(config={"threads": os.cpu_count() or 1}) as connection:
        if delays is not None:
            events = events.append_column("delay", pa.array(delays))
        connection.register("events", events)
        connection.register("examples", examples)
        return connection.sql(_frames() if delays is None else _join()).to_arrow_table()


def _features(over: str) -> str:
    """The twelve features; `over` says which rows one window is, given its name and its seconds."""
    names = {"count": "count", "amount_sum": "sum", "amount_mean": "avg", "amount_max": "max"}
    return ", ".join(
        f"{function}(amount) {over.format(window=window, span=span)} as {name}_{window}"
        for name, function in names.items()
        for window, span in WINDOWS.items()
    )


def _join() -> str:
    return f"""
        with known as (
            select user_id, epoch_us(paid_at) // {SECOND} as second, amount,
                epoch_us(paid_at) // {SECOND} + delay // {SECOND} as known from events),
        asked as (
            select user_id, epoch_us(paid_at) // {SECOND} as moment, row_number() over () - 1 as example from examples)
        select {_features("filter (where second >= moment - {span})")}
        from asked left join known on known.user_id = asked.user_id and known <= moment and second < moment
            and second >= moment - {max(WINDOWS.values())}
        group by example order by example"""


def _frames() -> str:
    frames = ", ".join(
        f"w{window} as (partition by user_id order by second range between {span} preceding and 1 preceding)"
        for window, span in WINDOWS.items()
    )
    return f"""
        with joined as (
            select user_id, epoch_us(paid_at) // {SECOND} as second, amount, -1 as example from events
            union all
            select user_id, epoch_us(paid_at) // {SECOND}, null, row_number() over () - 1 from examples),
        valued as (select example, {_features("over w{window}")} from joined window {frames})
        select * exclude (example) from valued where example >= 0 order by example"""


def _check(mine: pa.Table, other: pa.Table) -> None:
    """Ours and DuckDB's, value by value; an empty sum is 0 to us and null to SQL."""
    assert mine.num_rows == other.num_rows and set(mine.column_names) == set(other.column_names)
    for name in mine.column_names:
        left = mine[name].to_numpy()
        right = pc.fill_null(other[name].cast(pa.float64()), 0.0 if "sum" in name else np.nan).to_numpy()
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=0, equal_nan=True, err_msg=name)
