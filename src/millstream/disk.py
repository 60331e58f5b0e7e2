"""What is on the disk when a call returns: the names in a folder, beside what is in its files."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: str | Path) -> None:
    """Put the names of new files of a folder on the disk; without, what is in the files is lost with the power.

    Example:
        >>> import tempfile
        >>> sync_folder(tempfile.mkdtemp())
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
