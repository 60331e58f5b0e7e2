"""The support table says what the conformance suites are declared to do; `make support` writes it from a run of them."""

from tests import support


def test_the_page_is_that_of_the_suites_there_are() -> None:
    assert support.PAGE.read_text(encoding="utf-8") == support.page(support.as_declared()), "run `make support`"


def test_every_suite_is_run_on_an_implementation() -> None:
    assert {run.of[0] for run in support.runs()} == {"log and worker", "online store", "offline store", "source"}


def test_what_did_not_pass_is_not_said_to() -> None:
    outcomes = {run: {name: {"passed", "failed"} for name in tests} for run, tests in support.as_declared().items()}
    assert "| 0 of " in support.page(outcomes)
