"""Every public function ends in a value or in one error of Millstream's own, whatever each argument is given."""

import datetime as dt
import inspect
import math
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import DefinitionError, MillstreamError
from millstream.train.training_set import TrainingSet

user = ms.Entity("user", keys={"user_id": "int64"})
events = ms.EventStream(
    "events",
    time="at",
    schema={"id": "int64", "user_id": "int64", "x": "float64", "y": "bool", "at": "timestamp"},
)
table = ms.Table("accounts", path="accounts.parquet", time="seen", schema={"user_id": "int64", "seen": "timestamp"})
group = ms.StreamFeatureGroup("g", entity=user, source=events, features=[ms.Count(over="24h"), ms.Last("x")])
query = "select user_id, 1 as one from accounts"
lists = ms.StreamFeatureGroup("lists", entity=user, source=events, features=[ms.LastK("x")])
batch = ms.BatchFeatureGroup("b", entity=user, sources=[table], every="24h", query=query)
view = ms.FeatureView("v", request={"x": "float64"}, features=[group])
label = ms.Label(events, "y", on="id", after="1m")
model = ms.Model("m", view=view, trainer=ms.LightGBM(rounds=5), examples=events, label=label)


class Hostile:
    """An object that answers nothing."""

    def __repr__(self):
        raise RuntimeError("it has no text")

    def __eq__(self, other):
        raise RuntimeError("it compares with nothing")

    def __hash__(self):
        return 1


VALUES = [
    None, True, 0, -1, 2**70, 1.5, math.nan, math.inf, "", "x", "from", "null", "'; drop table g; --", "\ud800", b"24h",
    [], [None], ["x"], {}, {"x": 1}, {1: 2}, {"x": None}, set(), object(), Hostile(), lambda x: x, int, np.float64("nan"),
    np.int64(3), np.array([1, 2]), np.datetime64("NaT"), dt.timedelta(-1), dt.datetime.max, dt.date(1, 1, 1), Decimal("1.5"),
    pd.NaT, pd.DataFrame({"x": [1]}), pl.Series([1]), pa.table({}), Path("x"), user, events, group, view, model, label,
    ms.Count(), table, batch, iter([1]), range(3), 1j,
]  # fmt: skip
DEFINED = {
    ms.Entity: ("user", {"keys": {"user_id": "int64"}}),
    ms.EventStream: ("s", {"time": "at", "schema": {"user_id": "int64", "at": "timestamp"}}),
    ms.Table: ("t", {"path": "t.parquet"}),
    ms.StreamFeatureGroup: ("g", {"entity": user, "source": events, "features": [ms.Count()]}),
    ms.BatchFeatureGroup: ("b", {"entity": user, "sources": [table], "every": "24h", "query": query}),
    ms.FeatureView: ("v", {"request": {}, "features": [group]}),
    ms.Model: ("m", {"view": view, "examples": events, "label": label}),
    ms.LightGBM: (None, {}),
    ms.Retrain: (None, {}),
    ms.TimeSince: (None, {}),
    ms.Count: (None, {}),
    ms.Age: (None, {}),
    ms.Share: (None, {"where": "amount > 0"}),
    ms.Rate: (None, {"per": "1h", "over": "24h"}),
    **dict.fromkeys((ms.Covariance, ms.Correlation), ("x", {"other": "y"})),
    **dict.fromkeys((ms.Sum, ms.Mean, ms.Std, ms.Var, ms.Min, ms.Max, ms.First, ms.Last), ("x", {})),
    **dict.fromkeys((ms.Skewness, ms.Kurtosis, ms.GeometricMean), ("x", {})),
    ms.Quantile: ("x", {"q": 0.5}),
    **dict.fromkeys((ms.DecayedCount, ms.DecayedSum, ms.DecayedMean), ("x", {"half_life": "1h"})),
    ms.Histogram: ("x", {"bins": [0, 1]}),
    **dict.fromkeys((ms.VectorMean, ms.VectorSum), ("x", {"dim": 2})),
    ms.By: ("x", {"aggregate": ms.Count()}),
    ms.CountBy: ("x", {}),
    ms.SumBy: ("x", {"value": "y"}),
    **dict.fromkeys((ms.FirstK, ms.LastDistinctK, ms.MaxK, ms.MinK, ms.TopK), ("x", {})),
    **dict.fromkeys((ms.Seen, ms.SinceSeen), ("x", {"request": "x"})),
    **dict.fromkeys((ms.DistinctCount, ms.Entropy, ms.Lag, ms.LastK, ms.Median, ms.Mode), ("x", {})),
}


