"""Columns of lists as views carry them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from millstream.definitions.list_columns import Lists
from millstream.errors import TrainingError


def test_more_elements_than_arrow_counts_are_one_clear_error() -> None:
    lists = Lists(np.array([0, 2**31], np.int64), pa.array([1.5]))
    with pytest.raises(TrainingError, match="smaller k"):
        lists.to_arrow(pa.list_(pa.float64()))


def test_a_null_row_and_an_empty_one_stay_apart() -> None:
    lists = Lists(np.array([0, 2, 2, 2], np.int64), pa.array([1.5, 2.5]), np.array([True, True, False]))
    assert lists.to_arrow(pa.list_(pa.float64())).to_pylist() == lists.tolist() == [[1.5, 2.5], [], None]
