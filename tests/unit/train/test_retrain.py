"""Training, the gate, and the decisions it records."""

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.clock import SimulatedClock, to_micros
from millstream.errors import TrainingError
from millstream.train import fitting
from millstream.train.retrain import due, retrain
from millstream.train.stored_history import Pins
from millstream.train.training_set import TrainingSet
from millstream.train.versions import ModelVersions

DAY = 86_400_000_000
user = ms.Entity("user", keys={"user_id": "int64"})
offers = ms.EventStream(
    "offers",
    time="at",
    schema={
        "id": "string",
        "user_id": "int64",
        "x": "float64",
        "y": "float64",
        "word": "string",
        "taken": "bool",
        "at": "timestamp",
    },
)
view = ms.FeatureView("offers", request={"x": "float64", "y": "float64", "word": "string"}, features=[])


def a_model(retrain=None):
    label = ms.Label(offers, "taken", on="id", after="1d")
    trainer = ms.LightGBM(rounds=20, leaves=7)
    return ms.Model("offers", view=view, examples=offers, label=label, trainer=trainer, retrain=retrain)


def examples(days, matters="x", rows=4000, seed=0):
    """Rows of the first so many days, of which one column decides the label."""
    generator = np.random.default_rng(seed)
    at = np.sort(generator.integers(0, days * DAY, rows))
    columns = {name: generator.normal(size=rows) for name in ("x", "y")}
    label = (columns[matters] + 0.5 * generator.normal(size=rows) > 1).astype(float)
    words = pa.array(np.where(generator.random(rows) < 0.5, "a", "b"), pa.string())
    table = pa.table({"_at": at, **columns, "word": words, "_label": label, "_matured": [True] * rows})
    pins = Pins({"habits": "habits@3"}, {"offers": {0: rows}}, {"batch.kyc@1": 77})
    return TrainingSet(table, "offers", dict(view.dtypes), days * DAY, pins)


@pytest.fixture
def models(tmp_path):
    return ModelVersions(f"sqlite:///{tmp_path}/registry.db", tmp_path / "models", SimulatedClock(0))


def test_a_trained_version_says_where_it_came_from(models):
    version = fitting.train(a_model(), examples(10), models)
    assert (version.version, version.pins, version.examples) == (1, ("habits@3",), 4000)
    assert version.facts["pins"]["snapshots"] == {"batch.kyc@1": 77}
    assert version.facts["pins"]["positions"] == {"offers": {"0": 4000}}
    assert version.metrics["auc"].low > 0.8
    assert list(version.metrics) == list(a_model().metrics)
    assert models.aliases("offers") == {}


def test_what_cannot_be_measured_is_still_trained(models):
    table = examples(10).table
    only_old = pa.array((table["_label"].to_numpy() > 0) & (np.arange(4000) < 2000))
    kept = table.set_column(table.schema.get_field_index("_label"), "_label", only_old.cast(pa.float64()))
    version = fitting.train(a_model(), TrainingSet(kept, "offers", dict(view.dtypes), 0), models)
    assert version.metrics == {}
    with pytest.raises(TrainingError, match="no rows"):
        fitting.train(a_model(), TrainingSet(table.slice(0, 0), "offers", dict(view.dtypes), 0), models)


def test_the_first_version_is_promoted(models):
    decision = retrain(a_model(ms.Retrain()), examples(10), models)
    assert decision.promoted
    assert models.aliases("offers") == {"champion": 1}
    assert models.moves("offers")[0]["reason"] == "promoted: there was no champion"


def test_a_better_challenger_replaces_a_champion_the_world_has_left(models):
    model = a_model(ms.Retrain())
    retrain(model, examples(10), models)
    moved = examples(20, matters="y", seed=1)
    decision = retrain(model, moved, models)
    assert decision.promoted
    assert decision.difference.low > 0.2
    assert decision.version.facts["gate"]["against"] == "offers@1"
    assert models.aliases("offers") == {"champion": 2}
    assert decision.version.metrics["auc"].low > 0.8


def test_the_comparison_is_on_rows_new_to_both(models):
    model = a_model(ms.Retrain())
    first = retrain(model, examples(10), models).version
    rows = examples(20)
    decision = retrain(model, rows, models)
    new = (rows.table["_at"].to_numpy() > first.facts["until"]).sum()
    assert decision.version.facts["gate"]["rows"] <= new


