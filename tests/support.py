"""The support table of the docs: which implementation passes which conformance suite, written by a run of all of them.

Run it by `make support`; what fails is said, and the page stays as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "tests" / "conformance"
PAGE = ROOT / "docs" / "support.md"
HEAD = """# What implementations do

Each protocol has one conformance suite in `millstream.testing`, and every implementation passes it, real servers included.
What one does not do is declared at the suite's run as a test that must fail, with its reason: where it fails no more, that is
an error too. What it lacks are parts of a protocol that need not be there. This page is written by `make support`, from a run
of all suites. Each also runs against an implementation that does no more than the protocol says, to which the rest of
Millstream is held as well.

| protocol | implementation | passes | deviates | lacks |
|---|---|---|---|---|
"""
#: By the class of a suite's run and the name of a test, how its cases ended.
Outcomes = Mapping[str, Mapping[str, set[str]]]


def runs() -> Iterator[type[Any]]:
    """The runs of suites that are about an implementation, in the order of the modules' names."""
    for path in sorted(SUITES.glob("test_*.py")):
        module = import_module(f"tests.conformance.{path.stem}")
        for found in vars(module).values():
            if inspect.isclass(found) and hasattr(found, "of") and found.__module__ == module.__name__:
                yield found


def tests_of(run: type[Any]) -> list[str]:
    """The names of a suite's tests."""
    return sorted(name for name in dir(run) if name.startswith("test_"))


def as_declared() -> Outcomes:
    """How every test ends that ends as it is declared."""
    return {run.__name__: {name: {_declared_end(run, name)} for name in tests_of(run)} for run in runs()}


def _declared_end(run: type[Any], name: str) -> str:
    return "deviates" if name in declared(run) else "skipped" if name in lacks(run) else "passed"


def declared(run: type[Any]) -> Mapping[str, tuple[Any, str]]:
    """The deviations of an implementation."""
    found: Mapping[str, tuple[Any, str]] = getattr(run, "deviations", {})
    return found


def lacks(run: type[Any]) -> tuple[str, ...]:
    """The tests of parts of its protocol that an implementation lacks, and may."""
    found: tuple[str, ...] = getattr(run, "lacks", ())
    return found


def page(outcomes: Outcomes) -> str:
    """The page that outcomes make."""
    rows, reasons = [], []
    for run in runs():
        protocol, implementation = run.of
        ended = outcomes[run.__name__]
        passed = sum(ended[name] == {"passed"} for name in tests_of(run))
        counts = f"{passed} of {len(tests_of(run))} | {len(declared(run)) or '-'} | {len(lacks(run)) or '-'}"
        rows.append(f"| {protocol} | {implementation} | {counts} |")
        if declared(run):
            reasons.append(f"## {implementation} as {protocol}\n")
            reasons += [f"- {said(name)}: {reason}." for name, (_, reason) in sorted(declared(run).items())]
            reasons += [f"- lacks “{words(name)}”." for name in lacks(run)]
            reasons.append("")
    return HEAD + "\n".join([*rows, "", *reasons]).rstrip() + "\n"


def said(name: str) -> str:
    """What a test says, of which an implementation does not do it."""
    return f"not “{words(name)}”"


def words(name: str) -> str:
    """The name of a test as it is read."""
    return name.removeprefix("test_").replace("_", " ")


class Collector:
    """Takes down how tests end."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the end of a test, or why it had none."""
        _, run, name = report.nodeid.split("::")
        if report.when == "call" or report.outcome != "passed":
            ended = "deviates" if hasattr(report, "wasxfail") else report.outcome
            self.outcomes[run][name.partition("[")[0]].add(ended)


def main() -> int:
    """Run all suites, and write the page when all have ended as they are declared."""
    collector = Collector()
    ended = pytest.main(["-q", "-p", "no:cacheprovider", str(SUITES), *sys.argv[1:]], plugins=[collector])
    if ended != pytest.ExitCode.OK:
        return int(ended)
    for run, tests in as_declared().items():
        for name, ends in tests.items():
            if ("skipped" in collector.outcomes[run][name]) != ("skipped" in ends):
                print(f"{run}, {name}: it was left out, or was not; say so in `lacks`. The page is left as it is.")
                return 1
    PAGE.write_text(page(collector.outcomes), encoding="utf-8")
    print(f"{PAGE} is written.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
