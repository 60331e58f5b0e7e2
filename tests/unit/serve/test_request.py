"""What a request may hold, and what a caller who sends something else is told."""

import contextlib
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import Count, Entity, EventStream, FeatureView, StreamFeatureGroup
from millstream.errors import RequestError
from millstream.serve.request import RequestSchema

USER = Entity("user", keys={"user_id": "int64"})
CLICKS = EventStream("clicks", time="at", schema={"user_id": "int64", "at": "timestamp"})
VIEW = FeatureView(
    "offers",
    request={"price": "float64", "country": "string", "new": "bool", "since": "timestamp"},
    features=[StreamFeatureGroup("pace", entity=USER, source=CLICKS, features=[Count(over="5m")])],
)
SCHEMA = RequestSchema(VIEW, {"offer_id": "string"})
GOOD: dict[str, Any] = {"user_id": 42, "price": 9.5, "country": "de", "new": True, "since": "2024-01-01T00:00:00Z"}
NOW = 1_700_000_000_000_000


def refused(row: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        SCHEMA.parse([row], NOW)
    return caught.value


def test_a_good_row_becomes_columns() -> None:
    rows = SCHEMA.parse([{**GOOD, "offer_id": "o1", "note": "x", "at": "2024-01-02"}, GOOD], NOW)
    assert rows.values["user_id"] == [42, 42]
    assert rows.values["since"] == [1_704_067_200_000_000] * 2
    assert rows.values["offer_id"] == ["o1", None]
    assert rows.at.tolist() == [1_704_153_600_000_000, NOW]
    assert rows.rest == [{"note": "x"}, None]


def test_null_is_welcome_and_a_whole_number_is_a_number() -> None:
    rows = SCHEMA.parse([{**dict.fromkeys(GOOD), "price": 3}], NOW)
    assert rows.values["user_id"] == [None]
    assert rows.values["price"] == [3.0]


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        ("user_id", "42", "an integer"),
        ("user_id", 1.5, "an integer"),
        ("user_id", True, "an integer"),
        ("user_id", 2**63, "64 bits"),
        ("price", "9.5", "a number"),
        ("price", False, "a number"),
        ("country", 7, "a string"),
        ("country", ["de"], "a string"),
        ("country", "\ud800", "a string"),
        ("new", 1, "true or false"),
        ("since", "yesterday", "ISO-8601"),
        ("since", 1.5, "ISO-8601"),
        ("at", {"year": 2024}, "ISO-8601"),
        ("at", 10**18, "ISO-8601"),
        ("at", 1_772_000_000, "ISO-8601"),
        ("since", 1_772_000_000_000, "ISO-8601"),
        ("user_id", b"42", "an integer"),
    ],
)
def test_a_wrong_type_names_field_given_and_expected(field: str, given: Any, expected: str) -> None:
    error = refused({**GOOD, field: given})
    assert (error.field, error.status) == (field, 400)
    assert expected in error.expected
    assert error.given == given or isinstance(error.given, str)
    assert error.hint


def test_a_value_may_be_written_as_frames_hold_it() -> None:
    """The same rule as for events: whole floats and decimals are whole numbers, NaN and infinities are null."""
    given = {
        "user_id": 42.0,
        "price": Decimal("9.5"),
        "country": float("nan"),
        "new": np.True_,
        "since": np.datetime64(5, "us"),
    }
    rows = SCHEMA.parse(
        [GOOD | given, GOOD | {"user_id": Decimal(42), "price": float("inf"), "country": np.str_("de")}], NOW
    )
    assert rows.values["user_id"] == [42, 42]
    assert rows.values["price"] == [9.5, None]
    assert rows.values["country"] == [None, "de"]
    assert rows.values["new"] == [True, GOOD["new"]]
    assert rows.values["since"][0] == 5


def test_an_instant_in_another_unit_is_said_to_be() -> None:
    error = refused({**GOOD, "at": 1_772_000_000})
    assert "looks like seconds since 1970" in error.message


def test_an_absent_field_names_what_may_have_been_meant() -> None:
    row = {**GOOD, "prise": 9.5}
    del row["price"]
    error = refused(row)
    assert (error.field, error.given) == ("price", None)
    assert error.hint == "is 'prise' meant to be 'price'?"


def test_a_row_that_is_no_object_is_refused_by_its_place() -> None:
    with pytest.raises(RequestError) as caught:
        SCHEMA.parse([GOOD, [1, 2]], NOW)
    assert caught.value.field == "rows[1]"


def test_a_query_string_is_read_by_the_types_of_the_view() -> None:
    schema = RequestSchema(VIEW, lenient=True)
    rows = schema.parse_query({"user_id": ["42"], "new": ["true"], "at": ["1700000000000001"]}, NOW)
    assert rows.values == {"user_id": [42], "price": [None], "country": [None], "new": [True], "since": [None]}
    assert rows.at.tolist() == [1_700_000_000_000_001]


@pytest.mark.parametrize(
    ("parameters", "field", "hint"),
    [
        ({"user_id": ["x"]}, "user_id", "send it like 42"),
        ({"user_id": ["1"], "new": ["2"]}, "new", "send true or false."),
        ({"user_id": ["1", "2"]}, "user_id", "one row at a time"),
        ({"user_id": ["1"], "prize": ["2"]}, "prize", "did you mean 'price'?"),
        ({}, "user_id", "send it, or null"),
        ({"user_id": ["1"], "price": ["inf"]}, "price", "send it like"),
        ({"user_id": ["1"], "price": ["1_0"]}, "price", "send it like"),
        ({"user_id": ["1_0"]}, "user_id", "send it like 42"),
        ({"user_id": ["\u00b2"]}, "user_id", "send it like 42"),
        ({"user_id": ["9" * 5_000]}, "user_id", "send it like 42"),
        ({"user_id": ["1"], "at": ["\u00b2"]}, "at", "send it like"),
        ({"user_id": ["1"], "at": ["--5"]}, "at", "send it like"),
        ({"user_id": ["1"], "at": ["9" * 5_000]}, "at", "send it like"),
    ],
)
def test_a_wrong_query_string_is_refused(parameters: dict[str, list[str]], field: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        RequestSchema(VIEW, lenient=True).parse_query(parameters, NOW)
    assert caught.value.field == field
    assert hint in str(caught.value.hint)


@given(st.sampled_from([*VIEW.request, "user_id", "at"]), st.text() | st.text("0123456789.-+eE_T:Zinfa"))
def test_any_text_in_a_query_string_is_read_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(RequestError):
        assert len(RequestSchema(VIEW, lenient=True).parse_query({"user_id": ["1"], name: [text]}, NOW)) == 1


def test_the_example_of_a_schema_is_a_row_that_it_accepts() -> None:
    assert len(SCHEMA.parse([SCHEMA.example()], NOW)) == 1