def answered(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*args, **kwargs)
        except MillstreamError as error:
            assert str(error)
            assert len(error.message) < 600, "an error says shortly what was given"
            return error


@pytest.mark.parametrize("kind", [*DEFINED, ms.Label], ids=lambda kind: kind.__name__)
def test_a_definition_is_built_or_refused_whatever_it_is_given(kind):
    first, others = DEFINED.get(kind, (events, {"column": "y", "on": "id"}))
    parameters = list(inspect.signature(kind).parameters.values())
    for parameter in parameters:
        for value in VALUES:
            given = {**others, parameter.name: value}
            if first is not None and parameter.name not in (parameters[0].name,):
                given = {parameters[0].name: first, **given}
            answered(kind, **given)
    assert isinstance(answered(kind, nonsense=1), DefinitionError)
    assert isinstance(answered(kind, *VALUES), DefinitionError)


def test_an_argument_that_there_is_not_is_named_with_the_nearest():
    with pytest.raises(
        DefinitionError, match=r"(?s)LightGBM: there is no argument 'num_leaves'.*did you mean 'leaves'"
    ):
        ms.LightGBM(num_leaves=31)
    with pytest.raises(DefinitionError, match=r"(?s)EventStream: there is no argument 'timestamp'"):
        ms.EventStream("s", timestamp="at", schema={"at": "timestamp"})
    with pytest.raises(DefinitionError, match=r"Entity: missing a required argument: 'keys'"):
        ms.Entity("user")
    with pytest.raises(MillstreamError, match=r"(?s)'millstream' has no 'CountDistict'"):
        ms.CountDistict  # noqa: B018
    with pytest.raises(AttributeError, match="'Entity'"):
        ms.Entty  # noqa: B018
    assert not hasattr(ms, "nothing_of_the_kind")


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (lambda project: project.apply([view]), "[FeatureView 'v'] cannot be planned", "apply(*definitions)"),
        (lambda project: project.plan({"v": view}), "{'v': FeatureView 'v'} cannot be planned", "apply(*definitions)"),
        (
            lambda project: project.apply(group["x_last"]),
            "FeatureRef 'g__x_last' cannot be planned",
            "views and models",
        ),
        (lambda project: project.apply(ms.FeatureView), "the class FeatureView cannot be planned", "views and models"),
        (lambda project: project.features([view], []), "[FeatureView 'v'] is no definition", "or its name"),
        (
            lambda project: project.features(group, []),
            "StreamFeatureGroup 'g' is no FeatureView",
            "give the FeatureView",
        ),
        (lambda project: project.training_set(view), "FeatureView 'v' is no Model", "give the Model"),
        (lambda project: ms.compute([group], {}, []), "[StreamFeatureGroup 'g'] is given", "a feature group"),
        (lambda project: ms.compute(group, [events], []), "[EventStream 'events'] is given", "{stream: rows}"),
        (
            lambda project: ms.FeatureView("w", features=[ms.Count()]),
            "given a Count; expected a feature",
            "list groups",
        ),
        (lambda project: ms.Entity(user, keys={"k": "int64"}), "name Entity 'user' cannot be used", "'payments'"),
        (lambda project: ms.Entity("u", keys={}), "keys was given {}", '{"user_id": "int64"}'),
        (lambda project: ms.EventStream("s", time="at", schema={"x": float}), "the class float", "'float64'"),
        (lambda project: ms.By("x", ms.Sum("y", hop="1m")), "hop of aggregate was given '1m'", "ms.By("),
        (lambda project: lists["x_last_5"].spread(3), "too many positional arguments", "it takes no argument"),
    ],
)
def test_an_error_says_shortly_what_was_given_and_what_to_write(project, call, message, hint):
    with pytest.raises(MillstreamError) as raised:
        call(project)
    assert message in raised.value.message
    assert hint in raised.value.hint
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "call",
    [
        lambda: ms.Count(over=b"24h"),
        lambda: ms.Count(over=3600),
        lambda: ms.Count(over=[3600]),
        lambda: ms.Count(hop=60, over="1h"),
        lambda: ms.Count(where=lambda row: row.x > 0),
        lambda: ms.Count(where=""),
        lambda: ms.Retrain(every=86400),
        lambda: ms.Label(events, "y", on="id", absent=math.nan),
        lambda: ms.LightGBM(seed="text"),
        lambda: ms.LightGBM(seed=-1),
        lambda: ms.LightGBM(learning_rate=True),
        lambda: ms.LightGBM(learning_rate=math.nan),
        lambda: ms.EventStream("t", time="at", partitions="4", schema={"at": "timestamp"}),
        lambda: ms.EventStream("t", time="at", within=3600, schema={"at": "timestamp"}),
        lambda: ms.Entity("user", keys={"user_id": "int64"}, tags=None),
        lambda: ms.Entity("user", keys={"user_id": "int64"}, owner=5),
        lambda: ms.StreamFeatureGroup("h", entity=user, source=events, derive=True, features=[ms.Count()]),
        lambda: ms.StreamFeatureGroup("h", entity=user, source=events, derive={"k": 5}, features=[ms.Count()]),
        lambda: group["count_24h"].default(math.nan),
        lambda: group[5],
        lambda: group.on(user_id=5),
        lambda: group.on("payee_id"),
        lambda: group.with_request("x"),
        lambda: lists["x_last_5"].spread(3),
        lambda: lists["x_last_5"].to_array(),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_given(call):
    with pytest.raises(DefinitionError):
        call()


def test_the_numbers_of_numpy_are_numbers():
    assert ms.LightGBM(rounds=np.int64(7), learning_rate=np.float32(0.5), seed=np.uint8(3)) == ms.LightGBM(
        rounds=7, learning_rate=0.5, seed=3
    )
    assert ms.EventStream("t", time="at", partitions=np.int32(4), schema={"at": "timestamp"}).partitions == 4
    assert ms.Label(events, "y", on="id", absent=np.bool_(False)).absent is False
    assert group["x_last"].default(np.float32(1.5)).default_value == 1.5
    assert type(group["x_last"].default(np.int64(2)).default_value) is int


def made(folder):
    project = ms.Project(folder, create=True)
    project.apply(model)
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(days=3)
    rows = [
        {"id": i, "user_id": i % 7, "x": i % 5, "y": i % 3 == 0, "at": (begin + dt.timedelta(minutes=i)).isoformat()}
        for i in range(120)
    ]
    project.load("events", rows)
    project.drain()
    project.backfill()
    project.train("m")
    project.deploy("m")
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = made(tmp_path_factory.mktemp("public") / "p")
    yield found
    found.close()


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Another one, in which the walk may apply and send what it likes."""
    found = made(tmp_path_factory.mktemp("walked") / "p")
    yield found
    found.close()


#: For each method the arguments with which it works; the walk replaces one of them at a time.
METHODS = {
    "plan": {}, "apply": {"allow_breaking": False}, "send": {"stream": "events", "rows": []},
    "load": {"stream": "events", "rows": []}, "write": {"group": "g", "rows": []}, "backfill": {"group": "g"},
    "features": {"view": "v", "keys": [{"user_id": 1}]}, "history": {"group": "g"}, "dead_letters": {"stream": "events"},
    "training_set": {"model": "m"}, "train": {"model": "m"}, "register": {"model": "m", "fitted": ""},
    "deploy": {"model": "m"}, "rollback": {"model": "m"}, "score": {"model": "m", "rows": [{"user_id": 1, "x": 1.0}]},
    "verify": {"view": "v"}, "parity": {"model": "m"}, "explain": {"request_id": "x"},
}  # fmt: skip
SLOW = {
    "backfill": ("progress",),
    "train": ("model",),
}  # computing anew for each value would take long and show nothing


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_a_project_ends_in_a_value_or_an_error_of_its_own(walked, name):
    method = getattr(walked, name)
    for parameter in inspect.signature(method).parameters.values():
        if parameter.name in SLOW.get(name, ()):
            continue
        for value in VALUES:
            if value is None and name in ("backfill", "train", "verify"):
                continue
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                answered(method, value)
            else:
                answered(method, **{**METHODS[name], parameter.name: value})
    assert isinstance(answered(method, nonsense=1), MillstreamError)


def test_compute_and_project_end_in_a_value_or_an_error_of_their_own(tmp_path):
    given = {"wanted": group, "sources": {events: []}, "rows": [{"user_id": 1, "at": "2026-01-01"}]}
    for name in given:
        for value in VALUES:
            answered(ms.compute, **{**given, name: value})
    for value in VALUES:
        answered(ms.compute, group, {events: [value]}, [{"user_id": 1, "at": "2026-01-01"}])
        for field in ("user_id", "x", "y", "at"):
            row = {"id": 1, "user_id": 1, "x": 1.0, "y": True, "at": "2026-01-01", field: value}
            answered(ms.compute, group, {events: [row]}, [{"user_id": 1, "at": "2026-01-01"}])
            answered(ms.compute, group, {events: []}, [row])
        answered(ms.compute, batch, {table: [{"user_id": value, "seen": value}]}, [{"user_id": 1, "at": "2026-01-01"}])
        if not isinstance(value, str | Path):
            answered(ms.Project, value)


def test_a_training_set_is_split_or_refuses(project):
    found = project.training_set("m")
    assert isinstance(found, TrainingSet)
    for value in VALUES:
        answered(found.split, test=value)
        answered(found.split, gap=value)
        answered(found.split_at, value)
    for gap in (-1, -(10**12), math.nan, "1d", True, [1], dt.timedelta(-1)):
        assert isinstance(answered(found.split, gap=gap), MillstreamError)
    assert found.split(gap=dt.timedelta(hours=1)).train.num_rows < found.split().train.num_rows
    assert len(found) == found.table.num_rows == 120
    assert found.columns == tuple(found.table.column_names)


def test_an_instant_in_another_unit_is_refused_wherever_it_is_given(project):
    for at in (1_795_680_000, 1_795_680_000_000, 1_795_680_000_000_000_000):
        for call in (
            lambda at=at: project.features("v", [{"user_id": 1}], at=at),
            lambda at=at: project.score("m", [{"user_id": 1, "x": 1.0, "at": at}]),
            lambda at=at: project.training_set("m", start=at),
            lambda at=at: project.history("g", end=at),
        ):
            with pytest.raises(MillstreamError, match=r"looks like (milli|nano)?seconds"):
                call()
    assert project.send("events", [{"id": 1, "user_id": 1, "x": 1.0, "y": True, "at": 1_795_680_000}]) == 1
    project.drain()
    (reason,) = project.dead_letters("events", newest=1)["reason"].to_pylist()
    assert "looks like seconds since the epoch" in reason


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.Table.from_pylist])
def test_rows_of_requests_may_be_a_frame(project, frame):
    rows = [{"user_id": 1, "x": 1.5}, {"user_id": None, "x": None}, {"user_id": 3, "x": math.nan}]
    assert project.features("v", frame(rows)).equals(project.features("v", rows))
    assert project.score("m", frame(rows))["score"].equals(project.score("m", rows)["score"])
    assert project.features("v", {"user_id": 1}).num_rows == 1
    with pytest.raises(MillstreamError, match="expected a TrainingSet"):
        project.train("m", frame(rows))
