"""Commands in processes of their own that die by SIGKILL at a given write, for the tests that look at what is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import millstream as ms
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.registry.database import Database
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.store.lmdb.store import LmdbOnlineStore

WRITES = (
    (Database, ("writing",)),
    (EmbeddedLog, ("create", "transaction", "drop", "append")),
    (LmdbOnlineStore, ("write", "drop")),
    (IcebergOfflineStore, ("append", "drop")),
)


def command(folder: str, name: str, arguments: tuple[Any, ...], options: dict[str, Any], dies_before: int) -> None:
    """Call a method of a project, and die just before one of its writes."""
    project = ms.Project(folder)
    left = [dies_before]
    for thing, methods in WRITES:
        for method in methods:
            setattr(thing, method, _counted(getattr(thing, method), left))
    getattr(project, name)(*arguments, **options)


def _counted(method: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return method(*arguments, **options)

    return counted


_SERVER = multiprocessing.get_context("forkserver")


def dies(folder: Path, name: str, *arguments: Any, before: int, **options: Any) -> bool:
    """Run a command that dies before one of its writes; returns whether it did, rather than came to its end."""
    process = _SERVER.Process(target=command, args=(str(folder), name, arguments, options, before))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0
