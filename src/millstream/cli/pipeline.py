"""Commands that move data: up, run, send, dead-letters, backfill."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from millstream.cli.output import HERE, AsJson, Folder, show, table
from millstream.cli.progress import progress
from millstream.errors import RequestError

BATCH = 10_000
REASON, PAYLOAD = 66, 48  # characters shown


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (up, run, send, dead_letters, backfill, repair):
        app.command()(command)


def up(
    folder: Folder = HERE,
    host: Annotated[str | None, typer.Option(help="Where to serve; millstream.toml says it otherwise.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Where to serve; millstream.toml says it otherwise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline, with a status page.

    Each layer is a process of its own, restarted when it dies.
    """
    from millstream.running.up import supervise

    raise typer.Exit(supervise(folder, host=host, port=port, as_json=as_json))


def run(
    layer: Annotated[str, typer.Argument(help="intake, compute, ingest, batch, sync, serve, monitor or generator.")],
    folder: Folder = HERE,
    host: Annotated[str | None, typer.Option(help="serve: where; millstream.toml says it otherwise.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="serve: where; millstream.toml says it otherwise.")
    ] = None,
    probes: Annotated[
        str | None, typer.Option(help="HOST:PORT at which a supervisor asks /livez, /readyz and /metrics.")
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
    as_json: AsJson = False,
) -> None:
    """Run one layer, as production does, until SIGTERM."""
    from millstream.running.layers import refuse_unknown, run_layer, stop_asked
    from millstream.running.up import serving_at
    from millstream.settings import Settings

    settings = serving_at(Settings.load(folder), host, port)
    refuse_unknown(layer)
    show({"layer": layer, "state": "started"}, as_json, f"{layer}: started")
    run_layer(settings, layer, stop_asked(standard_input_closes=supervised), probes)
    show({"layer": layer, "state": "stopped"}, as_json, f"{layer}: stopped")


def send(
    stream: Annotated[str, typer.Argument(help="The stream's name.")],
    source: Annotated[str, typer.Argument(help="A .jsonl or .parquet file, or - for JSON lines.")] = "-",
    history: Annotated[bool, typer.Option("--history", help="Load as history: with the arrival it declares.")] = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Append events to a stream.

    They are durable when the command returns.
    """
    from millstream.project import Project

    project = Project(folder)
    sent = dead = 0
    with progress("sending", as_json) as advance:
        for rows in _batches(source):
            appended = project.load(stream, rows) if history else project.send(stream, rows)
            sent, dead = sent + appended, dead + getattr(appended, "dead", 0)
            advance(sent, None)
    project.parts.registry.stream(stream)  # an unknown one is refused even if there was nothing to send
    told = f"; {dead:,} of them are dead letters" if dead else ""
    facts = {"stream": stream, "events": sent} | ({"dead": dead} if history else {})
    show(facts, as_json, f"Sent {sent:,} events to '{stream}'{told}.")


def dead_letters(
    stream: Annotated[str, typer.Argument(help="The stream's name.")],
    newest: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 20,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Show events that could not be taken, and why.

    The newest last; with --json whole, else with the start of each.
    """
    from millstream.project import Project

    found = Project(folder).dead_letters(stream, newest=newest).to_pylist()

    def told() -> None:
        places = [f"{one['partition']}/{one['position']}" for one in found]
        texts = [(_start(one["reason"], REASON), _start(one["payload"], PAYLOAD)) for one in found]
        rows = [(one["arrived"], place, *text) for one, place, text in zip(found, places, texts, strict=True)]
        table(["arrived", "position", "reason", "payload"], rows)

    show(found, as_json, told if found else f"No dead letters in '{stream}'.")


def backfill(
    group: Annotated[str | None, typer.Argument(help="A feature group; all that need it otherwise.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Compute new group versions from history."""
    from millstream.project import Project

    with progress("backfilling", as_json) as advance:
        filled = Project(folder).backfill(group, progress=advance)
    names = ", ".join(filled)
    show({"versions": filled}, as_json, f"Backfilled {names}." if names else "Nothing to backfill.")


def repair(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Mend a project whose log or registry is older than its stores, or another one: a new epoch, states built anew."""
    from contextlib import closing

    from millstream.project import Project
    from millstream.project.repair import repair
    from millstream.running.up import lock
    from millstream.settings import Settings

    with lock(Settings.load(folder)), closing(Project(folder)) as project:
        found = project.parts.identity.stepped_back()
        if not found:
            show(
                {"found": []},
                as_json,
                "The registry, the log, the stores and the archive agree; there is nothing to mend.",
            )
            return
        if not yes:
            typer.echo("\n".join(found), err=True)
            typer.confirm("Go on with what there is, and build the states anew from history?", abort=True, err=True)
        done = repair(project)
    kept = ", ".join(f"{count:,} of '{topic}'" for topic, count in done.kept.items()) or "none"
    told = f"Log {done.identity}: kept {kept} that the archive did not hold; built {', '.join(done.rebuilt) or 'nothing'} anew."
    if done.dropped:
        told += f" The registry does not know {', '.join(done.dropped)}: what the stores held of it is dropped."
    facts = {"found": done.found, "identity": done.identity, "kept": done.kept}
    show({**facts, "rebuilt": done.rebuilt, "dropped": done.dropped}, as_json, told)


def _start(text: str, width: int) -> str:
    """The start of what somebody sent, on one line, with nothing in it that a terminal obeys."""
    cut = text if len(text) <= width else f"{text[: width - 1]}…"
    return "".join(one if one.isprintable() else " " for one in cut)


def _batches(source: str) -> Iterator[Any]:
    """The rows of a file, a batch at a time; a line that is not a JSON object is refused with its number."""
    if source.endswith(".parquet"):
        yield from _parquet(source)
        return
    batch: list[dict[str, Any]] = []
    lines = sys.stdin.buffer if source == "-" else _opened(source, "rb")
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                batch.append(_object(line, number))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _parquet(source: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _opened(source, "rb") as file:
        try:
            parts = pq.ParquetFile(file).iter_batches(BATCH)
            while (part := next(parts, None)) is not None:
                yield pa.Table.from_batches([part])
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(source, str(error).splitlines()[0].rstrip(".")) from error


def _opened(source: str, mode: str) -> Any:
    try:
        return Path(source).open(mode)
    except OSError as error:
        raise _unreadable(source, str(error.strerror)) from error


def _unreadable(source: str, reason: str) -> RequestError:
    return RequestError(
        f"Events cannot be read from '{source}': {reason}.",
        field="source",
        given=source,
        expected="a readable .jsonl or .parquet file, or -",
        hint="`-` reads JSON lines from standard input.",
    )


def _object(line: bytes, number: int) -> dict[str, Any]:
    from msgspec import DecodeError, json

    try:
        row = json.decode(line)
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        row = error
    if not isinstance(row, dict):
        raise RequestError(
            f"Line {number} is not a JSON object; what stands before it may already have been sent.",
            field=f"line {number}",
            given=line[:80].decode(errors="replace").strip(),
            expected="one JSON object a line",
            hint="mend the line and send the rest; repeats are dropped where the stream says deduplicate=.",
        )
    return row
