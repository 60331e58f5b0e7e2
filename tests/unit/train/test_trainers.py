"""LightGBM as text, scored through its single-row call, to the same bits."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.unit.train.mean_trainer import Mean, MeanPredictor

from millstream.clock import SimulatedClock
from millstream.definitions import model as definitions
from millstream.errors import TrainingError
from millstream.train.artefacts import keep, read
from millstream.train.encoding import Encoder
from millstream.train.trainers.trainer import TRAINERS, Artefact, Trainer, fit, kind_of, trainer
from millstream.train.versions import ModelVersions

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


@pytest.fixture
def mean(monkeypatch):
    monkeypatch.setitem(TRAINERS, "mean", "tests.unit.train.mean_trainer:MeanTrainer")
    monkeypatch.setattr(definitions, "TRAINERS", (*definitions.TRAINERS, Mean))
    return Mean(more=1.0)


def test_another_trainer_is_a_class_and_a_line(mean, rows, tmp_path):
    table, labels = rows(100)
    artefact = fit(mean, table, labels, DTYPES)
    assert (artefact.kind, kind_of(mean)) == ("mean", "mean")
    matrix = artefact.encoder.matrix(table)
    scores = artefact.predictor().predict(matrix)
    digest = keep(tmp_path / "artefacts", artefact, matrix, scores)
    again, _, kept = read(tmp_path / "artefacts", digest, "Model")
    assert again == artefact
    assert again.predictor().predict_one(matrix[0]) == kept[0] == labels.mean() + 1.0


def test_versions_by_two_trainers_stand_beside_each_other(mean, fitted, rows, tmp_path):
    versions = ModelVersions(f"sqlite:///{tmp_path}/registry.db", tmp_path / "models", SimulatedClock(0))
    table, labels = rows(100)
    for artefact in (fitted, fit(mean, table, labels, DTYPES)):
        versions.register("taste", artefact, sample=table)
    by_trees, by_mean = versions.load("taste", 1), versions.load("taste", 2)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in DTYPES}
    assert len(np.unique(by_trees.score(columns))) > 1
    assert np.unique(by_mean.score(columns)).tolist() == [labels.mean() + 1.0]


@pytest.mark.parametrize("kind", [*TRAINERS, "mean"])
def test_every_trainer_reads_what_it_writes_and_says_what_it_cannot(mean, rows, kind):
    table, labels = rows(200)
    spec = next(one() for one in definitions.TRAINERS if one.__name__.lower() == kind)
    of_kind: Trainer = trainer(kind)
    artefact = fit(spec, table, labels, DTYPES)
    assert fit(spec, table, labels, DTYPES) == artefact
    of_kind.check(artefact.text)
    predictor = of_kind.load(artefact.text)
    matrix = artefact.encoder.matrix(table)
    assert [predictor.predict_one(row) for row in matrix[:50]] == predictor.predict(matrix[:50]).tolist()
    assert predictor.columns == len(DTYPES) and len(predictor.predict(matrix[:0])) == 0
    with pytest.raises(TrainingError):
        fit(spec, table.slice(0, 0), labels[:0], DTYPES)
    for wrong in (object(), artefact.encoder):
        with pytest.raises(TrainingError, match=type(wrong).__name__):
            of_kind.text(wrong)
    with pytest.raises(TrainingError):
        of_kind.check("nonsense")


def test_a_model_that_was_fitted_elsewhere_becomes_text():
    assert trainer("lightgbm").text("a text") == "a text"
    with pytest.raises(TrainingError, match="expected a LightGBM booster, or its text"):
        trainer("lightgbm").text(MeanPredictor(1, 0.5))


def test_a_library_is_there_without_what_it_offers_others():
    said = subprocess.run(
        [
            sys.executable, "-c",
            "import sys, pyarrow\n"
            "from millstream.train.trainers.extras import without_extras\n"
            "with without_extras():\n"
            "    import lightgbm\n"
            "assert sys.modules['pyarrow'] is pyarrow\n"
            "print({'dask', 'joblib', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules))\n"
            "import pandas\n",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.stdout == "set()\n", said.stderr
    assert said.returncode == 0, said.stderr
