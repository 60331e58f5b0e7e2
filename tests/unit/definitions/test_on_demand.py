import math

import numpy as np
import pytest

import millstream as ms
from millstream.definitions.on_demand import OnDemandFeature
from millstream.errors import DefinitionError

LIMIT = 3
TABLE = {"a": 1}


def array(*values):
    return np.array(values, object if any(isinstance(value, str) for value in values) else np.float64)


def make(text, returns="float64", **given):
    name = text.removeprefix("def ").split("(")[0]
    return OnDemandFeature(name, source_text=text, returns=returns, **given)


def test_arguments_are_the_names_of_columns(fraud):
    assert fraud.amount_z.arguments == ("amount", "habits__amount_mean_30d", "habits__amount_std_30d")


def test_any_null_argument_gives_null_and_never_reaches_the_function():
    short = make("def short(name, n):\n    return np.array([len(x) for x in name]) * n")
    columns = {"name": np.array(["ab", None, "c"], object), "n": array(2, 1, np.nan)}
    np.testing.assert_array_equal(short.call(columns), [4, np.nan, np.nan])
    np.testing.assert_array_equal(short.call({"name": np.array([None], object), "n": array(1)}), [np.nan])


def test_nulls_can_be_passed_on():
    filled = make("def filled(n):\n    return np.where(np.isnan(n), 7, n)", nulls="pass")
    np.testing.assert_array_equal(filled.call({"n": array(1, np.nan)}), [1, 7])


def test_what_is_not_finite_is_null_and_counted_and_zero_has_no_sign():
    ratio = make("def ratio(a, b):\n    return a / b")
    result, wild = ratio.call_counted({"a": array(1, 0, -1, np.nan), "b": array(0, 0, -np.inf, 1)})
    np.testing.assert_array_equal(result, [np.nan, np.nan, 0, np.nan])
    assert wild == 2
    assert not np.signbit(make("def minus(a):\n    return -a").call({"a": array(0)}))[0]


def test_a_null_that_was_passed_on_is_not_counted():
    same = make("def same(n):\n    return n", nulls="pass")
    assert same.call_counted({"n": array(np.nan, np.inf)})[1] == 1


def test_strings_and_constants_and_scalars_come_out_as_columns():
    upper = make("def upper(c):\n    return np.array([x.upper() for x in c], object)", "string")
    assert upper.call({"c": np.array(["de", None], object)}).tolist() == ["DE", None]
    assert make("def one(n):\n    return 1").call({"n": array(5, 6)}).tolist() == [1, 1]
    assert make("def big(n):\n    return n > 5", "bool").call({"n": array(5, 6)}).tolist() == [0, 1]


def test_constants_of_the_module_are_kept_with_the_text():
    @ms.on_demand(returns="bool")
    def many(n):
        return np.array([x > LIMIT for x in n])

    assert dict(many.constants) == {"LIMIT": 3}
    assert many.call({"n": array(3, 4)}).tolist() == [0, 1]
    assert many.rebuild(many.source_text) == many
    assert many.rebuild(many.source_text).call({"n": array(3, 4)}).tolist() == [0, 1]


def test_the_hash_follows_the_text_the_constants_the_type_and_the_nulls():
    text = "def f(n):\n    return n * K"
    hashes = {
        make(text, constants={"K": 1}).hash, make(text, constants={"K": 2}).hash,
        make(text, "int64", constants={"K": 1}).hash, make(text, nulls="pass", constants={"K": 1}).hash,
        make(text.replace("n * K", "K * n"), constants={"K": 1}).hash,
    }  # fmt: skip
    assert len(hashes) == 5
    assert make(text, constants={"K": 1}, owner="risk").hash in hashes


def test_an_outside_name_is_refused_by_name():
    with pytest.raises(DefinitionError, match="uses 'math', a module defined outside it"):

        @ms.on_demand(returns="float64")
        def root(n):
            return math.sqrt(n)

    with pytest.raises(DefinitionError, match="uses 'TABLE', a dict defined outside it"):

        @ms.on_demand(returns="float64")
        def looked_up(n):
            return TABLE["a"] * n


@pytest.mark.parametrize(
    ("body", "offender"),
    [
        ("return open('x').read()", "open"),
        ("return eval('n')", "eval"),
        ("import os\n    return n", "os"),
        ("from os import path\n    return n", "os"),
        ("global g\n    g = n\n    return n", "g"),
        ("return np.random.rand(len(n))", "np.random"),
        ("return np.load('x')", "np.load"),
        ("return n.__class__", "__class__"),
        ("return np.datetime64('now')", "'now'"),
        ("return elsewhere(n)", "elsewhere"),
        ("return [k for k in n if k > hidden]", "hidden"),
        ("yield n", "yield"),
    ],
)
def test_what_is_not_self_contained_is_refused(body, offender):
    with pytest.raises(DefinitionError) as raised:
        make(f"def f(n):\n    {body}")
    assert f"uses '{offender}'" in raised.value.message or f'uses "{offender}"' in raised.value.message
    assert "make it an argument" in raised.value.hint


@pytest.mark.parametrize("signature", ["n=1", "*n", "**n", "n, *, m", "n, /", ""])
def test_arguments_are_plain_names(signature):
    with pytest.raises(DefinitionError, match="arguments must be plain names"):
        make(f"def f({signature}):\n    return 1")


def test_what_has_no_source_text_is_refused():
    with pytest.raises(DefinitionError, match="its source text cannot be read"):
        ms.on_demand(returns="float64")(eval("lambda n: n"))


@pytest.mark.parametrize(("given", "hint"), [({"returns": "flot64"}, "float64"), ({"nulls": "skip"}, "'null', 'pass'")])
def test_choices_are_checked(given, hint):
    with pytest.raises(DefinitionError) as raised:
        make("def f(n):\n    return n", **given)
    assert hint in raised.value.hint


def test_a_function_over_the_whole_column_is_refused_by_the_view():
    share = make("def share(n):\n    return n / n.sum()")
    with pytest.raises(DefinitionError, match="one per row, by that row alone"):
        ms.FeatureView("v", request={"n": "float64"}, features=[share])
    short = make("def short(n):\n    return n[:1]")
    with pytest.raises(DefinitionError, match="by that row alone"):
        short.call({"n": array(1, 2)})