def test_a_worse_challenger_is_kept_out_and_recorded(models, monkeypatch):
    model = a_model(ms.Retrain())
    retrain(model, examples(10), models)
    fit = fitting.fit
    monkeypatch.setattr(
        fitting, "fit", lambda m, e, rows: fit(m, e, rows.set_column(rows.schema.get_field_index("x"), "x", rows["y"]))
    )
    decision = retrain(model, examples(20, seed=2), models)
    assert not decision.promoted
    assert decision.difference.high < 0
    assert models.aliases("offers") == {"champion": 1, "challenger": 2}
    assert [move["reason"].split(":")[0] for move in models.moves("offers")] == ["promoted", "failed", "kept"]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_gate_that_cannot_decide_promotes_nothing(models):
    label = ms.Label(offers, "y", on="id", after="1d")
    trainer = ms.LightGBM(objective="regression", rounds=5)
    model = ms.Model(
        "offers", view=view, examples=offers, label=label, trainer=trainer, retrain=ms.Retrain(gate="rmse")
    )
    retrain(model, examples(10), models)
    table = examples(20, seed=2).table
    beyond = table["_label"].to_numpy() * np.where(np.arange(4000) < 3200, 1.0, 1e200)  # whose squares are no numbers
    kept = table.set_column(table.schema.get_field_index("_label"), "_label", pa.array(beyond))
    decision = retrain(model, TrainingSet(kept, "offers", dict(view.dtypes), 20 * DAY), models)
    assert not np.isfinite(decision.difference.value)
    assert not decision.promoted
    assert "cannot be told to be better or worse" in decision.reason
    assert models.aliases("offers") == {"champion": 1, "challenger": 2}


def test_too_few_new_rows_decide_nothing(models):
    model = a_model(ms.Retrain())
    retrain(model, examples(10), models)
    decision = retrain(model, examples(10), models)
    assert (decision.promoted, decision.version) == (False, None)
    assert "only 0 matured rows are new" in decision.reason
    assert "kept" in models.moves("offers")[-1]["reason"]


def test_without_a_gate_every_version_is_promoted(models):
    model = a_model(ms.Retrain(gate=None))
    for number in (1, 2):
        assert retrain(model, examples(10), models).version.version == number
    assert models.aliases("offers") == {"champion": 2}


@pytest.mark.parametrize(
    ("schedule", "last", "first_due"),
    [
        (ms.Retrain(every="24h"), 5 * DAY + 7, 6 * DAY + 7),
        (ms.Retrain(every="30 2 * * *", zone="Europe/Berlin"), 5 * DAY, 5 * DAY + 5_400_000_000),
    ],
)
def test_it_is_due_by_its_schedule_from_the_last_decision_on(tmp_path, schedule, last, first_due):
    clock = SimulatedClock(last)
    models = ModelVersions(f"sqlite:///{tmp_path}/registry.db", tmp_path / "models", clock)
    model = a_model(schedule)
    assert not due(model, models, last + 100 * DAY)  # never before the first training
    fitting.train(model, examples(5), models)
    assert not due(model, models, first_due - 1)
    assert due(model, models, first_due)
    clock.set(first_due)
    models.alias("offers", "champion", 1)
    assert not due(model, models, first_due)
    assert not due(a_model(), models, 100 * DAY)


def test_rolling_back_goes_one_further_each_time(models):
    model = a_model()
    for version in (1, 2, 3):
        fitting.train(model, examples(5, rows=500), models)
        models.alias("offers", "champion", version)
    models.alias("offers", "champion", 3, reason="kept")
    assert [models.rollback("offers").version for _ in range(2)] == [2, 1]
    with pytest.raises(ms.MillstreamError, match="no champion before this one"):
        models.rollback("offers")


def test_a_model_fitted_elsewhere_is_registered(models):
    import lightgbm

    rows = np.random.default_rng(0).normal(size=(500, 3))
    booster = lightgbm.train({"verbosity": -1, "objective": "binary"}, lightgbm.Dataset(rows, rows[:, 0] > 0), 5)
    with pytest.raises(TrainingError, match="column 'word' is a string"):
        fitting.adopt(a_model(), booster, models)
    fitting.adopt(a_model(), booster, models, pins=["habits@1"], dictionaries={"word": ["a"]})
    found = models.load("offers", 1).score(
        {"x": rows[:, 0], "y": rows[:, 1], "word": np.array(["a"] * 500, dtype=object)}
    )
    expected = booster.predict(np.column_stack([rows[:, :2], np.zeros(500)]))
    np.testing.assert_array_equal(found, expected)


def test_a_cron_line_is_due_once_in_the_night_in_which_clocks_go_back(tmp_path):
    model = a_model(ms.Retrain(every="30 1 * * *", zone="America/New_York"))
    first, second, next_night = (to_micros(f"2021-11-{at}Z") for at in ("07T05:30", "07T06:30", "08T06:30"))
    clock = SimulatedClock(first)
    dated = ModelVersions(f"sqlite:///{tmp_path}/registry.db", tmp_path / "models", clock)
    fitting.train(model, examples(10), dated)
    assert not due(model, dated, second)
    assert due(model, dated, next_night)
