"""What does not reach across a fork: handles on databases, their threads, and locks that other threads held.

A child process has the memory of its parent but none of its threads, and its copy of a handle on LMDB or DuckDB shares
what belongs to the parent alone. So a child leaves what it inherited as it is.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_forks = 0  # counted, because asking for the process id costs each read a system call


def _count() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count)


def forks() -> int:
    """Return how many forks lie between this process and the first that loaded this module.

    Example:
        >>> forks() == forks()
        True
    """
    return _forks


def leave_alone(handle: Any) -> None:
    """Let a handle that a parent process opened outlive this one, not even closed when it ends.

    Closing it here would take from the parent what both share: slots of readers, locks on files, temporary files.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
