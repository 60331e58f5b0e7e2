"""What is kept of on-demand functions between processes, in a folder of the user's own, which may be deleted.

It is what they were compiled to, and which of them computed, compiled, what their text does in Python.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

#: Another one when functions are compiled, or held to their text, in another way.
_FORMAT = 2


def cached_source(key: str, text: str) -> str | None:
    """Return the path of a file that holds `text`, beside which Numba keeps what it compiled of it.

    Args:
        key: what identifies the text; a file of that name is never written anew, since Numba goes by its time.
        text: the module.

    Returns:
        The file's path, or None where the folder cannot be had or is another user's: then nothing is kept.
    """
    path = _folder() / f"function_{key[:32]}.py"
    try:
        if not _made(path.parent):
            return None
        if not path.exists():
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
    except (OSError, UnicodeError):
        return None
    return str(path)


def forget(path: str | None) -> None:
    """Remove what was kept beside a file, so that it is compiled anew the next time."""
    if path is not None:
        for kept in (Path(path).parent / "__pycache__").glob(f"{Path(path).stem}.*"):
            kept.unlink(missing_ok=True)


def was_held(key: str) -> bool:
    """Whether a function computed, compiled by this compiler, what its text does in Python, when it was last asked."""
    note = _note(key)
    try:
        return note.exists() and _own(note.parent)
    except OSError:
        return False


def note_held(key: str) -> None:
    """Note that a function was held to its text; where the folder cannot be had it is the next time as well."""
    note = _note(key)
    try:
        if _made(note.parent):
            note.touch()
    except OSError:
        return


def _note(key: str) -> Path:
    return _folder() / f"held_{key[:32]}_{_compiler()}"


@cache
def _compiler() -> str:
    return "-".join([version("numba"), version("numpy"), platform.machine()])


def _made(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _own(folder)


def _own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "millstream" / f"functions-{_FORMAT}-{platform.python_version()}"
