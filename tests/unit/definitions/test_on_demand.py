import math

import numpy as np
import pytest

import millstream as ms
from millstream.definitions import self_contained
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.row_function import compile_function
from millstream.errors import DefinitionError

LIMIT = 3
TABLE = {"a": 1}


def array(*values):
    return np.array(values, object if any(isinstance(value, str) for value in values) else np.float64)


def make(text, returns="float64", **given):
    name = text.removeprefix("def ").split("(")[0]
    return OnDemandFeature(name, source_text=text, returns=returns, **given)


def bound(text, returns="float64", kind="float64", **given):
    """A function of arguments that all have one type."""
    feature = make(text, returns, **given)
    return feature.bound(dict.fromkeys(feature.arguments, kind))


def test_arguments_are_the_names_of_columns(fraud):
    assert fraud.amount_z.arguments == ("amount", "habits__amount_mean_30d", "habits__amount_std_30d")


def test_any_null_argument_gives_null_and_never_reaches_the_function():
    short = make("def short(name, n):\n    return len(name) * n").bound({"name": "string", "n": "float64"})
    columns = {"name": np.array(["ab", None, "c"], object), "n": array(2, 1, np.nan)}
    np.testing.assert_array_equal(short.call(columns), [4, np.nan, np.nan])
    np.testing.assert_array_equal(short.call({"name": np.array([None], object), "n": array(1)}), [np.nan])


def test_nulls_can_be_passed_on():
    filled = bound("def filled(n):\n    return np.where(np.isnan(n), 7, n)", nulls="pass")
    np.testing.assert_array_equal(filled.call({"n": array(1, np.nan)}), [1, 7])
    named = bound("def named(c):\n    return 'none' if c is None else c.lower()", "string", "string", nulls="pass")
    assert named.call({"c": np.array(["DE", None], object)}).tolist() == ["de", "none"]


def test_what_is_not_finite_is_null_and_counted_and_zero_has_no_sign():
    ratio = bound("def ratio(a, b):\n    return a / b")
    result, wild = ratio.call_counted({"a": array(1, 0, -1, np.nan), "b": array(0, 0, -np.inf, 1)})
    np.testing.assert_array_equal(result, [np.nan, np.nan, 0, np.nan])
    assert wild == 2
    assert not np.signbit(bound("def minus(a):\n    return -a").call({"a": array(0)}))[0]


def test_a_null_that_was_passed_on_is_not_counted():
    same = bound("def same(n):\n    return n", nulls="pass")
    assert same.call_counted({"n": array(np.nan, np.inf)})[1] == 1


def test_what_cannot_be_computed_for_a_row_is_null_there_and_counted():
    domain = bound("def domain(mail):\n    return mail.split('@')[1]", "string", "string")
    result, failed = domain.call_counted({"mail": np.array(["a@b", "none", None], object)})
    assert (result.tolist(), failed) == (["b", None, None], 1)


def test_branches_loops_text_and_none_are_those_of_one_row():
    text = """def points(amount, country):
    total = 0.0
    for i in range(3):
        total += amount ** i
    if country in ("DE", "FR") and amount > 1:
        return total
    elif country.startswith("U"):
        return None
    return -1.0"""
    points = make(text).bound({"amount": "float64", "country": "string"})
    columns = {"amount": array(2, 2, 2, 1), "country": array("DE", "US", "IT", "FR")}
    np.testing.assert_array_equal(points.call(columns), [7, np.nan, -1, -1])


@pytest.mark.parametrize(("kind", "given"), [("int64", 7), ("timestamp", 7_200_000_001), ("bool", 1)])
def test_arguments_have_their_types(kind, given):
    text = "def f(n):\n    return ~n" if kind == "bool" else "def f(n):\n    return n // 2"
    expected = 0 if kind == "bool" else given // 2
    assert bound(text, "bool" if kind == "bool" else "int64", kind).call({"n": array(given)}).tolist() == [expected]


def test_scalars_come_out_as_columns():
    upper = bound("def upper(c):\n    return c.upper()", "string", "string")
    assert upper.call({"c": np.array(["de", None], object)}).tolist() == ["DE", None]
    assert bound("def one(n):\n    return 1").call({"n": array(5, 6)}).tolist() == [1, 1]
    assert bound("def big(n):\n    return n > 5", "bool").call({"n": array(5, 6)}).tolist() == [0, 1]
    assert bound("def one(n):\n    return 1").call({"n": array()}).tolist() == []


def test_one_row_and_a_column_that_is_only_read_and_a_part_of_one_are_taken():
    half = bound("def half(n):\n    return n / 2")
    whole = np.arange(10.0)
    whole.flags.writeable = False
    assert half.call({"n": whole}).tolist() == (whole / 2).tolist()
    assert half.call({"n": whole[::3]}).tolist() == (whole[::3] / 2).tolist()
    assert half.call({"n": whole[:1]}).tolist() == [0]


