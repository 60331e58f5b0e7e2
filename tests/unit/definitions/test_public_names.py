import inspect
import subprocess
import sys

import pytest

import millstream as ms
import millstream.definitions
from millstream import errors
from millstream.definitions import serialise


def test_all_is_sorted_and_is_what_is_there():
    assert list(ms.__all__) == sorted(ms.__all__)
    for name in ms.__all__:
        assert getattr(ms, name).__module__.startswith("millstream."), name
    public = {name for name in vars(ms) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(ms, name))}
    imported_by_the_file_itself = {"Any", "TYPE_CHECKING", "import_module"}
    assert public - modules - imported_by_the_file_itself <= set(ms.__all__)


def test_names_are_completed_before_they_are_loaded():
    code = "import millstream; print(set(millstream.__all__) <= set(dir(millstream)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"(?s)'millstream' has no 'Sums'.*did you mean 'Sum'"):
        ms.Sums  # noqa: B018


def test_the_package_of_definitions_lists_what_it_holds():
    names = millstream.definitions.__all__
    assert list(names) == sorted(names)
    assert all(hasattr(millstream.definitions, name) for name in names)


def test_every_error_is_of_one_tree_and_shows_its_hint():
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    assert all(issubclass(kind, errors.MillstreamError) for kind in kinds)
    assert str(errors.StoreError("It broke.", "mend it.")) == "It broke.\n\nHint: mend it."
    assert str(errors.StoreError("It broke.")) == "It broke."


def test_request_errors_carry_what_an_answer_needs():
    missing = errors.NotFound.named("view", "fraude", ["fraud", "churn"])
    assert (missing.status, missing.field, missing.given) == (404, "view", "fraude")
    assert missing.hint == "did you mean 'fraud'?"
    absent = errors.RequestError.absent("Model 'fraud'", "amount", "float64")
    assert (absent.status, absent.field, absent.expected) == (400, "amount", "float64")


@pytest.mark.parametrize("name", sorted(set(ms.__all__) - {"Project", "compute"}))
def test_every_public_definition_has_a_running_example(name):
    assert ">>>" in (inspect.getdoc(getattr(ms, name)) or "")


def test_the_kinds_that_can_be_stored_are_the_public_ones():
    public = set(ms.__all__) - {"MillstreamError", "Project", "compute", "on_demand"}
    assert set(serialise._KINDS) == public | {"FeatureRef", "OnDemandFeature"}
