"""What `millstream doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from millstream.errors import MillstreamError
from millstream.settings import Settings

NEEDED = ("numpy", "numba", "lmdb", "pyarrow", "duckdb", "sqlglot", "SQLAlchemy", "pyiceberg", "lightgbm", "uvicorn")
FREE = 1 << 30
"""Bytes that should be free on the disk."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    fine: bool
    found: str


def checked(folder: Path) -> list[Check]:
    """Look at the machine and, where the folder is a project, at the project.

    Args:
        folder: the folder to look at.

    Returns:
        What was found, in the order in which it was looked at.

    Example:
        >>> from pathlib import Path
        >>> checked(Path("/"))[0].fine
        True
    """
    found = [_check("python", _python), *(_check(name, partial(_library, name)) for name in NEEDED)]
    found.append(_check("disk", lambda: _disk(folder)))
    if (folder / "millstream.toml").exists():
        found += _project(folder)
    return found


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (MillstreamError, OSError, ImportError) as error:
        return Check(name, False, " ".join(str(error).split()))


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _library(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise MillstreamError(f"{name} is not installed.", f"pip install {name}") from error


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < FREE:
        raise MillstreamError(f"only {free >> 20} MiB are free.", "make room before the log and the stores need it.")
    return f"{free >> 30} GiB free"


def _project(folder: Path) -> Iterator[Check]:
    settings = _check("settings", lambda: Settings.load(folder).name)
    yield settings
    if not settings.fine:
        return
    yield _check("definitions", lambda: _definitions(folder))
    yield _check("port", lambda: _port(Settings.load(folder)))
    yield _check("log", lambda: _log(Settings.load(folder)))
    yield _check("identity", lambda: _identity(folder))
    yield _check("stores", lambda: _stores(folder))
    yield _check("online store", lambda: _online(folder))
    yield _check("open files", lambda: _open_files(folder))
    yield _check("offline store", lambda: _offline(folder))
    yield _check("captures", lambda: _captures(folder))
    yield _check("clock", lambda: _clock(folder))
    yield _check("operations", lambda: _operations(folder))
    yield _check("sources", lambda: _sources(folder))


def _sources(folder: Path) -> str:
    from millstream.project import Project

    with Project(folder) as project:
        bound, takings = project.settings.streams, project.parts.layers.takings()
        undeclared = sorted(bound.keys() - {one.stream.name for one in takings})
        if undeclared:
            names = ", ".join(f"[streams.{name}]" for name in undeclared)
            raise MillstreamError(f"no stream is declared for {names}.", "apply its definition, or mend the name.")
        behind = 0
        for one in takings:
            with closing(one):
                lost, newest = one.losses
                if lost:
                    raise MillstreamError(
                        f"stream '{one.stream.name}': {lost} times its source did not keep what was unread. {newest[-1].what}",
                        "let the source keep events for longer; what can be had elsewhere can be loaded as history.",
                    )
                behind += one.lag()[0]
                if threat := one.threat():
                    raise MillstreamError(
                        threat, "let the source keep events for longer, or find out why intake is behind."
                    )
    return f"{len(bound)} bound, {behind:,} events behind" if bound else "no stream is bound to one"


def _definitions(folder: Path) -> str:
    from millstream.project.declared import declared

    return f"{len(declared(Settings.load(folder)))} definitions"


def _port(settings: Settings) -> str:
    from millstream.running.up import holder

    pid = holder(settings)
    if pid is not None:
        return f"`millstream up` runs (process {pid})"
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((settings.host, settings.port))
    return f"{settings.host}:{settings.port} is free"


def _log(settings: Settings) -> str:
    from millstream.buffer.embedded.inspection import inspect_log

    return inspect_log(settings.data / "log", settings.log_gib)


def _operations(folder: Path) -> str:
    from millstream.project import Project
    from millstream.project.alone import alone

    project = Project(folder)
    unfinished = project.parts.registry.operations.unfinished()
    left = []
    for one in unfinished:
        with alone(project.parts, f"{one.kind} {one.subject}", wait=False) as nobody:
            left += [str(one)] if nobody else []
    if left:
        raise MillstreamError(
            f"unfinished: {'; '.join(left)}.", "`millstream backfill` finishes it, and so does `millstream up`."
        )
    return f"{len(unfinished)} under way" if unfinished else "all are finished"


def _identity(folder: Path) -> str:
    from millstream.buffer.agreement import identity_of
    from millstream.errors import SteppedBack
    from millstream.project import Project

    with closing(Project(folder)) as project:
        found = project.parts.identity.stepped_back()
        if found:
            raise SteppedBack.found(f"{len(found)} parts of the project", " ".join(found).rstrip("."))
        identity = identity_of(project.parts.log)
        if not identity:
            return "the log keeps no identity of its own to compare with"
        return f"log {identity}, which the stores and the archive were filled from"


def _stores(folder: Path) -> str:
    from millstream.project import Project

    status = Project(folder).status()
    return f"{len(status['streams'])} streams, {len(status['groups'])} group versions"


def _captures(folder: Path) -> str:
    from millstream.serve.capture import damaged_captures

    journal = Settings.load(folder).data / "journal"
    damaged = damaged_captures(journal)
    if damaged:
        raise MillstreamError(
            f"'{journal / damaged[0]}' holds captures that are not as they were written"
            + (f", and so do {len(damaged) - 1} more files." if len(damaged) > 1 else "."),
            "look at what is left of them, then remove the file; no other capture waits for it.",
        )
    return "none is damaged"


def _online(folder: Path) -> str:
    """Every page and record of the online store, against their checksums."""
    from millstream.project import Project
    from millstream.store.online import Examined, InMemory

    parts = Project(folder).parts
    store = parts.online
    if not isinstance(store, Examined):
        return "the store keeps no sums of its own to compare with"
    states, memory, failed = 0, 0, list[str]()
    for version in parts.registry.groups():
        for shard in range(version.shards):
            try:
                states += store.examine(version.states, shard)
                memory += store.memory(version.states, shard).size if isinstance(store, InMemory) else 0
            except MillstreamError as error:
                failed.append(str(error))
    if failed:
        raise MillstreamError(failed[0] + (f" And {len(failed) - 1} more shards." if len(failed) > 1 else ""))
    size = f"; about {memory / states:,.0f} bytes of memory a key" if memory and states else ""
    return f"{states:,} states, each as it was written{size}"


def _clock(folder: Path) -> str:
    """Whether the clock has reached the newest arrival that any state holds."""
    from millstream.clock import to_datetime
    from millstream.fold.layout import AHEAD
    from millstream.project import Project
    from millstream.project.clocks import refuse_skew
    from millstream.store.online import metas_of

    parts = Project(folder).parts
    refuse_skew(parts)
    now, newest = parts.clock.now(), 0
    for metas in metas_of(parts.served.store, parts.registry.groups()):
        newest = max([newest, *(meta.newest_arrival for meta in metas if meta is not None)])
    if newest > now + AHEAD:
        raise MillstreamError(
            f"events were taken at {to_datetime(newest):%Y-%m-%d %H:%M:%S}, which the clock, at "
            f"{to_datetime(now):%Y-%m-%d %H:%M:%S}, has not reached: it was ahead then, or it is behind now.",
            "set the clock right; `millstream backfill GROUP` computes anew what keys of those events had before.",
        )
    return f"{to_datetime(now):%Y-%m-%d %H:%M:%S} UTC"


def _open_files(folder: Path) -> str:
    """Whether a process that reads every shard can keep them all open."""
    from millstream.project import Project
    from millstream.store.lmdb.shards import DESCRIPTORS, most_open
    from millstream.store.online import reads_locally

    parts = Project(folder).parts
    if not reads_locally(parts.online):
        return "the online store opens none"
    shards = sum(version.shards for version in parts.registry.groups())
    if shards > most_open():
        raise MillstreamError(
            f"{shards:,} shards of the online store take {DESCRIPTORS * shards:,} file descriptors, and a process keeps "
            f"{most_open():,} shards open: those that are idle are closed, and opened again when they are read.",
            f"allow each process {2 * DESCRIPTORS * shards + 256:,} open files: `ulimit -n`, LimitNOFILE of systemd.",
        )
    return f"{shards:,} shards, of which {most_open():,} can be open at once"


def _offline(folder: Path) -> str:
    """Every file of the offline store against its sum, and how many there are."""
    from millstream.clock import to_datetime
    from millstream.project import Project
    from millstream.store.offline import Examined, Upkeep

    store = Project(folder).parts.offline
    if not isinstance(store, Examined) or not isinstance(store, Upkeep):
        return f"{len(store.tables())} tables; the store keeps no sums of its own to compare with"
    failed, every = list[str](), []
    for table in store.tables():
        try:
            store.examine(table)
            every.append(store.facts(table))
        except MillstreamError as error:
            failed.append(str(error))
    if failed:
        raise MillstreamError(failed[0] + (f" And {len(failed) - 1} more tables." if len(failed) > 1 else ""))
    compacted = max((one.compacted_at for one in every if one.compacted_at is not None), default=None)
    said = (
        "none was compacted yet"
        if compacted is None
        else f"last compacted {to_datetime(compacted):%Y-%m-%d %H:%M:%S} UTC"
    )
    return f"{len(every)} tables, {sum(one.files for one in every):,} files, each as it was written; {said}"
