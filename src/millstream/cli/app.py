"""The command line as a whole: which commands there are, and how any error becomes one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from millstream.cli import demos, migrating, models, pipeline, project
from millstream.cli.output import fail
from millstream.errors import MillstreamError

app = typer.Typer(
    name="millstream",
    help="Real-time features, training and scoring: declared once, in Python.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
project.register(app)
pipeline.register(app)
models.register(app)
migrating.register(app)
app.add_typer(demos.app, name="demo")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the process ends with 0, 1 for an error, 2 for a wrong call, 130 when interrupted.

    With `MILLSTREAM_DEBUG=1` in the environment an error keeps its traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    as_json = "--json" in given
    try:
        code = app(args=given, standalone_mode=False)
    except MillstreamError as error:
        if _interrupted(error):
            raise SystemExit(130) from None
        if _debugging():
            raise
        fail(error, as_json)
    except typer.exceptions.TyperException as error:
        fail(MillstreamError(error.format_message(), _usage(given)), as_json, code=2)
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left, as `| head` does
        raise SystemExit(0) from None
    except Exception as error:
        if _interrupted(error):
            raise SystemExit(130) from None
        if _debugging():
            raise
        fail(_unexpected(error), as_json)
    raise SystemExit(code or 0)


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: DuckDB, asked at that moment, makes a `RuntimeError` of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or (
            isinstance(error, RuntimeError) and str(error) == "Query interrupted"
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _debugging() -> bool:
    return os.environ.get("MILLSTREAM_DEBUG", "") not in ("", "0")


def _usage(given: Sequence[str]) -> str:
    known = {command.callback.__name__.replace("_", "-") for command in app.registered_commands if command.callback}
    path = f"millstream {given[0]}" if given[0] in known or given[0] == "demo" else "millstream"
    return f"`{path} --help` shows how it is called."


def _unexpected(error: Exception) -> MillstreamError:
    said = " ".join(str(error).split()) or "no message"
    return MillstreamError(
        f"Something unexpected went wrong: {type(error).__name__}: {said}",
        "run it again with MILLSTREAM_DEBUG=1 in the environment to see where.",
    )
