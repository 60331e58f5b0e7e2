"""The example project's world: its history on the first `up`, and the live events after it.

The simulator makes about three thousand events a day for a thousand users; the project's clock runs faster than time
does, so that they come at the rate that the settings ask for, and days of labels and retraining pass while one looks.
"""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from millstream.buffer.topics import REGISTRY, feature_topic
from millstream.clock import FileClock, project_clock, to_micros
from millstream.errors import ProjectError
from millstream.settings import Generator, Settings
from millstream.templates import START
from millstream.testing.generators import DAY, HOUR, FraudSimulator, LiveEvents, rows

USERS = 1_000
HISTORY_DAYS = 50
EVENTS_A_DAY = 3.25 * USERS
TICK = 0.05
"""Seconds between two looks at what is due."""
STREAMS = ("payments", "logins", "disputes")

Say = Callable[[str], None]


def speed(generator: Generator) -> float:
    """How many times faster than time the project's clock runs, for the rate of events that is asked for.

    Example:
        >>> from millstream.settings import Generator
        >>> round(speed(Generator(enabled=True, rate=3.0)))
        80
    """
    return generator.rate * 86_400 / EVENTS_A_DAY


def prepare(settings: Settings, say: Say) -> None:
    """Make a project ready to run: apply what it declares and, for a generator's first time, load and train.

    Args:
        settings: the project.
        say: called with a sentence for each step.

    Raises:
        PlanError: when what the folder declares would remove or break something; `apply` asks.
    """
    from millstream.project import Project

    if not settings.generator.enabled:
        _apply(Project(settings.folder), say)
        return
    marker = settings.data / "generator.json"
    if marker.exists() and not json.loads(marker.read_text())["ready"]:
        say("The first start was interrupted; starting over.")
        _remove_unfinished(settings.data)
    if not marker.exists():
        _first_time(settings, marker, say)
    else:
        _apply(Project(settings.folder), say)


def _apply(project: Any, say: Say) -> None:
    changes = project.apply()
    if changes:
        say(f"Applied {len(changes)} changes: " + ", ".join(f"{c.kind} {c.name}" for c in changes) + ".")


def _first_time(settings: Settings, marker: Path, say: Say) -> None:
    """Load the history, backfill, train and deploy; a crash on the way starts over."""
    from millstream.fold.warm import saying_when_compiling
    from millstream.project import Project

    _refuse_used(settings)
    settings.data.mkdir(parents=True, exist_ok=True)
    _mark(marker, ready=False)
    start = to_micros(START)
    FileClock(settings.data / "clock.json").set(start, rate=0.0)
    project = Project(settings.folder)
    project.apply()
    history = _history(settings, start)
    say(f"Loading {HISTORY_DAYS} days of history: {sum(table.num_rows for table in history.values()):,} events.")
    for name, table in history.items():
        project.load(name, table)
    say("Computing the features of all of it.")
    with saying_when_compiling(say):
        project.backfill()
        for model in project.parts.registry.models():
            trained = project.train(model)
            project.deploy(model, trained.version)
            count = trained.facts["matured"]
            say(f"Trained {model.name} version {trained.version} on {count:,} payments: {_figures(trained.metrics)}.")
    project.close()
    _mark(marker, ready=True)


def _refuse_used(settings: Settings) -> None:
    """Raise `ProjectError` where anything came that the generator did not make; what `apply` makes is welcome."""
    from millstream.project.parts import Parts

    if not (settings.data / "log").exists():
        return
    with Parts(settings) as parts:
        # `apply` begins each feature topic with an empty record, and notes the registry; the rest came from elsewhere.
        ours = (feature_topic(""), REGISTRY)
        others = [topic for topic in parts.log.topics() if not topic.startswith(ours)]
        if any(end for topic in others for _, end in parts.log.ends(topic)) or parts.offline.tables():
            raise ProjectError(
                f"Project '{settings.name}' already holds events or runs that its generator did not make.",
                "set `enabled = false` under [generator] in millstream.toml, or make another project.",
            )


