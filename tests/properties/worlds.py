"""Random worlds for the property tests: a group, its events, and how to ask the oracle about them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from functools import cache
from math import isfinite
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

import millstream as ms
from millstream.definitions.data_types import arrow_type
from millstream.definitions.list_columns import Lists
from millstream.fold import Prepared, Probes, layout_of, prepare, probes_of, probes_of_few
from millstream.fold.oracle import OracleEvent
from millstream.fold.probes import no_probes

SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
BASE = 1_356_998_400_000_000 + 7 * HOUR + 13 * SECOND + 17

STREAM = ms.EventStream(
    "events",
    time="at",
    schema={
        "k": "int64",
        "x": "float64",
        "y": "float64",
        "s": "string",
        "ok": "bool",
        "n": "int64",
        "d": "date",
        "u": "uuid",
        "b": "bytes",
        "m": "decimal(38, 2)",
        "v": "list<float64>",
        "at": "timestamp",
    },
)
#: The fields that probes look up, each in the column of its name ("when" in the time).
REQUEST = {"s": "string", "n": "int64", "ok": "bool", "d": "date", "u": "uuid", "when": "timestamp"}
ENTITY = ms.Entity("k", keys={"k": "int64"})


@cache
def group_of(
    windows: tuple[tuple[str | ms.Session | None, str, str], ...],
    filtered: bool,
    source: ms.EventStream = STREAM,
    values: bool = False,
) -> ms.StreamFeatureGroup:
    """A group with every aggregate over the given (window, delay, tag)s; with `values`, those that tell values apart."""
    features: list[Any] = []
    for window, delay, tag in windows:
        where = "ok" if filtered else None
        common: dict[str, Any] = {"over": window, "delay": delay, "where": where}
        if values:
            features += [
                ms.Count(name=f"n{tag}", **common), ms.Last("s", name=f"last_s{tag}", **common),
                ms.DistinctCount("s", name=f"texts{tag}", **common), ms.DistinctCount("x", name=f"numbers{tag}", **common),
                ms.Median("x", name=f"median{tag}", **common),
                ms.Quantile("x", q=[0.0, 0.95, 1.0], name=f"share{tag}", **common),
                ms.Entropy("s", name=f"entropy{tag}", **common), ms.Mode("s", name=f"mode_s{tag}", **common),
                ms.Mode("x", name=f"mode_x{tag}", categories=3, **common), ms.Lag("x", name=f"newest{tag}", **common),
                ms.Lag("x", 3, name=f"third{tag}", **common), ms.Lag("s", 2, name=f"second_s{tag}", **common),
                ms.LastK("x", 2, name=f"last_x{tag}", **common), ms.LastK("s", 4, name=f"lasts_s{tag}", **common),
                ms.LastK("n", 3, name=f"lasts_n{tag}", **common), ms.LastK("ok", name=f"lasts_ok{tag}", **common),
                ms.LastK("at", 2, name=f"lasts_at{tag}", **common),
                ms.LastK("u", 3, name=f"lasts_u{tag}", **common), ms.LastK("d", 2, name=f"lasts_d{tag}", **common),
                ms.Lag("m", 2, name=f"second_m{tag}", **common), ms.LastK("m", 2, name=f"lasts_m{tag}", **common),
                ms.LastK("b", 2, name=f"lasts_b{tag}", **common),
                ms.FirstK("x", 3, name=f"firsts_x{tag}", **common), ms.FirstK("s", 2, name=f"firsts_s{tag}", **common),
                ms.MaxK("x", name=f"most_x{tag}", **common), ms.MaxK("s", 2, name=f"most_s{tag}", **common),
                ms.MinK("n", 4, name=f"least_n{tag}", **common), ms.TopK("s", name=f"top_s{tag}", **common),
                ms.TopK("x", 2, categories=3, name=f"top_x{tag}", **common),
                ms.TopK("ok", 1, name=f"top_ok{tag}", **common),
                ms.LastDistinctK("s", 2, name=f"differing_s{tag}", **common),
                ms.LastDistinctK("x", 3, name=f"differing_x{tag}", **common),
                ms.LastDistinctK("ok", name=f"differing_ok{tag}", **common),
                ms.Histogram("x", bins=[-1e9, 0, 0.1, 12.34, 1e15], name=f"bins_x{tag}", **common),
                ms.Histogram("n", bins=[0, 2.0**53], name=f"bins_n{tag}", **common),
                ms.DistinctCount("u", name=f"ids{tag}", **common), ms.DistinctCount("d", name=f"days{tag}", **common),
                ms.Mode("u", name=f"mode_u{tag}", **common), ms.Mode("d", name=f"mode_d{tag}", **common),
                ms.Entropy("u", name=f"entropy_u{tag}", **common), ms.Lag("u", 2, name=f"second_u{tag}", **common),
                ms.Lag("b", name=f"newest_b{tag}", **common), ms.Lag("d", 2, name=f"second_d{tag}", **common),
                ms.CountBy("s", 2, name=f"by_s{tag}", **common), ms.SumBy("ok", "x", name=f"sum_by_ok{tag}", **common),
                ms.By("s", ms.Std("x"), categories=3, name=f"std_by_s{tag}", **common),
                ms.By("ok", ms.Last("s"), name=f"last_by_ok{tag}", **common),
                ms.By("s", ms.First("x"), name=f"first_by_s{tag}", **common),
                ms.By("u", ms.Min("n"), name=f"min_by_u{tag}", **common),
                ms.By("d", ms.Max("m"), name=f"max_by_d{tag}", **common),
                ms.By("at", ms.Mean("y"), 3, name=f"mean_by_at{tag}", **common),
                ms.By("n", ms.Count("b"), name=f"count_by_n{tag}", **common),
                ms.LastK(["x", "s"], 3, name=f"last_rows{tag}", **common),
                ms.LastK(["x", "at"], 2, name=f"dated{tag}", **common),
                ms.FirstK(["n", "b", "u", "m", "ok"], 2, name=f"first_rows{tag}", **common),
            ]  # fmt: skip
            features += [
                kind(column, request=field, name=f"{kind.kind}_of_{field}{tag}", **common)
                for column, field in (*((name, name) for name in REQUEST if name != "when"), ("at", "when"))
                for kind in (ms.Seen, ms.CountBy, ms.SinceSeen)
            ]
            features += [
                ms.Seen("s", request="s", name=f"seen_few{tag}", categories=2, **common),
                ms.SumBy("s", "x", request="s", name=f"of_s{tag}", **common),
                ms.SumBy("ok", "x", request="ok", categories=1, name=f"of_ok{tag}", **common),
                ms.Ratio(ms.CountBy("n", request="n", **common), ms.Count(), name=f"of_all{tag}"),
            ]
            continue
        features += [
            ms.Count(name=f"n{tag}", **common), ms.Count("x", name=f"nx{tag}", **common),
            ms.Sum("x", name=f"sum{tag}", **common), ms.Mean("x", name=f"mean{tag}", **common),
            ms.Std("x", name=f"std{tag}", **common), ms.Var("x", name=f"var{tag}", **common),
            ms.Min("x", name=f"min{tag}", **common), ms.Max("x", name=f"max{tag}", **common),
            ms.First("x", name=f"first{tag}", **common), ms.Last("x", name=f"last{tag}", **common),
            ms.First("s", name=f"first_s{tag}", **common), ms.Last("s", name=f"last_s{tag}", **common),
            ms.Min("n", name=f"min_n{tag}", **common), ms.Max("n", name=f"max_n{tag}", **common),
            ms.First("n", name=f"first_n{tag}", **common), ms.Last("n", name=f"last_n{tag}", **common),
            ms.Min("s", name=f"min_s{tag}", **common), ms.Max("s", name=f"max_s{tag}", **common),
            ms.Min("ok", name=f"min_ok{tag}", **common), ms.Last("ok", name=f"last_ok{tag}", **common),
            ms.Max("at", name=f"max_at{tag}", **common), ms.First("at", name=f"first_at{tag}", **common),
            ms.Min("d", name=f"min_d{tag}", **common), ms.Last("d", name=f"last_d{tag}", **common),
            ms.Min("u", name=f"min_u{tag}", **common), ms.Max("u", name=f"max_u{tag}", **common),
            ms.First("u", name=f"first_u{tag}", **common), ms.Last("u", name=f"last_u{tag}", **common),
            ms.Min("b", name=f"min_b{tag}", **common), ms.Max("b", name=f"max_b{tag}", **common),
            ms.First("b", name=f"first_b{tag}", **common), ms.Last("b", name=f"last_b{tag}", **common),
            ms.Min("m", name=f"min_m{tag}", **common), ms.Max("m", name=f"max_m{tag}", **common),
            ms.First("m", name=f"first_m{tag}", **common), ms.Last("m", name=f"last_m{tag}", **common),
            ms.ArgMin("m", by="s", name=f"m_by_s{tag}", **common), ms.ArgMax("s", by="m", name=f"s_by_m{tag}", **common),
            ms.ArgMin("u", by="d", name=f"u_by_d{tag}", **common), ms.ArgMax("b", by="u", name=f"b_by_u{tag}", **common),
            ms.ArgMin("d", by="b", name=f"d_by_b{tag}", **common), ms.ArgMin("b", by="x", name=f"b_by_x{tag}", **common),
            ms.ArgMin("n", by="x", name=f"n_by_x{tag}", **common), ms.ArgMax("n", by="s", name=f"n_by_s{tag}", **common),
            ms.ArgMin("s", by="n", name=f"s_by_n{tag}", **common), ms.ArgMax("x", by="ok", name=f"x_by_ok{tag}", **common),
            ms.ArgMin("x", by="s", name=f"x_by_s{tag}", **common), ms.ArgMax("s", by="at", name=f"s_by_at{tag}", **common),
            ms.TimeSince(name=f"since{tag}", **common), ms.Age(name=f"age{tag}", **common),
            ms.Skewness("x", name=f"skew{tag}", **common), ms.Kurtosis("x", name=f"kurt{tag}", **common),
            ms.GeometricMean("x", name=f"gmean{tag}", **common),
            ms.Covariance("x", "y", name=f"cov{tag}", **common), ms.Correlation("x", "y", name=f"corr{tag}", **common),
            ms.Share(where="ok", name=f"share{tag}", over=window, delay=delay),
            ms.VectorSum("v", dim=2, name=f"vector_sum{tag}", **common),
            ms.VectorMean("v", dim=2, name=f"vector_mean{tag}", **common),
        ]  # fmt: skip
        features += [
            ms.Ratio(ms.Sum("x", **common), ms.Count("x", over="1h"), name=f"ratio{tag}"),
            ms.Difference(ms.Last("x"), ms.Mean("y", **common), name=f"difference{tag}"),
        ]
        if not delay.startswith("1"):
            half_life = {"1m": "10s", "1h": "1m", "30d": "1d"}.get(window or "", "1h")  # one that nests with all hops
            lost: dict[str, Any] = {"half_life": half_life, "where": where}
            features += [
                ms.DecayedCount(name=f"recent_n{tag}", **lost), ms.DecayedCount("x", name=f"recent_nx{tag}", **lost),
                ms.DecayedSum("x", name=f"recent_sum{tag}", **lost), ms.DecayedMean("x", name=f"recent_mean{tag}", **lost),
            ]  # fmt: skip
        if source is STREAM:  # it is read through a view whose request has the field
            features.append(ms.ZScore("x", request="x", name=f"zscore{tag}", **common))
        if isinstance(window, str) and "event" not in window:
            features.append(ms.Rate(per="1h", name=f"rate{tag}", **common))
    return ms.StreamFeatureGroup("g", entity=ENTITY, source=source, features=features)


_times = st.tuples(
    st.sampled_from(["1m", "5m", "10m", "1h", "6h", "24h", "7d", "30d", None]),
    st.sampled_from(["0s", "0s", "1m", "1h"]),
)
_rows = st.sampled_from(
    [
        "1 event",
        "2 events",
        "5 events",
        "20 events",
        "3 events within 10m",
        "5 events within 24h",
        "20 events within 30d",
    ]
)
_sessions = st.builds(
    ms.Session, gap=st.sampled_from(["1s", "30s", "30m", "24h"]), late=st.sampled_from(["0s", "10s", "24h"])
)
windows = st.lists(
    st.one_of(_times, st.tuples(st.one_of(_rows, _sessions), st.just("0s"))), min_size=1, max_size=3, unique=True
).map(lambda pairs: tuple((w, d, f"_{i}") for i, (w, d) in enumerate(pairs)))  # fmt: skip
groups = st.builds(group_of, windows, st.booleans(), st.just(STREAM), st.booleans())
_ends = st.tuples(st.sampled_from(["1m", "10m", "1h", "24h", "7d"]), st.sampled_from(["0s", "0s", "1h"])) | st.tuples(
    st.sampled_from(["3 events within 10m", "20 events within 24h"]), st.just("0s")
)
passing = st.builds(
    lambda windows, filtered, values: that_pass(group_of(windows, filtered, STREAM, values)),
    st.lists(_ends, min_size=1, max_size=3, unique=True).map(
        lambda pairs: tuple((window, delay, f"_{i}") for i, (window, delay) in enumerate(pairs))
    ),
    st.booleans(),
    st.booleans(),
)


def that_pass(group: Any) -> Any:
    """A group without those of its features that look back for ever."""
    features = [feature for feature in group.features if _passes(feature)]
    return ms.StreamFeatureGroup(group.name, entity=group.entity, source=group.source, features=features)


@cache
def _passes(feature: Any) -> bool:
    return layout_of(ms.StreamFeatureGroup("one", entity=ENTITY, source=STREAM, features=[feature])).runs_out


numbers = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, -0.1, 12.34, 1e9, -1e9, 1e9 + 0.01, 999999999.99]),
    st.sampled_from([1e-9, 3e-17, 1e15, -1e15, float("inf")]),
    st.floats(-1e12, 1e12, allow_nan=False),
    st.integers(-100_000, 100_000).map(lambda cents: cents / 100),
)  # fmt: skip
wholes = st.one_of(
    st.none(),
    st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63 - 2, 1 - 2**63]),
    st.integers(-(2**63), 2**63 - 1),
)
texts = st.one_of(st.none(), st.sampled_from(["", "DE", "FR", "é", "\U0001f600", "a" * 39, "a\0", "a"]))
days = st.one_of(
    st.none(),
    st.sampled_from([date(1, 1, 1), date(1969, 12, 31), date(1970, 1, 1), date(2024, 2, 29), date(9999, 12, 31)]),
)
uuids = st.one_of(
    st.none(),
    st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64, 2**127 - 1, 2**127, 2**128 - 1]).map(
        lambda number: UUID(int=number)
    ),
)
raw = st.one_of(
    st.none(), st.sampled_from([b"", b"\0", b"\0\0", b"\x7f", b"\x80", b"\xff" * 39, b"a" * 7, b"a" * 8, b"a" * 9])
)
decimals = st.one_of(
    st.none(),
    st.sampled_from([0, 1, -1, 110, 2**63, -(2**63), 2**64, -(2**64) - 1, 10**38 - 1, 1 - 10**38]).map(
        lambda cents: Decimal(cents).scaleb(-2, Context(prec=40))
    ),
)
units = st.sampled_from([1, SECOND // 2, SECOND, MINUTE, HOUR, DAY])
lags = st.sampled_from([-2 * SECOND, -1, 0, 1, SECOND, 4 * SECOND, 10 * SECOND, HOUR, 2 * DAY, 40 * DAY])


_ASKED = (
    ("DE", 2**53 + 1, True, date(1970, 1, 1), UUID(int=2**63), BASE),
    ("a", -1, False, date(2024, 2, 29), UUID(int=0), BASE + SECOND),
    ("", 2**63 - 1, None, date(9999, 12, 31), UUID(int=2**128 - 1), BASE - 1),
    (None,) * 6,
)


def asked_of(k: int) -> dict[str, Any]:
    """The fields of the request of one of four keys."""
    return dict(zip(REQUEST, _ASKED[k], strict=True))


@dataclass(frozen=True)
class Event:
    """One generated event."""

    k: int
    time: int
    arrival: int
    x: float | None
    y: float | None
    s: str | None
    ok: bool | None
    n: int | None = None
    d: date | None = None
    u: UUID | None = None
    b: bytes | None = None
    m: Decimal | None = None
    is_request: bool = False

    @property
    def v(self) -> list[float] | None:
        """Its two numbers as a vector, if it has both; a request has none."""
        pair = [one for one in (self.x, self.y) if one is not None and isfinite(one)]
        return pair if len(pair) == 2 and not self.is_request else None


@st.composite
def event_lists(draw: Any, max_size: int = 40) -> list[Event]:
    """Events of up to three keys: out of order, late, early, tied in time, with nulls; in order of arrival."""
    unit = draw(units)
    lag = draw(st.one_of(st.just(lags), st.just(st.sampled_from([0, 1, SECOND]))))
    one = st.builds(
        lambda k, n, unit2, late, *fields: Event(k, BASE + n * unit2, BASE + n * unit2 + late, *fields),
        st.integers(0, 2), st.integers(0, 30), st.sampled_from([unit, unit, SECOND]), lag, numbers, numbers, texts,
        st.sampled_from([True, True, False, None]), wholes, days, uuids, raw, decimals,
    )  # fmt: skip
    events = draw(st.lists(one, max_size=max_size))
    return sorted(events, key=lambda e: e.arrival)


def prepared(group: Any, events: list[Event]) -> Prepared:
    """The events as `fold` takes them."""
    table = pa.table(
        {
            "k": pa.array([e.k for e in events], pa.int64()),
            "x": pa.array([e.x for e in events], pa.float64()),
            "y": pa.array([e.y for e in events], pa.float64()),
            "s": pa.array([e.s for e in events], pa.string()),
            "ok": pa.array([e.ok for e in events], pa.bool_()),
            "n": pa.array([e.n for e in events], pa.int64()),
            "d": pa.array([e.d for e in events], pa.date32()),
            "u": pa.array([e.u for e in events], pa.uuid()),
            "b": pa.array([e.b for e in events], pa.binary()),
            "m": pa.array([e.m for e in events], pa.decimal128(38, 2)),
            "v": pa.array([e.v for e in events], pa.list_(pa.float64())),
            "at": pa.array([e.time for e in events], pa.timestamp("us", "UTC")),
            "_arrival": np.array([e.arrival for e in events], np.int64),
            "_partition": np.zeros(len(events), np.int64),
            "_position": np.arange(len(events), dtype=np.int64),
        }
    )
    (result,) = prepare([group], STREAM, table)
    return result


def probes_for(group: Any, requests: list[dict[str, Any]]) -> Probes:
    """What the group reads of requests, which is the same of many and of few."""
    kinds, n = {"x": "float64", **REQUEST}, len(requests)
    values = {name: [one.get(name) for one in requests] for name in kinds}
    few = probes_of_few(layout_of(group), values, n) or no_probes(layout_of(group), n)
    given = {name: pa.array(column, pa.int64()) if name == "when" else pa.array(column, arrow_type(kinds[name]))
             for name, column in values.items()}  # fmt: skip
    many = probes_of(layout_of(group), given, n) or no_probes(layout_of(group), n)
    assert many.numbers.tobytes() == few.numbers.tobytes()
    assert many.lanes[:, ::2].tolist() == few.lanes[:, ::2].tolist()
    there = many.lanes[:, ::2] == 1
    assert many.lanes[:, 1::2][there].tolist() == few.lanes[:, 1::2][there].tolist()
    return many


def oracle_events(events: list[Event], key: int, available: dict[int, int] | None = None) -> list[OracleEvent]:
    """The events of one key as the oracle takes them, available at arrival unless given by number."""
    return [
        OracleEvent(
            e.time,
            e.arrival,
            e.arrival if available is None else available[i],
            {
                "x": e.x,
                "y": e.y,
                "s": e.s,
                "ok": e.ok,
                "n": e.n,
                "d": e.d,
                "u": e.u,
                "b": e.b,
                "m": e.m,
                "v": e.v,
                "at": e.time,
            },
        )
        for i, e in enumerate(events)
        if e.k == key
    ]


def same(got: dict[str, np.ndarray], row: int, expected: dict[str, Any]) -> list[str]:
    """The names of the columns of a row that are not bit for bit what the oracle says."""
    wrong = []
    for name, wanted in expected.items():
        found = got[name][row]
        objects = (str, date, UUID, bytes, Decimal)
        if isinstance(wanted, dict) or (isinstance(wanted, list) and isinstance((wanted or [None])[0], dict)):
            equal = repr(found) == repr(wanted)
        elif isinstance(wanted, list) or isinstance(got[name], Lists):
            equal = repr(found) == repr(wanted and [one + 0.0 if isinstance(one, float) else one for one in wanted])
        elif isinstance(wanted, objects) or isinstance(found, objects) or found is None:
            equal = found == wanted
        elif isinstance(wanted, int) and abs(wanted) > 2**53:
            equal = isinstance(found, int) and found == wanted
        elif wanted is None:
            equal = bool(np.isnan(found))
        else:
            equal = np.float64(found).tobytes() == (np.float64(wanted) + 0.0).tobytes()
        if not equal:
            wrong.append(f"{name}: {found!r} is not {wanted!r}")
    return wrong


def layout(group: Any) -> Any:
    """The group's layout."""
    return layout_of(group)
