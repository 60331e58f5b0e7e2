"""This release and the one before as actors: they work on one project in turns, and nothing is lost, doubled or other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.testing.simulation.models import fitted
from tests.properties.release_actor import USERS

BEFORE = "257dfef"
"""The release before: a commit of this repository."""
HERE = Path(__file__)
MINUTE = 60_000_000
BEGIN = to_micros("2026-01-01T12:00:00Z")
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream(
    "clicks", time="at", schema={"user_id": "int64", "ms": "float64", "at": "timestamp"}, partitions=2
)
pace = ms.StreamFeatureGroup(
    "pace", entity=user, source=clicks, features=[ms.Count(over="30d"), ms.Sum("ms", over="30d")]
)
view = ms.FeatureView("pace_view", features=[pace])
model = ms.Model("slow", view=view, examples=clicks, label=ms.Label(clicks, "ms", on="user_id", absent=0.0, after="1h"))
who = st.sampled_from(["before", "now"])


class Release:
    """A process with the code of a release, and options in its environment."""

    def __init__(self, code: Path, **options: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(code), **options}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE.with_name("release_actor.py"))],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert Path(self._answer()) == code

    def __call__(self, act: str, *given: Any) -> Any:
        """Let it do something, and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([act, *given]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended; its error is above"
        answer = json.loads(line)
        if isinstance(answer, dict) and "failed" in answer:
            raise AssertionError(answer["failed"])
        return answer

    def close(self) -> None:
        """End the process, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def releases() -> Iterator[dict[str, Release]]:
    """Both releases, each in a process that stays open; the code of the one before stays, with its kernels, made plainly."""
    place = Path(tempfile.gettempdir()) / f"millstream-{BEFORE}"
    if not place.exists():
        packed = subprocess.run(
            ["git", "archive", BEFORE, "src"], cwd=HERE.parents[2], capture_output=True, check=False
        )
        if packed.returncode:
            pytest.skip(f"git's history here does not reach back to {BEFORE}")
        with tempfile.TemporaryDirectory(dir=place.parent) as aside:
            made = Path(aside) / "code"
            made.mkdir()
            subprocess.run(["tar", "x", "-C", str(made)], input=packed.stdout, check=True)
            made.rename(place)
    with ExitStack() as stack:
        found = {"now": Release(Path(ms.__file__).parents[1]), "before": Release(place / "src", NUMBA_OPT="0")}
        for release in found.values():
            stack.callback(release.close)
        yield found


def test_two_releases_work_on_one_project_in_turns(releases: dict[str, Release]) -> None:
    class Turns(RuleBasedStateMachine):
        """What was sent and scored is all that there is, whoever did it."""

        def __init__(self) -> None:
            super().__init__()
            self.sent = self.scored = 0
            self.folder = tempfile.TemporaryDirectory()

        @initialize()
        def make(self) -> None:
            folder = Path(self.folder.name) / "p"
            with ms.Project(folder, create=True) as project:
                self.clock = FileClock(project.settings.data / "clock.json")
                project.settings.data.mkdir(parents=True, exist_ok=True)
                self.clock.set(BEGIN, rate=0.0)
                (folder / "millstream.toml").write_text('name = "p"\nshards = 2\nlog_gib = 0.2\nfsync = false\n')
            with ms.Project(folder) as project:
                project.apply(view, model)
                project.register("slow", fitted(view, 0)[0])
                project.deploy("slow")
            for release in releases.values():
                release("open", str(folder))

        @rule(who=who, count=st.integers(1, 5))
        def append(self, who: str, count: int) -> None:
            releases[who]("append", self.sent, count)
            self.sent += count

        @rule(who=who, act=st.sampled_from(["compute", "ingest", "compute", "ingest", "archive", "backfill"]))
        def work(self, who: str, act: str) -> None:
            releases[who](act)

        @rule(who=who, user=st.integers(0, USERS))
        def score(self, who: str, user: int) -> None:
            releases[who]("score", user)
            self.scored += 1

        @rule()
        def wait(self) -> None:
            self.clock.advance(10 * MINUTE)

        @rule(who=who)
        def verify(self, who: str) -> None:
            self.clock.advance(MINUTE)  # an event counts once its instant is past
            self.verified(releases[who]("verify"))

        def verified(self, found: dict[str, Any]) -> None:
            mine = [[n for n in range(self.sent) if n % USERS == user] for user in range(USERS)]
            assert found["served"] == [[len(one), float(sum(one))] for one in mine]
            assert found["events"] == [float(n) for n in range(self.sent)]
            assert found["mismatches"] == 0
            self.seen = found["requests"] + found["degraded"]  # who was scored before the first event was ingested

        def teardown(self) -> None:
            if hasattr(self, "clock"):
                self.clock.advance(MINUTE)
                for name in ("before", "now", "before"):  # what each has captured is shipped by then
                    self.verified(releases[name]("verify"))
                assert self.seen == self.scored
            for release in releases.values():
                release("close")
            self.folder.cleanup()

    run_state_machine_as_test(
        Turns,
        settings=settings(
            max_examples=5,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure says each of its steps, and each takes a while
        ),
    )