def _history(settings: Settings, start: int) -> dict[str, pa.Table]:
    live = LiveEvents(_simulator(settings), start - start % DAY - HISTORY_DAYS * DAY)
    return live.due(start)


def _simulator(settings: Settings) -> FraudSimulator:
    return FraudSimulator(seed=settings.generator.seed, users=USERS)


def _mark(marker: Path, *, ready: bool) -> None:
    marker.write_text(json.dumps({"ready": ready}))


def _remove_unfinished(data: Path) -> None:
    for path in data.iterdir():
        if path.is_dir() and path.name != "run":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def _figures(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {found.value:.3f}" for name, found in list(metrics.items())[:2])


class LiveProducer:
    """Sends the simulator's live events to the service and scores each payment first, as a shop's server would.

    What is due while the service is away waits and is sent when it is back. After a crash the last second may be sent
    again; the stream drops what is repeated.

    Args:
        settings: the project.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = project_clock(settings.data)
        self._position = settings.data / "generator.sent"
        now = self._clock.now()
        sent = int(self._position.read_text()) if self._position.exists() else to_micros(START)
        # What nobody was there to live through is not made up for: after a long pause it starts at the present.
        self._live = LiveEvents(_simulator(settings), max(sent, now - HOUR))
        self._waiting: list[tuple[str, pa.Table]] = []
        self._connection: http.client.HTTPConnection | None = None
        self.facts: dict[str, Any] = {"sent": 0, "scored": 0, "waiting": 0, "latest": None}

    def step(self) -> int:
        """Send what is due; returns how many events were sent."""
        now = self._clock.now()
        due = self._live.due(now)
        self._waiting += [(name, due[name]) for name in STREAMS if due[name].num_rows]
        sent = 0
        while self._waiting:
            name, table = self._waiting[0]
            if not self._take(name, table):
                break
            self._waiting.pop(0)
            sent += table.num_rows
        if not self._waiting:
            self._position.write_text(str(now))
        self.facts["sent"] += sent
        self.facts["waiting"] = sum(table.num_rows for _, table in self._waiting)
        return sent

    def _take(self, name: str, table: pa.Table) -> bool:
        events = list(rows(table))
        if name == "payments":
            self._score(events)
        return self._post(f"/v1/streams/{name}/events", events) is not None

    def _score(self, payments: Sequence[Mapping[str, Any]]) -> None:
        names = ("payment_id", "user_id", "device_id", "payee_id", "amount", "country")
        asked = [{**{name: one[name] for name in names}, "at": one["paid_at"]} for one in payments]
        answer = self._post("/v1/models/fraud/score", {"rows": asked})
        if answer is None:
            return
        self.facts["scored"] += len(asked)
        last, score = payments[-1], answer["rows"][-1]["score"]
        self.facts["latest"] = f"user {last['user_id']} pays {last['amount']:.2f}: score {score:.4f}"

    def _post(self, path: str, body: Any) -> Any:
        """The answer's JSON, or None where there is none: the service is away, or does not take it."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._settings.host, self._settings.port, timeout=10)
            self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection = None
            return None
        self.facts["refused"] = None if answer.status < 300 else said.decode(errors="replace")[:500]
        return json.loads(said) if answer.status < 300 else None


def produce(settings: Settings, stop: threading.Event, publish: Callable[[Mapping[str, Any]], None]) -> None:
    """Send live events until told to stop: the loop of the generator's process.

    Args:
        settings: the project.
        stop: set when it is to end.
        publish: called about once a second with what the process says of itself.
    """
    producer = LiveProducer(settings)
    said, since, sent = time.monotonic(), time.monotonic(), 0
    while not stop.wait(TICK):
        sent += producer.step()
        if time.monotonic() - said >= 1.0:
            said = time.monotonic()
            publish({**producer.facts, "rate": round(sent / (said - since), 1), "lag": producer.facts["waiting"]})
            since, sent = said, 0
