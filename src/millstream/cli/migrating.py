"""The command that moves a project to servers, or a share of it to this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millstream.cli.output import HERE, AsJson, Folder, show, table
from millstream.cli.progress import Advance, progress
from millstream.errors import ProjectError

if TYPE_CHECKING:
    from millstream.migrating import Migrated, Sampled
    from millstream.migrating.watching import Watch


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(migrate)


def migrate(
    to: Annotated[Path | None, typer.Argument(help="A file of settings, as millstream.toml shall be.")] = None,
    sample: Annotated[
        float | None, typer.Option(min=0, max=1, help="Copy this share of the keys, from 0 to 1, and move nothing.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="With --sample: the folder to make.")] = None,
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Move a project to servers, or copy a share of it to this machine.

    Stop what runs and what sends first. Interrupted, it is done again.
    """

    def watch(what: str) -> AbstractContextManager[Advance]:
        return progress(what, as_json)

    if sample is not None or into is not None:
        _copy_share(sample, into, to, folder, watch, as_json)
        return
    if to is None:
        raise ProjectError(
            "migrate was given no settings to move to; expected a file.",
            "`millstream migrate servers.toml`, where that is millstream.toml as it shall be.",
        )
    from millstream.migrating import migrate

    done = migrate(folder, to, watch=watch)
    show(done, as_json, lambda: _tell(done))


def _tell(done: Migrated) -> None:
    if done.parts:
        rows = [
            (one.part, one.to, ", ".join(f"{count:,} {name}" for name, count in one.counts.items()), one.seconds)
            for one in done.parts
        ]
        table(["part", "now in", "copied and compared", "seconds"], rows)
    if done.sent_meanwhile:
        print(f"{done.sent_meanwhile:,} events were sent to the old log at the last moment; they are in the new one.")
    print(
        f"Project '{done.project}' has moved; what was left behind is refused from now on, and may be deleted. "
        f"The settings of before are in {done.before}."
    )


def _copy_share(
    share: float | None, into: Path | None, to: Path | None, folder: Path, watch: Watch, as_json: bool
) -> None:
    if share is None or into is None or to is not None:
        raise ProjectError(
            "migrate makes a copy by --sample and --into together, and without a file of settings.",
            "`millstream migrate --sample 0.01 --into laptop --project FOLDER`.",
        )
    from millstream.migrating import sample

    done = sample(folder, into, share, watch=watch)
    show(done, as_json, lambda: _tell_of_copy(done))


def _tell_of_copy(done: Sampled) -> None:
    streams = [(name, count, done.by[name]) for name, count in done.events.items()]
    if streams:
        table(["stream", "events", "keys by"], streams)
    if done.rows:
        table(["query", "rows"], list(done.rows.items()))
    print(f"{done.folder} holds {done.share:.4g} of the keys of '{done.project}', after {done.seconds:g} s.")
    if done.partial:
        print(
            f"{', '.join(done.partial)} read by other keys than those: their values are of some of their events only."
        )
