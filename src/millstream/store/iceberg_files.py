"""The files of a local Iceberg table: which of them anything names, and how those that nothing names go."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

_DROPPED = ".dropped-"


def clear_out(folder: Path, dropped: Callable[[], object]) -> None:
    """Remove a table's folder, taking it away before its entry in the catalog is dropped and deleting it after.

    Whoever dies in between leaves a table that cannot be read and can be dropped again, never rows without an entry.
    """
    if folder.exists():
        folder.rename(folder.with_name(f"{_DROPPED}{uuid.uuid4().hex}"))
    try:
        dropped()
    finally:
        for one in folder.parent.glob(f"{_DROPPED}*"):
            shutil.rmtree(one, ignore_errors=True)
