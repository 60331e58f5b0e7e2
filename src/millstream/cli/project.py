"""Commands about the project as a whole: init, plan, apply, status, doctor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millstream.cli.output import HERE, AsJson, Folder, plain, show, table
from millstream.errors import ProjectError
from millstream.usage.layers import SILENT_AFTER

if TYPE_CHECKING:
    from millstream.registry.definitions import Change, Plan

Breaking = Annotated[bool, typer.Option("--allow-breaking", help="Also do what breaks a reader or a model.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (init, plan, apply, status, doctor):
        app.command()(command)


def init(
    folder: Annotated[str, typer.Argument(help="The folder to make.")],
    as_json: AsJson = False,
) -> None:
    """Make a project: a fraud example that runs."""
    from millstream.templates import write_project

    if not folder.strip():
        raise ProjectError("init was given an empty name; expected a folder.", "for instance `millstream init shop`.")
    written = write_project(Path(folder))
    lines = [f"Made {folder} with {', '.join(path.name for path in written)}.", "", f"  cd {folder}", "  millstream up"]
    show({"folder": folder, "files": written}, as_json, "\n".join(lines))


def plan(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Show what `apply` would change, recompute and break."""
    from millstream.project import Project

    planned = Project(folder).plan()
    show(_changes(planned.changes), as_json, planned.text() or "Nothing to change.")


def apply(
    folder: Folder = HERE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    allow_breaking: Breaking = False,
    as_json: AsJson = False,
) -> None:
    """Make the registry what the folder declares.

    It asks before it removes anything.
    """
    from millstream.project import Project

    def agreed(planned: Plan) -> bool:
        if yes:
            return True
        if as_json:
            return False
        print(planned.text())
        try:
            return typer.confirm("Remove what is no longer declared?", err=True)
        except typer.Abort:  # nobody is there to answer
            return False

    changes = Project(folder).apply(allow_breaking=allow_breaking, agreed=agreed)
    done = [f"{change.kind:<8} {change.thing} {change.name}" for change in changes]
    show(_changes(changes), as_json, "\n".join(done) or "Nothing to change.")


def status(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Show the layers, the groups and the models."""
    from millstream.project import Project

    facts = Project(folder).status()

    def tables() -> None:
        print(f"{facts['project']} at {facts['at']}")
        for thing, names in _SHOWN.items():
            rows = [[_shown(name, one.get(name)) for name in names] for one in facts[thing]]
            table([thing.removesuffix("s"), *(_TITLES.get(name, name) for name in names[1:])], rows)
            if thing == "layers" and (processes := _processes(facts["layers"])):
                table(["host", "process", "layer", "state", "records/s", "lag", "cpu", "said s ago"], processes)
        for one in facts["operations"]:
            print(f"not finished: {one}")

    show(facts, as_json, tables)


def doctor(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Check the machine and the project.

    Ends with 1 if something is wrong.
    """
    from millstream.cli.checks import checked

    found = checked(folder)
    show(
        [plain(one) for one in found],
        as_json,
        lambda: table(["check", "fine", "found"], [(one.name, one.fine, one.found) for one in found]),
    )
    if not all(one.fine for one in found):
        raise typer.Exit(1)


def _processes(layers: Iterable[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """The processes of all layers by host, where some layer has more than one."""
    found = [(layer["name"], one) for layer in layers for one in layer.get("processes", ())]
    if len({layer for layer, _ in found}) == len(found):
        return []
    rows = [
        (one["host"], one["pid"], layer, _how(one), one["rate"], one["lag"], one["cpu"], one["published_s"])
        for layer, one in found
    ]
    return sorted(rows, key=lambda row: (row[0], row[2], row[1]))


def _how(process: Mapping[str, Any]) -> str:
    if not process["alive"]:
        return "gone"
    if process["published_s"] > SILENT_AFTER:
        return "silent"
    return "stands by" if process["facts"].get("standing_by") else "up"


def _changes(changes: tuple[Change, ...] | list[Change]) -> list[object]:
    return [plain(change) for change in changes]


_SHOWN = {
    "layers": ("name", "state", "rate", "lag", "lag_s", "age", "cpu"),
    "groups": ("id", "state", "default", "lag", "age", "late", "beyond_bounds", "of_keys"),
    "models": ("name", "versions", "champion", "challenger", "state"),
    "streams": ("name", "partitions", "events", "dead"),
}
_TITLES = {
    "rate": "records/s",
    "age": "age s",
    "dead": "dead letters",
    "late": "rows too late",
    "beyond_bounds": "keys beyond bounds",
    "of_keys": "of keys",
}


def _shown(name: str, value: object) -> object:
    return value / 1e6 if name == "age" and isinstance(value, int | float) else value
