"""The docs are run: every Python block prints what stands below it, and every name and command in them exists.

A page's blocks run in order, in one namespace, in a folder of their own. A `text` block that follows a `python` block
is its output. A `console` block holds commands after `$ ` with their output; `...` there stands for anything. An `sh`
block is not run (it needs a service, or the repository), but the commands in it must exist.
"""

import contextlib
import doctest
import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from msgspec.structs import fields

import millstream
from millstream.cli.app import app
from millstream.cli.error_pages import kinds, pages
from millstream.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?<![\w./-])(?<!import )millstream ((?:[a-z][a-z-]*)(?: [^\n`|]*)?)")
SECONDS = 120
SOURCE = ROOT / "src"
#: Modules with an example in a docstring.
REFERENCE = [
    ".".join(module.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for module in sorted(SOURCE.rglob("*.py"))
    if re.search(r"^ +>>> ", module.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_every_error_has_a_code_of_its_own_and_a_page_made_from_its_class():
    made = pages()
    codes = [vars(kind).get("code") for kind in kinds()]
    assert None not in codes
    assert len(set(codes)) == len(codes)
    for kind in kinds():
        assert {"Why: ", "Mend: ", ">>> "} <= {
            begin for begin in ("Why: ", "Mend: ", ">>> ") if begin in kind.__doc__
        }, kind
    folder = ROOT / "docs" / "errors"
    remedy = "python -m millstream.cli.error_pages docs/errors"
    assert {page.name: page.read_text(encoding="utf-8") for page in folder.glob("*.md")} == made, remedy


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the output that is printed below it."""

    kind: str
    text: str
    line: int
    output: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    result = []
    for place, match in enumerate(found):
        after = found[place + 1] if place + 1 < len(found) else None
        shown = after is not None and after[1] == "text" and not text[match.end() : after.start()].strip()
        line = text.count("\n", 0, match.start()) + 2
        result.append(Block(match[1], match[2], line, after[2] if after and shown else None))
    return result


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_snippet_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "docs"}
    for block in blocks(page):
        if block.kind == "python":
            run_python(page, block, tmp_path, namespace)
        elif block.kind == "console":
            run_console(page, block, tmp_path)


def run_python(page: Path, block: Block, folder: Path, namespace: dict) -> None:
    """Run a block from a file of its own, so that an on-demand feature finds its source text there."""
    file = folder / f"{page.stem}_{block.line}.py"
    file.write_text(block.text, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, str(file), "exec"), namespace)
    assert stripped(printed.getvalue()) == stripped(block.output or ""), f"{name_of(page)}, line {block.line}"


def run_console(page: Path, block: Block, folder: Path) -> None:
    """Run the commands of a block in a shell and compare all that they print."""
    commands = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    wanted = "\n".join(line for line in block.text.splitlines() if not line.startswith("$ "))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", "\n".join(commands)],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    pattern = ".*".join(re.escape(part) for part in stripped(wanted).split("..."))
    place = f"{name_of(page)}, line {block.line}"
    assert re.fullmatch(pattern, stripped(done.stdout), re.DOTALL), f"{place}:\n{done.stdout}"


def stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_every_page_ends_in_something_observed():
    pages = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]
    assert len(pages) >= 8
    for page in pages:
        assert any(block.output is not None for block in blocks(page)), f"{name_of(page)} prints nothing"


@pytest.mark.parametrize("module", REFERENCE)
def test_docstrings_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("name", millstream.__all__)
def test_every_public_name_is_in_the_docs(name):
    used = re.compile(rf"(?:ms\.|`|import ){name}\b")
    assert any(used.search(prose(page)) for page in PAGES), f"no page names {name}"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line with its words, `demo flights` included."""
    for name, command in typer.main.get_command(app).commands.items():
        below = getattr(command, "commands", {})
        yield from ((f"{name} {word}", one) for word, one in below.items())
        if not below:
            yield name, command


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_is_in_the_readme_and_the_docs(name):
    readme, *docs = PAGES
    assert f"millstream {name}" in prose(readme)
    assert any(f"millstream {name}" in prose(page) for page in docs)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_exists(page):
    known = dict(commands())
    for line in COMMAND.findall(prose(page)):
        words = line.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in {*known, "demo"}, f"{name_of(page)}: millstream {line}"
        if name in known:
            options = {option for one in known[name].params for option in [*one.opts, *one.secondary_opts]}
            wrong = [word for word in words if word.startswith("--") and word.split("=")[0] not in {*options, "--help"}]
            assert wrong == [], f"{name_of(page)}: millstream {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_on_a_page_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", prose(page), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_is_reached_from_the_index():
    index = ROOT / "docs" / "index.md"
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in (index, index.parent / "errors" / "index.md")
        for target in LINK.findall(prose(page))
    }
    assert {page for page in PAGES[1:] if page != index} <= linked


def test_every_setting_and_path_is_documented():
    operations, http = (ROOT / "docs" / name for name in ("operations.md", "http.md"))
    named = set(re.findall(r"`\[?(\w+)(?:\.NAME)?\]?`", prose(operations)))
    assert {field.name for field in fields(Settings)} - {"folder"} <= named
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/status"):
        assert f"`GET {path}`" in prose(http)