def test_constants_of_the_module_are_kept_with_the_text():
    @ms.on_demand(returns="bool")
    def many(n):
        return n > LIMIT

    assert dict(many.constants) == {"LIMIT": 3}
    assert many.bound({"n": "float64"}).call({"n": array(3, 4)}).tolist() == [0, 1]


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
        ("return np.f2py.os.system('true')", "np.f2py"),
        ("return np.lib.npyio.os.system('true')", "np.lib"),
        ("return n.__class__", "__class__"),
        ("return np.datetime64('now')", "np.datetime64"),
        ("return elsewhere(n)", "elsewhere"),
        ("return [k for k in n if k > hidden]", "hidden"),
        ("yield n", "yield"),
        ("m = np\n    return m.abs(n)", "np"),
        ("n += [1]\n    return n", "list"),
        ("n[0] = 5\n    return n", "numpy.ndarray"),
        ("while n > 0:\n        n = n\n    return n", "while"),
        ("for i in range(10**9):\n        n = n\n    return n", "for"),
        ("for i in range(9):\n        for j in range(9):\n            n = n\n    return n", "for"),
        ("try:\n        return n\n    except Exception:\n        return n", "try"),
        ("return (lambda k: k)(n)", "lambda"),
        ("return f'{n}'", "joinedstr"),
        ("return sorted((n, 1.0))[0]", "sorted"),
        ("return np.sort(n)", "np.sort"),
        ("return np.cumsum(n)", "np.cumsum"),
        ("return np.unique(n)", "np.unique"),
        ("return np.maximum.accumulate(n)", "accumulate"),
        ("return np.interp(n, n, n)", "np.interp"),
        ("return np.any(n > 50)", "np.any"),
        ("return np.where(len(n) > 3, n, 0)", "len"),
        ("return n / n.sum()", "sum"),
        ("return n.fillna(0)", "fillna"),
        ("return n[::-1]", "[::-1]"),
        ("return n[:1]", "[:1]"),
        ("return np.power(n, out=n)", "out=n"),
        ("max = 1\n    return max", "max"),
        ("return b'x'", "b'x'"),
        ("return 1j * n", "1j"),
        ("import_ = __import__\n    return n", "__import__"),
    ],
)
def test_what_is_not_of_one_row_is_refused_where_it_stands(body, offender):
    with pytest.raises(DefinitionError) as raised:
        bound(f"def f(n):\n    {body}")
    if offender == "numpy.ndarray":
        offender = "n[0] = 5"
    assert offender in raised.value.message
    assert raised.value.hint


def test_a_value_of_another_type_than_declared_is_refused():
    for text, returns, kind, given in (
        ("def f(x):\n    return x", "string", "float64", "float64"),
        ("def f(x):\n    return x", "float64", "string", "string"),
        ("def f(x):\n    return 1 if x > 1 else 'a'", "string", "float64", "string"),
    ):
        with pytest.raises(DefinitionError, match=given):
            bound(text, returns, kind)


def test_a_value_that_its_type_does_not_have_is_null_and_counted():
    result, failed = bound("def half(n):\n    return n / 2", "int64").call_counted({"n": array(4, 3)})
    assert (result.tolist()[0], np.isnan(result[1]), failed) == (2, True, 1)
    result, failed = bound("def flag(n):\n    return n", "bool").call_counted({"n": array(1, 0, 2)})
    assert (result.tolist()[:2], np.isnan(result[2]), failed) == ([1, 0], True, 1)
    short = bound("def short(c):\n    return len(c) / 2", "int64", "string")
    assert short.call_counted({"c": array("ab", "abc")})[1] == 1


def test_what_is_something_else_compiled_than_in_python_is_refused():
    with pytest.raises(DefinitionError, match=r"compiled and .* in Python; both must be the same"):
        bound("def f(n):\n    return 10 ** n", kind="int64")


def test_every_listed_function_of_numpy_compiles_for_numbers():
    twos = ("add", "arctan2", "copysign", "divide", "equal", "floor_divide", "fmax", "fmin", "fmod", "greater",
            "greater_equal", "hypot", "less", "less_equal", "logaddexp", "logical_and", "logical_or", "logical_xor",
            "maximum", "minimum", "mod", "multiply", "not_equal", "power", "remainder", "subtract", "true_divide")  # fmt: skip
    constants = ("e", "inf", "nan", "pi")
    ones = sorted(self_contained.NUMPY - {*twos, *constants, "where"})
    lines = [f"    total += np.{name}(x) * 1.0" for name in ones]
    lines += [f"    total += np.{name}(x, y) * 1.0" for name in twos]
    lines += [f"    total += np.{name}" for name in constants] + ["    total += np.where(x > y, x, y)"]
    assert bound("def f(x, y):\n    total = 0.0\n" + "\n".join(lines) + "\n    return total").arguments == ("x", "y")


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
    with pytest.raises(DefinitionError, match=r"on-demand feature 'share', line 2: uses 'n\.sum'"):
        ms.FeatureView("v", request={"n": "float64"}, features=[share])


def test_the_decorator_needs_its_brackets_and_a_type():
    with pytest.raises(DefinitionError, match="expected a type, in brackets"):
        ms.on_demand(lambda n: n)
    with pytest.raises(DefinitionError, match="expected a type, in brackets"):
        ms.on_demand()


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert bound("def blocked(n):\n    return n + 41").call({"n": array(1)}).tolist() == [42]


def test_what_was_held_to_its_text_is_compiled_when_it_is_called(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "def held(n):\n    return n + 4321"
    assert "compiled" in vars(bound(text))
    compile_function.cache_clear()
    again = bound(text)
    assert "compiled" not in vars(again)
    assert again.call({"n": array(1)}).tolist() == [4322]
    wrong = "def changes(n):\n    return n // 0 if n else undefined"
    for _ in range(2):  # what was refused is noted nowhere
        compile_function.cache_clear()
        with pytest.raises(DefinitionError):
            bound(wrong)


def test_a_damaged_cache_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = "def damaged(n):\n    return n + 1234"
    assert bound(text).call({"n": array(1)}).tolist() == [1235]
    kept = [path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert kept
    for path in kept:
        path.write_bytes(b"\x80damaged")
    compile_function.cache_clear()
    assert bound(text).call({"n": array(1)}).tolist() == [1235]
