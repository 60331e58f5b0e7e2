"""LightGBM as text, scored through its single-row call, to the same bits."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from millstream.errors import TrainingError
from millstream.train.encoding import Encoder
from millstream.train.trainers import Artefact

DTYPES = {"amount": "float64", "country": "string"}


def test_it_learns_and_uses_the_strings(fitted, rows):
    table, labels = rows(seed=9)
    scores = fitted.predictor().predict(fitted.encoder.matrix(table))
    assert scores[labels == 1].mean() > scores[labels == 0].mean() + 0.2
    country = {"amount": np.array([1.0, 1.0]), "country": np.array(["jp", "de"], dtype=object)}
    japan, germany = fitted.predictor().predict(fitted.encoder.matrix(country))
    assert japan > germany


def test_the_same_rows_give_the_same_text(fitted, trainer, rows):
    assert trainer.fit(*rows(), DTYPES).text == fitted.text


def test_single_rows_take_the_quick_call_to_the_same_bits(fitted, rows):
    predictor = fitted.predictor()
    assert predictor.fast
    matrix = fitted.encoder.matrix(rows(500, seed=3)[0])
    assert [predictor.predict_one(row) for row in matrix] == predictor.predict(matrix).tolist()


def test_threads_do_not_disturb_each_other(fitted, rows):
    predictor = fitted.predictor()
    matrix = fitted.encoder.matrix(rows(2000, seed=5)[0])
    expected = predictor.predict(matrix)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: [predictor.predict_one(row) for row in matrix], range(8)))
    assert all(np.array_equal(scores, expected) for scores in found)


def test_no_rows_score_to_nothing(fitted):
    assert len(fitted.predictor().predict(np.empty((0, 2)))) == 0


def test_what_cannot_be_learned_from_is_refused(trainer, rows):
    table, labels = rows(50)
    with pytest.raises(TrainingError, match="no rows"):
        trainer.fit(table.slice(0, 0), labels[:0], DTYPES)
    with pytest.raises(TrainingError, match="both classes"):
        trainer.fit(table, np.ones(50), DTYPES)


def test_what_is_no_model_of_these_columns_is_refused(fitted):
    with pytest.raises(TrainingError, match="not a LightGBM model"):
        Artefact("lightgbm", "nonsense", fitted.encoder).predictor()
    with pytest.raises(TrainingError, match="2 columns; its view gives 1"):
        Artefact("lightgbm", fitted.text, Encoder({"amount": "float64"})).predictor()
    with pytest.raises(TrainingError, match="'pickle' is not known"):
        Artefact("pickle", fitted.text, fitted.encoder).predictor()
