import pytest

import millstream as ms
from millstream.definitions.durations import micros
from millstream.definitions.model import METRICS
from millstream.errors import DefinitionError


@pytest.fixture
def model(fraud):
    def build(**given):
        wanted = {"view": fraud.view, "examples": fraud.payments, "label": fraud.model.label, **given}
        return ms.Model("fraud", **wanted)

    return build


def test_a_model_is_complete_when_built(fraud, model):
    assert (fraud.model.label.after, fraud.model.label.absent) == (micros("30d"), False)
    assert (fraud.model.retrain.every, fraud.model.retrain.gate) == (micros("24h"), "average_precision")
    assert model().trainer == ms.LightGBM()
    assert model().metrics == METRICS["binary"]
    assert model(trainer=ms.LightGBM(objective="regression")).metrics == METRICS["regression"]
    assert model(examples="captures").examples == "captures"


def test_every_metric_named_here_can_be_measured():
    from millstream.train.metrics import METRICS as measured

    assert {name for names in METRICS.values() for name in names} == set(measured)


def test_wrong_models_are_refused_with_a_hint(fraud, model):
    for given, message, hint in (
        ({"examples": fraud.logins}, "unknown column 'device_id' in examples 'logins'", ""),
        ({"examples": "payments"}, 'expected an EventStream or "captures"', "examples="),
        ({"example_at": "amount"}, "example_at 'amount' has type float64", ""),
        ({"examples": "captures", "example_at": "paid_at"}, "a capture has its own time", ""),
        ({"view": fraud.habits}, "view was given StreamFeatureGroup 'habits'; expected a FeatureView", ""),
        ({"label": "is_fraud"}, "label was given 'is_fraud'; expected a Label", ""),
        ({"trainer": "lightgbm"}, "trainer was given 'lightgbm'", ""),
        ({"metrics": ["auk"]}, "metric was given 'auk'", "'auc'"),
        ({"metrics": ["rmse"]}, "metric was given 'rmse'", "choose one of"),
        ({"trainer": ms.LightGBM(objective="regression"), "retrain": ms.Retrain()}, "'average_precision'", "rmse"),
    ):
        with pytest.raises(DefinitionError) as raised:
            model(**given)
        assert message in raised.value.message
        assert hint in (raised.value.hint or "")


def test_wrong_parts_of_a_model_are_refused(fraud):
    for build, message in (
        (lambda: ms.Label(fraud.disputes, "is_fraudd", on="payment_id"), "unknown column 'is_fraudd'"),
        (lambda: ms.Label(fraud.disputes, "payment_id", on="payment_id"), "expected bool or int64 or float64"),
        (lambda: ms.Label(fraud.disputes, "is_fraud", on="payment"), "unknown column 'payment' in on"),
        (lambda: ms.Label(fraud.disputes, "is_fraud", on="payment_id", absent="no"), "a number, a boolean or None"),
        (lambda: ms.Label(fraud.accounts, "is_fraud", on="payment_id"), "Table 'accounts'; expected an EventStream"),
        (lambda: ms.LightGBM(rounds=0), "rounds was given 0; expected a whole number from 1"),
        (lambda: ms.LightGBM(leaves=1.5), "leaves was given 1.5"),
        (lambda: ms.LightGBM(learning_rate=0), "learning_rate was given 0"),
        (lambda: ms.LightGBM(objective="rank"), "objective was given 'rank'"),
        (lambda: ms.Retrain(every="never"), "every was given 'never'"),
        (lambda: ms.Retrain(gate="acc"), "gate was given 'acc'"),
    ):
        with pytest.raises(DefinitionError) as raised:
            build()
        assert message in raised.value.message
