"""Training and serving encode alike: NumPy or Arrow, one row or many."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import TrainingError
from millstream.train.encoding import MAX_CATEGORIES, Encoder, strings, typed, typed_value

DTYPES = {"amount": "float64", "country": "string", "new": "bool", "at": "timestamp", "n": "int64"}


def a_table():
    return pa.table(
        {
            "country": ["fr", "de", None, "de"],
            "amount": [1.5, None, 2.0, -3.0],
            "new": [True, False, None, True],
            "at": pa.array([0, 1, None, 1_700_000_000_000_001], pa.timestamp("us", "UTC")),
            "n": pa.array([1, None, 3, 2**40], pa.int64()),
        }
    )


def test_columns_come_in_the_models_order_with_nan_for_null():
    matrix = Encoder.learn(a_table(), DTYPES).matrix(a_table())
    nan = np.nan
    expected = [
        [1.5, 1, 1, 0, 1],
        [nan, 0, 0, 1, nan],
        [2.0, nan, nan, nan, 3],
        [-3.0, 0, 1, 1_700_000_000_000_001, 2.0**40],
    ]
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.flags.c_contiguous


def test_an_unseen_string_is_missing_and_shifts_nothing():
    encoder = Encoder({"country": "string"}, {"country": ("de", "fr")})
    found = encoder.matrix({"country": strings(["aa", "fr", None, "zz", "de"])})
    np.testing.assert_array_equal(found[:, 0], [np.nan, 1, np.nan, np.nan, 0])


def test_codes_go_by_frequency_then_value():
    table = pa.table({"c": ["b", "a", "c", "c", None, None, None]})
    assert Encoder.learn(table, {"c": "string"}).dictionaries["c"] == ("c", "a", "b")


def test_rare_strings_beyond_the_limit_are_missing():
    words = [f"w{i:05d}" for i in range(MAX_CATEGORIES + 5)]
    encoder = Encoder.learn(pa.table({"c": words + words[:MAX_CATEGORIES]}), {"c": "string"})
    assert len(encoder.dictionaries["c"]) == MAX_CATEGORIES
    assert np.isnan(encoder.matrix({"c": strings([words[-1]])})[0, 0])


def test_one_row_is_filled_as_the_matrix_would_be():
    encoder = Encoder.learn(a_table(), DTYPES)
    numpy_rows = {
        "amount": np.array([1.5, np.nan]),
        "country": strings(["fr", "unseen"]),
        "new": np.array([True, None], dtype=object),
        "at": np.array([0.0, np.nan]),
        "n": np.array([1.0, np.nan]),
    }
    matrix = encoder.matrix(numpy_rows)
    for i in range(2):
        row = np.empty(5)
        encoder.fill(row, {name: values[i : i + 1] for name, values in numpy_rows.items()})
        np.testing.assert_array_equal(row, matrix[i])


def test_numpy_instants_are_microseconds():
    encoder = Encoder({"at": "timestamp"})
    found = encoder.matrix({"at": np.array(["1970-01-01T00:00:01", "NaT"], dtype="datetime64[ns]")})
    np.testing.assert_array_equal(found[:, 0], [1e6, np.nan])


def test_it_survives_json():
    encoder = Encoder.learn(a_table(), DTYPES)
    again = Encoder.from_dict(encoder.to_dict())
    assert again == encoder
    assert again.columns == tuple(DTYPES)


def test_an_absent_column_is_named_with_the_nearest():
    with pytest.raises(TrainingError, match=r"'amount'.*\n\nHint: did you mean 'amounts'"):
        Encoder({"amount": "float64"}).matrix({"amounts": np.array([1.0])})


@given(
    st.one_of(st.floats(), st.integers(-(2**64), 2**64).map(float), st.sampled_from([0.0, 1.0, 2.0])),
    st.sampled_from(["float64", "int64", "bool"]),
)
def test_one_value_is_typed_as_its_column_is(value, kind):
    found, wanted = typed_value(value, kind), typed(np.array([value]), kind)[0].as_py()
    assert (type(found), found) == (type(wanted), wanted)


@given(st.integers(-(2**53), 2**53))
def test_one_instant_is_typed_as_its_column_is(micros):
    assert typed_value(float(micros), "timestamp") == typed(np.array([float(micros)]), "timestamp")[0].as_py()
