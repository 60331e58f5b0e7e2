"""Where compiled on-demand functions are kept between processes: a folder of the user's own, which may be deleted."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_FORMAT = 1


def cached_source(key: str, text: str) -> str | None:
    """Return the path of a file that holds `text`, beside which Numba keeps what it compiled of it.

    Args:
        key: what identifies the text; a file of that name is never written anew, since Numba goes by its time.
        text: the module.

    Returns:
        The file's path, or None where the folder cannot be had or is another user's: then nothing is kept.
    """
    folder = _folder()
    path = folder / f"function_{key[:32]}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
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


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "millstream" / f"functions-{_FORMAT}-{platform.python_version()}"
