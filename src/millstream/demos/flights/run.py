"""The demo from beginning to end: set up, learn from January to June, run live, look back."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millstream.clock import FileClock, SimulatedClock, to_datetime, to_micros
from millstream.demos.flights import on_servers, report
from millstream.demos.flights.season import DAY, MINUTE, OPENING, STREAMS, Season, Tally
from millstream.demos.flights.spending import Spending

if TYPE_CHECKING:
    from millstream.demos.flights.data import Flights
    from millstream.project import Project
    from millstream.train.training_set import TrainingSet

SETTINGS = """name = "flights"
partitions = 1
shards = 1
# Half a year passes in minutes: a commit outlives the death of any process, but does not wait for the disk.
fsync = false
"""
MONTHS = ("2013-07", "2013-08", "2013-09", "2013-10", "2013-11", "2013-12", "2014-01")
#: A demo of one month learns from two, to be over in half a minute.
QUICK_SINCE = to_micros("2013-05-01T04:00:00Z")
_MARK = "flights.parquet-demo"


def run(folder: Path, *, months: int = 6, json: bool = False, servers: bool = False) -> dict[str, Any]:
    """Run the flights demo in `folder`, anew, and keep its project there.

    Args:
        folder: where the project is made; one that this demo made before is replaced, anything else is left alone.
        months: how many months, from July 2013 on, run live.
        json: print one JSON object at the end instead of pictures and advice.
        servers: whether log, states, tables, models and registry are in servers that run as long as the demo does.

    Returns:
        The object that `--json` prints.

    Raises:
        ServerError: when the machine lacks a server, or one does not start.
    """
    began = time.perf_counter()
    show, spending = report.Report(quiet=json), Spending()
    show.opening(folder, months)
    with ExitStack() as stack:
        started = _start(stack, show, spending) if servers else None
        project, flights = set_up(folder, started.settings if started else "")
        stack.callback(project.close)
        season = Season(project, flights, spending)
        learnt = learn(project, season, QUICK_SINCE if months == 1 else 0, show)
        outcome = live(project, season, months, show)
        with spending.on("looking back"):
            found = look_back(project, season, learnt, outcome, show)
        season.close()
        found["seconds"] = round(time.perf_counter() - began, 1)
        if started:
            found |= {"servers": started.versions(), "processor_seconds": started.processor_seconds(),
                      "parts": spending.rounded()}  # fmt: skip
    FileClock(project.settings.data / "clock.json").set(season.clock.now())
    show.closing(folder, found)
    if json:
        print(dumps(found))
    return found


def _start(stack: ExitStack, show: report.Report, spending: Spending) -> on_servers.Started:
    with show.step("Kafka, Redis, PostgreSQL and SeaweedFS are started"), spending.on("starting servers"):
        return stack.enter_context(on_servers.started())


def set_up(folder: Path, settings: str = "") -> tuple[Project, Flights]:
    """Make the project's folder: settings, definitions, tables, and a clock that stands at the opening.

    Args:
        folder: the folder.
        settings: what millstream.toml says beside what it says of every demo.
    """
    import pyarrow.parquet as pq

    from millstream.demos.flights import data
    from millstream.errors import ProjectError
    from millstream.project import Project

    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise ProjectError(f"Folder '{folder}' holds something else.", "name another: `--project FOLDER`.")
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except OSError as error:
        reason = f"'{folder}' cannot be written: {error.strerror}."
        raise ProjectError(reason, "choose a folder of your own.") from error
    (folder / "millstream.toml").write_text(SETTINGS + settings, encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("definitions.py"), folder / "features.py")
    flights = data.load()
    pq.write_table(flights.weather, folder / "weather.parquet")
    pq.write_table(flights.planes, folder / "planes.parquet")
    project = Project(folder)
    project.settings.data.mkdir(parents=True, exist_ok=True)
    FileClock(project.settings.data / "clock.json").set(OPENING)
    project.parts.clock = SimulatedClock(OPENING)  # in memory while one process runs everything; kept at the end
    return project, flights


def learn(project: Project, season: Season, since: int, show: report.Report) -> TrainingSet:
    """Load and backfill what came before July, train the first model and deploy it.

    Args:
        project: the demo's project, without definitions as yet.
        season: owns the clock and sends the events.
        since: the instant (µs) from which events are loaded; 0 for all there are.
        show: is told each step.
    """
    from millstream.demos.flights import definitions

    streams = [getattr(definitions, name) for name in STREAMS]
    spent = season.spending
    with show.step(f"{'May' if since else 'January'} to June is loaded"), spent.on("loading"):
        project.apply(*streams)
        season.streams = {stream.name: stream for stream in streams}
        events = season.load_history(OPENING, since)
        project.apply()
    with show.step(f"{events:,} events are folded into states (backfill)"), spent.on("backfill"):
        project.backfill()
        project.sync()
    with show.step("a point-in-time training set is drawn, and version 1 trained"), spent.on("training"):
        learnt = project.training_set("late")
        project.deploy("late", project.train("late", learnt).version)
    season.open()
    season.deploy()
    return learnt


def live(project: Project, season: Season, months: int, show: report.Report) -> Tally:
    """Run the months, retraining at the start of each but the first.

    Args:
        project: the demo's project, with a champion.
        season: owns the clock, sends the events and asks for scores.
        months: how many, from July 2013 on.
        show: gets a row of the table for each.
    """
    total = Tally()
    show.table()
    for number in range(months):
        start, end = (to_micros(f"{month}-01T04:00:00Z") for month in MONTHS[number : number + 2])
        decision = ""
        if number:
            with season.spending.on("training"):
                decision = retrain(project)
                season.deploy()
        tally = Tally()
        for day in season.run(start, end):
            tally.add(day)
            show.day(tally)
        began = time.perf_counter()
        season.archive()
        tally.pipeline_seconds += time.perf_counter() - began
        labels = season.labels(tally)
        show.month(MONTHS[number], tally, labels, decision)
        total.add(tally)
    return total


def retrain(project: Project) -> str:
    """Retrain on all that has matured; the gate decides."""
    from millstream.train.retrain import retrain

    model = project.parts.registry.model("late")
    examples = project.training_set("late")
    decision = retrain(model, examples, project.parts.model_versions)
    return (
        f"v{decision.version.version} {'promoted' if decision.promoted else 'kept back'}"
        if decision.version
        else "kept"
    )


def look_back(
    project: Project, season: Season, learnt: TrainingSet, outcome: Tally, show: report.Report
) -> dict[str, Any]:
    """Verify every served value, compare with training, count what was lost or doubled, and show the leak.

    Args:
        project: the demo's project.
        season: knows what was sent and how the flights turned out.
        learnt: the training set of the first version.
        outcome: what the months came to.
        show: is told each step.

    Returns:
        The object that `--json` prints.
    """
    from millstream.demos.flights.exhibits import leak, static_auc
    from millstream.train.metrics import auc, average_precision

    model = project.parts.registry.model("late")
    captures = project.parts.histories.captures("late")
    labels = season.labels_of(captures["_request_id"].to_pylist())
    scores = captures["_score"].to_numpy()
    with show.step("every served value is recomputed from history (verify)"):
        verified = project.verify("flights")
    with show.step("and compared with what training would use (parity)"):
        parity = project.parity("late")
    with show.step("the stores are counted against what was sent"):
        lost, doubled = season.account()
    with show.step("the leak exhibit: the same model with a naive join"):
        static = static_auc(model, learnt, captures, labels)
        exhibit = leak(model, learnt, captures, labels, project.parts.histories.training())
    latency = np.array(outcome.latencies) * 1e3
    month = (captures["_at"].to_numpy() - 4 * 60 * MINUTE).astype("datetime64[us]").astype("datetime64[M]")
    by_month = {str(m): round(auc(labels[month == m], scores[month == m]), 4) for m in np.unique(month)}
    return {
        "events": outcome.events, "requests": outcome.requests, "auc_static": round(static, 4),
        "auc": round(auc(labels, scores), 4), "ap": round(average_precision(labels, scores), 4), "auc_by_month": by_month,
        "leak": {name: round(value, 4) for name, value in asdict(exhibit).items()},
        "verify": {"requests": verified.requests, "values": verified.values, "mismatches": verified.mismatches},
        "parity": {"values": parity.values, "latency": parity.latency, "overflow": parity.overflow,
                   "unexplained": parity.unexplained},
        "lost": lost, "doubled": doubled,
        "events_per_second": round(outcome.events / outcome.pipeline_seconds),
        "score_latency_ms": {name: round(float(np.percentile(latency, q)), 3) for name, q in (("p50", 50), ("p99", 99))},
        "model_versions": len(project.parts.model_versions.versions("late")),
        "until": to_datetime(season.clock.now()).isoformat(),
    }  # fmt: skip


__all__ = ["DAY", "run"]
