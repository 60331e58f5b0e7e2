"""How commands answer: in words and tables for a person, as one JSON object a line for a program."""

from __future__ import annotations

import dataclasses
import json
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from millstream.errors import MillstreamError

AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]
Folder = Annotated[Path, typer.Option("--project", "-C", metavar="FOLDER", help="The project's folder.")]
HERE = Path(".")
WIDE = 160
"""Columns of a table that goes to a file or another program."""


def show(result: object, as_json: bool, text: str | Callable[[], None]) -> None:
    """Answer a command: with `result` as JSON, or with a text, or by calling what prints it."""
    if as_json:
        print(json.dumps(plain(result)), flush=True)
    elif isinstance(text, str):
        print(text, flush=True)
    else:
        text()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print rows as a table; numbers stand right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rows = list(rows)
    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="ellipsis", no_wrap=True)
    for row in rows:
        drawn.add_row(*(_cell(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(drawn, highlight=False, markup=False)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def plain(value: object) -> Any:
    """The value in what JSON can hold: data classes as objects, instants as ISO-8601, what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key): plain(one) for key, one in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    item = getattr(value, "item", None)
    return plain(item()) if callable(item) else str(value)


def _key(key: object) -> str:
    """The key of a JSON object, which is text, as the service writes it."""
    known = plain(key)
    return known if isinstance(known, str) else json.dumps(known)


def fail(error: MillstreamError, as_json: bool, code: int = 1) -> NoReturn:
    """Say on standard error what went wrong, with its hint, and end with an exit code that is not zero."""
    if as_json:
        said: dict[str, object] = {
            "code": error.code,
            "type": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
        }
        print(json.dumps({"error": said}), file=sys.stderr)
    else:
        hint = f"\n\nHint: {error.hint}" if error.hint else ""
        print(f"Error: {error.message} [{error.code}]{hint}", file=sys.stderr)
    raise SystemExit(code)
