"""The pages of errors in docs/errors, made from the classes: `python -m millstream.cli.error_pages docs/errors`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from millstream import errors
from millstream.errors import MillstreamError

_INDEX = """# Errors

Every error has a code that stays. The command line prints it, `--json` and HTTP answers carry it as `code`, and an
exception has it as `error.code`. `except ms.MillstreamError` catches them all.

| code | error | what it says |
|---|---|---|
"""


def pages() -> dict[str, str]:
    """Return the pages by their file names: one per error, and an index.

    >>> sorted(pages())[0], pages()["MS101.md"].splitlines()[0]
    ('MS100.md', '# MS101: DefinitionError')
    """
    found = {f"{kind.code}.md": _page(kind) for kind in kinds()}
    rows = [f"| [{kind.code}]({kind.code}.md) | `{kind.__name__}` | {_parts(kind)[0]} |" for kind in kinds()]
    return {**found, "index.md": _INDEX + "\n".join(rows) + "\n"}


def kinds() -> list[type[MillstreamError]]:
    """Return every kind of error, by its code."""
    return sorted(_tree(MillstreamError), key=lambda kind: kind.code)


def _tree(kind: type[MillstreamError]) -> Iterator[type[MillstreamError]]:
    if kind.__module__ == errors.__name__:
        yield kind
        for below in kind.__subclasses__():
            yield from _tree(below)


def _parts(kind: type[MillstreamError]) -> list[str]:
    """The paragraphs of a class's docstring: what, then details, then why and mend, then the example."""
    return re.split(r"\n\n|\n(?=Mend: )", inspect.getdoc(kind) or "")


def _page(kind: type[MillstreamError]) -> str:
    what, *others = _parts(kind)
    titles = {"Why: ": "## Why", "Mend: ": "## How to mend it", ">>> ": "## Example"}
    lines = [f"# {kind.code}: {kind.__name__}", what]
    if kind is not MillstreamError:
        above = kind.__mro__[1]
        lines.append(f"It is a kind of [{above.__name__}]({above.code}.md).")  # type: ignore[attr-defined]
    for part in sorted(others, key=lambda part: part.startswith(">>> ")):
        begin = next((begin for begin in titles if part.startswith(begin)), "")
        said = part.removeprefix(begin)
        text = f"```pycon\n{part}\n```" if begin == ">>> " else said[:1].upper() + said[1:]
        lines += [titles[begin], text] if begin else [text]
    return "\n\n".join(lines).replace("<BLANKLINE>", "").replace("  # doctest: +ELLIPSIS", "") + "\n"


def main(folder: str) -> None:
    """Write the pages into a folder, in place of those that are there."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.md"):
        old.unlink()
    for name, text in pages().items():
        (place / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
