"""The example project on simulated payments, in simulated time: history, training, then some live days."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.clock import FileClock, to_micros
from millstream.errors import ProjectError
from millstream.fold.warm import saying_when_compiling
from millstream.project import Project
from millstream.templates import START, write_project
from millstream.testing.generators import DAY, FraudSimulator, LiveEvents, rows
from millstream.train.metrics import auc, average_precision

HISTORY_DAYS = 50
STEP = 600_000_000
"""Microseconds of simulated time between two looks at what is due."""
MARK = "demo"


@dataclass
class Day:
    """What came in on one day, and how it was scored."""

    date: str
    payments: int
    ids: list[str]
    scores: list[float]


def run(folder: Path, *, days: int = 3, users: int = 1_000, seed: int = 1, as_json: bool = False) -> None:
    """Make the project in a folder, load fifty days, train, run some days through the pipeline, and say how it did.

    Args:
        folder: where the project is made; one that a run before this made is replaced.
        days: how many days run through the pipeline.
        users: how many users pay.
        seed: fixes the simulated world.
        as_json: print one JSON object instead of a table.

    Raises:
        ProjectError: when the folder holds something that no run of the demo made.
    """
    began = time.monotonic()

    def say(sentence: str) -> None:
        if not as_json:
            print(sentence, flush=True)

    start = to_micros(START)
    world = FraudSimulator(seed=seed, users=users)
    project = _made(folder, world, start)
    say(f"Made {folder}: a project on a simulator of {users:,} users. Loading {HISTORY_DAYS} days.")
    live = LiveEvents(world, start - HISTORY_DAYS * DAY)
    for name, table in live.due(start).items():
        project.load(name, table)
    with saying_when_compiling(say):
        project.backfill()
        trained = project.train("fraud")
        project.deploy("fraud", trained.version)
    say(f"Trained fraud version {trained.version} on {trained.facts['matured']:,} payments with a known label.")
    truth = _frauds(world, start, days)
    say(f"{'day':<12}{'payments':>10}{'frauds':>8}{'AUC':>8}{'AP':>8}")
    seen = []
    for number in range(days):
        day = _lived(project, live, start + number * DAY)
        seen.append(day)
        say(_line(day, truth))
    report = _report(project, seen, truth, time.monotonic() - began)
    project.close()
    if as_json:
        print(json.dumps(report), flush=True)
        return
    checked = report["verify"]
    say(f"Recomputed {checked['requests']:,} requests from history: {checked['mismatches']} of their values differ.")
    say(f"Try next: cd {folder}; millstream status; millstream verify; millstream up")


def _made(folder: Path, world: FraudSimulator, start: int) -> Project:
    import pyarrow.parquet as pq

    if folder.exists():
        if not (folder / ".millstream" / MARK).exists():
            raise ProjectError(
                f"'{folder}' holds something that the demo did not make.", "name another folder with --project."
            )
        shutil.rmtree(folder)
    write_project(folder)
    settings = (folder / "millstream.toml").read_text(encoding="utf-8")
    (folder / "millstream.toml").write_text(settings.replace("enabled = true", "enabled = false"), encoding="utf-8")
    pq.write_table(world.accounts(start), folder / "accounts.parquet")
    (folder / ".millstream").mkdir()
    (folder / ".millstream" / MARK).touch()
    FileClock(folder / ".millstream" / "clock.json").set(start, rate=0.0)
    project = Project(folder)
    project.apply()
    return project


def _lived(project: Project, live: LiveEvents, midnight: int) -> Day:
    """Run one day: what is due is scored, then sent, computed and ingested, step by step."""
    clock = project.clock
    assert isinstance(clock, FileClock)
    ids, scores = [], []
    for now in range(midnight + STEP, midnight + DAY + STEP, STEP):
        clock.set(now)
        due = live.due(now)
        asked = [_request(one) for one in rows(due["payments"])]
        if asked:
            scores += project.score("fraud", asked)["score"].to_pylist()
            ids += [one["payment_id"] for one in asked]
        for name, table in due.items():
            if table.num_rows:
                project.send(name, table)
        project.drain()
    date = str(np.datetime64(midnight, "us").astype("datetime64[D]"))
    return Day(date, len(ids), ids, scores)


def _request(payment: dict[str, Any]) -> dict[str, Any]:
    names = ("payment_id", "user_id", "device_id", "payee_id", "amount", "country")
    return {**{name: payment[name] for name in names}, "at": payment["paid_at"]}


def _frauds(world: FraudSimulator, start: int, days: int) -> set[str]:
    """The payments that turn out to be frauds, whenever that is known."""
    first = start // DAY
    disputes = world.between(first, first + days + 1)["disputes"]
    found: pa.ChunkedArray = disputes.filter(pc.field("is_fraud"))["payment_id"]
    return set(found.to_pylist())


def _measured(day: Day, truth: set[str]) -> tuple[int, float, float]:
    labels = np.array([one in truth for one in day.ids], np.float64)
    scores = np.array(day.scores)
    if not 0 < labels.sum() < len(labels):
        return int(labels.sum()), float("nan"), float("nan")
    return int(labels.sum()), float(auc(labels, scores)), float(average_precision(labels, scores))


def _line(day: Day, truth: set[str]) -> str:
    frauds, area, precision = _measured(day, truth)
    return f"{day.date:<12}{day.payments:>10,}{frauds:>8,}{area:>8.3f}{precision:>8.3f}"


def _report(project: Project, seen: list[Day], truth: set[str], seconds: float) -> dict[str, Any]:
    whole = Day("", 0, [one for day in seen for one in day.ids], [one for day in seen for one in day.scores])
    frauds, area, precision = _measured(whole, truth)
    checked = project.verify()
    return {
        "requests": len(whole.ids),
        "frauds": frauds,
        "auc": area if area == area else None,
        "ap": precision if precision == precision else None,
        "verify": {"requests": checked.requests, "values": checked.values, "mismatches": checked.mismatches},
        "seconds": round(seconds, 1),
    }
