"""A progress bar on standard error, and silence where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int | None], None]
"""Called with how much is done and how much there is, where that is known."""


@contextmanager
def progress(what: str, as_json: bool) -> Iterator[Advance]:
    """Show how far long work is; nothing is drawn with --json or where standard error is not a terminal.

    Example:
        >>> with progress("loading", as_json=True) as advance:
        ...     advance(10, 100)
    """
    if as_json or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
