"""The project that `millstream init` writes."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from millstream.clock import to_micros
from millstream.errors import ProjectError
from millstream.settings import FILE

TEXTS = (FILE, "features.py")
START = "2026-03-02T08:00:00Z"
"""The instant at which the example's clock starts; its history is the 50 days before."""


def write_project(folder: Path) -> list[Path]:
    """Write the fraud project into a folder: settings, definitions and the table of accounts that they read.

    Args:
        folder: the folder; made if it is not there. Its name becomes the project's.

    Returns:
        The files written.

    Raises:
        ProjectError: when one of the files is already there; nothing is written then.

    Example:
        >>> import tempfile
        >>> [path.name for path in write_project(Path(tempfile.mkdtemp()) / "payments")]
        ['millstream.toml', 'features.py', 'accounts.parquet', '.gitignore']
    """
    folder = Path(folder)
    import pyarrow.parquet as pq

    from millstream.testing.generators import FraudSimulator

    try:
        _refuse_to_overwrite(folder)
        folder.mkdir(parents=True, exist_ok=True)
        template = resources.files(__name__) / "fraud"
        name = json.dumps(folder.resolve().name)[1:-1]  # what JSON escapes, TOML does
        for text in TEXTS:
            said = (template / text).read_text(encoding="utf-8").replace("@NAME@", name)
            (folder / text).write_text(said, encoding="utf-8")
        pq.write_table(FraudSimulator(seed=1).accounts(to_micros(START)), folder / "accounts.parquet")
        (folder / ".gitignore").write_text(".millstream/\n", encoding="utf-8")
    except OSError as error:
        raise ProjectError(
            f"'{folder}' cannot be written: {error.strerror}.", "choose a folder of your own."
        ) from error
    return [folder / file for file in (*TEXTS, "accounts.parquet", ".gitignore")]


def _refuse_to_overwrite(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ProjectError(f"'{folder}' is a file, not a folder.", "choose another name.")
    there = [text for text in TEXTS if (folder / text).exists()]
    if there:
        raise ProjectError(
            f"'{folder}' already holds {' and '.join(there)}; init writes into a folder without a project.",
            f"`cd {folder}` and `millstream up`, or choose another name.",
        )
