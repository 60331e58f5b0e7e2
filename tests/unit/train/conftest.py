"""A small model that the tests of trainers and versions share."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.train.trainers.trainer import fit

DTYPES = {"amount": "float64", "country": "string"}


def _rows(count=2000, seed=0):
    generator = np.random.default_rng(seed)
    amount = generator.lognormal(size=count)
    country = np.array(["de", "fr", "jp", None], dtype=object)[generator.integers(0, 4, count)]
    labels = (amount + 2 * (country == "jp") + generator.normal(size=count) > 2).astype(float)
    amount[::17] = np.nan
    return pa.table({"amount": pa.array(amount, from_pandas=True), "country": pa.array(country, pa.string())}), labels


@pytest.fixture(scope="session")
def rows():
    """Training rows of `count` and `seed`: (table, labels)."""
    return _rows


@pytest.fixture(scope="session")
def trainer():
    """LightGBM, small and quick."""
    spec = ms.LightGBM(rounds=20, leaves=15, learning_rate=0.1, min_rows=5, seed=1)
    return SimpleNamespace(fit=partial(fit, spec))


@pytest.fixture(scope="session")
def fitted(trainer):
    """A model of an amount and a country."""
    return trainer.fit(*_rows(), DTYPES)
