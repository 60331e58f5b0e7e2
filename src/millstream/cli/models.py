"""Commands about models and what they served: train, deploy, rollback, score, verify, parity, explain."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from millstream.cli.output import HERE, AsJson, Folder, plain, show, table
from millstream.cli.progress import progress
from millstream.errors import RequestError

ModelName = Annotated[str, typer.Argument(help="The model's name.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (train, deploy, rollback, score, verify, parity, explain):
        app.command()(command)


def train(model: ModelName, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Fit and register a model version.

    `deploy` makes it the champion.
    """
    from millstream.project import Project

    with progress(f"training {model}", as_json):
        trained = Project(folder).train(model)

    def told() -> None:
        table(["metric", "value", "low", "high"], [(name, *_interval(one)) for name, one in trained.metrics.items()])
        print(f"Trained {model} version {trained.version}. `millstream deploy {model}` makes it the champion.")

    show(trained, as_json, told)


def deploy(
    model: ModelName,
    version: Annotated[int | None, typer.Argument(help="The version; the newest otherwise.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Make a model version the champion.

    Serving takes it within a second.
    """
    from millstream.project import Project

    deployed = Project(folder).deploy(model, version)
    show({"model": model, "version": deployed}, as_json, f"{model}: version {deployed} is the champion.")


def rollback(model: ModelName, folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Make the champion before this one champion again."""
    from millstream.project import Project

    restored = Project(folder).rollback(model)
    show({"model": model, "version": restored}, as_json, f"{model}: version {restored} is the champion again.")


def score(
    model: ModelName,
    row: Annotated[str, typer.Argument(help="A JSON object or array, or - for standard input.")] = "-",
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Score requests with the champion, as serving does."""
    from millstream.project import Project

    given = sys.stdin.buffer.read() if row == "-" else row.encode(errors="surrogateescape")
    scored = Project(folder).score(model, _rows(given)).to_pylist()
    names = ("request_id", "score", "version", "degraded")
    show(scored, as_json, lambda: table(names, [[one[name] for name in names] for one in scored]))


def verify(
    view: Annotated[str | None, typer.Argument(help="A feature view; every one otherwise.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many of the newest captured requests.")] = 1_000,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Recompute served vectors from history.

    Every bit must agree; ends with 1 on a difference.
    """
    from millstream.project import Project

    with progress("verifying", as_json):
        found = Project(folder).verify(view, sample=sample)
    text = f"{found.requests:,} requests, {found.values:,} values, {found.mismatches:,} mismatches"
    show(found, as_json, text)
    if found.mismatches:
        raise typer.Exit(1)


def parity(
    model: ModelName,
    sample: Annotated[int, typer.Option(min=1, help="How many of the newest captured requests.")] = 1_000,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare served vectors with training data.

    At the same keys and instants; ends with 1 on a difference that nothing explains.
    """
    from millstream.project import Project

    with progress("comparing", as_json):
        found = Project(folder).parity(model, sample=sample)
    text = (
        f"{found.values:,} values; differing by latency {found.latency:,}, "
        f"by overflow {found.overflow:,}, read behind {found.behind:,}, unexplained {found.unexplained:,}"
    )
    show(found, as_json, text)
    if found.unexplained:
        raise typer.Exit(1)


def explain(
    request_id: Annotated[str, typer.Argument(help="The request's id, from its answer.")],
    feature: Annotated[str | None, typer.Option(help="A column, to list the events behind its value.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Show what one request was answered from.

    The vector, versions and positions; with --feature the events behind its value.
    """
    from millstream.clock import to_datetime
    from millstream.project import Project

    found = Project(folder).explain(request_id, feature)

    events = [] if found.events is None else found.events.to_pylist()

    def told() -> None:
        at = to_datetime(found.at).isoformat()
        table(["request", "model", "at", "score"], [(found.request_id, found.model, at, found.score)])
        table(["group", "version", "shard", "applied positions"], [_group(*one) for one in found.groups.items()])
        table(["column", "value"], list(found.vector.items()))
        if events:
            names = [name for name in events[0] if not name.startswith("_") and name != "rest"]
            last = ", the last row being the request" if events[-1]["_position"] is None else ""
            table(names, [[event[name] for name in names] for event in events], title=f"Behind {feature}{last}")

    show(dataclasses.replace(found, events=events), as_json, told)


def _group(name: str, facts: Mapping[str, Any]) -> tuple[object, ...]:
    return name, facts["version"], facts["shard"], facts["fallback"] or facts["positions"]


def _interval(metric: Any) -> tuple[object, object, object]:
    value = plain(metric)
    if isinstance(value, dict):
        return value.get("value"), value.get("low"), value.get("high")
    return value, None, None


def _rows(text: bytes) -> list[dict[str, Any]]:
    from msgspec import DecodeError, json

    try:
        given = json.decode(text)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        given = None
    rows = given if isinstance(given, list) else [given]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError(
            "The request is not a JSON object or an array of them.",
            field="row",
            given=text[:80].decode(errors="replace").strip(),
            expected="a JSON object, or an array of at least one",
            hint="""for instance '{"user_id": 42, "amount": 12.5}'.""",
        )
    return rows
