"""A copy of a share of a project, in a folder of this machine: to try things on, with nothing of it in common but its past.

The project itself is only read. What is made lies in a folder aside until it is whole, and takes its name then.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from millstream.buffer.agreement import mendable
from millstream.buffer.topics import batch_table, event_table, staging_topic
from millstream.clock import FileClock
from millstream.definitions.feature_group import BatchFeatureGroup, StreamFeatureGroup
from millstream.errors import ProjectError
from millstream.history.events import POSITIONS, held
from millstream.migrating.shares import chosen, columns_of, whole
from millstream.migrating.stores import move_artefacts
from millstream.migrating.watching import Watch, unwatched
from millstream.project.parts import Parts
from millstream.registry.moving import begin_anew, copy_rows
from millstream.settings import FILE, Settings
from millstream.store.offline import batches_of

if TYPE_CHECKING:
    from millstream.definitions.group_version import BatchGroupVersion

_ROWS = 200_000
_SMALL = 10_000
"""Rows of a query's table up to which all of them are copied: what is looked up by other keys is found then."""
_LEFT = {"site-packages", "node_modules", "__pycache__"}


@dataclass(frozen=True)
class Sampled:
    """What a copy came to.

    Args:
        folder: where it is.
        project: the project's name, which is the copy's too.
        share: the share of the keys.
        events: by stream, how many events of the share there are.
        by: by stream, the column whose values are keys; None where all events are there.
        rows: by group version of a query, how many rows were copied.
        computed: the group versions whose states were computed from that history.
        partial: those that read a stream by another key than the one it was shared by: their values are of some events only.
        models: how many model versions there are.
        seconds: how long it took.
    """

    folder: str
    project: str
    share: float
    events: dict[str, int] = field(default_factory=dict)
    by: dict[str, str | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    models: int = 0
    seconds: float = 0.0


def sample(folder: str | Path, into: str | Path, share: float, *, watch: Watch = unwatched) -> Sampled:
    """Copy a share of a project's keys, with all their history, into a folder of its own.

    The copy has the project's definitions, group versions and model versions under their numbers, and keeps all of it in
    its folder. Its states are computed from that history. A key is in it or not by a hash of its value, so it is in every
    stream and table or in none. Foreign sources, captures and dead letters are not copied.

    Args:
        folder: the project's folder; the project may run.
        into: the folder to make.
        share: the share of the keys, more than 0 and at most 1.
        watch: shows how far it is.

    Returns:
        What was copied.

    Raises:
        ProjectError: when the folder is there, or the share is none.
        MillstreamError: when a part of the project cannot be read.
    """
    began, place = time.monotonic(), Path(into).resolve()
    if not 0 < share <= 1:
        raise ProjectError(
            f"migrate: the share was given {share:g}; expected more than 0 and at most 1.",
            "`--sample 0.01` is a hundredth.",
        )
    if place.exists():
        raise ProjectError(f"'{place}' is there already.", "give the copy a folder that it makes itself.")
    settings = replace(Settings.load(folder), streams={})
    aside = place.with_name(f"{place.name}.unfinished")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with Parts(settings) as source:
            _write_folder(source, aside, share)
            done = _made(source, Settings.load(aside), share, watch)
        aside.rename(place)
    except OSError as error:
        raise ProjectError(f"'{place}' cannot be written: {error.strerror}.", "choose another folder.") from error
    return dataclasses.replace(done, folder=str(place), seconds=round(time.monotonic() - began, 3))


def _write_folder(source: Parts, aside: Path, share: float) -> None:
    """Write the settings of the copy, and the Python files that define it."""
    settings = source.settings
    lines = [
        f"# A copy of {share:.6g} of the keys of project {settings.name!r} in {str(settings.folder)!r}, made by",
        "# `millstream migrate --sample`. It has nothing in common with that project but its past.",
        f"name = {json.dumps(settings.name)}",
        f"definitions = {json.dumps(settings.definitions)}",
        f"partitions = {settings.partitions}",
        f"shards = {settings.shards}",
    ]
    for table in source.registry.tables():
        path = settings.table_paths.get(table.name, table.path)
        if path is not None:  # tables stay where they are
            found = path if "://" in path else str(settings.folder / path)
            lines += ["", f"[tables.{json.dumps(table.name)}]", f"path = {json.dumps(found)}"]
    (aside / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for file in _sources(settings):
        copied = aside / file.relative_to(settings.folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def _sources(settings: Settings) -> Iterator[Path]:
    """The Python files of a project."""
    for file in settings.folder.rglob("*.py"):
        inside = file.relative_to(settings.folder).parts
        hidden = any(part.startswith(".") or part in _LEFT for part in inside)
        if not hidden and not file.is_relative_to(settings.data):
            yield file


def _made(source: Parts, settings: Settings, share: float, watch: Watch) -> Sampled:
    """Copy the registry, history, rows and artefacts, and compute the states."""
    copy_rows(source.settings.registry_url, settings.registry_url)
    begin_anew(settings.registry_url)
    if isinstance(source.clock, FileClock):
        FileClock(settings.data / "clock.json").set(source.clock.now(), rate=0.0)
    versions = source.registry.groups()
    by = columns_of(source.registry.streams(), versions)
    with Parts(settings) as copy:
        events = {name: _events(source, copy, name, column, share, watch) for name, column in by.items()}
        rows = {one.id: _rows(source, copy, one, share) for one in versions if isinstance(one.group, BatchFeatureGroup)}
        streamed = [one for one in versions if isinstance(one.group, StreamFeatureGroup)]
        computed = _computed(copy, [one.id for one in streamed], watch)
        models = move_artefacts(source, copy)
    partial = [one.id for one in streamed if not whole(one, by)]
    name = source.settings.name
    return Sampled("", name, share, events, by, rows, computed, partial, models)


def _computed(copy: Parts, versions: list[str], watch: Watch) -> list[str]:
    from millstream.project import apply
    from millstream.project.drain import Drainer

    for version in versions:
        copy.registry.set_state(version, "new")
    apply.start(copy)
    with watch("computing the states") as advance, closing(Drainer(copy)) as drainer:
        return drainer.backfill(None, advance)


def _events(source: Parts, copy: Parts, stream: str, column: str | None, share: float, watch: Watch) -> int:
    """Copy the events of a share of the keys of a stream as an archive; its log goes on from where that ends."""
    if stream not in source.log.topics():
        return 0
    history, kept, read = source.histories.events(), 0, 0
    upto = history.ends(stream)
    copy.log.create(stream, len(upto))
    for partition, position in upto.items():
        mendable(copy.log).rebase(stream, partition, position, [])
    positions = {POSITIONS: json.dumps({str(partition): position for partition, position in upto.items()})}
    with watch(f"copying '{stream}'") as advance:
        for number, chunk in enumerate(history.chunks(stream, upto, _ROWS)):
            some = chunk if column is None else chunk.filter(chosen(chunk[column], share))
            if some.num_rows or not number:  # the first has none, and makes the table
                copy.offline.append(event_table(stream), some, positions)
            kept, read = kept + some.num_rows, read + chunk.num_rows
            advance(read, None)
    return kept


def _rows(source: Parts, copy: Parts, version: BatchGroupVersion, share: float) -> int:
    """Copy what the runs of a query stated of a share of the keys, or of all where there are few, and build its states."""
    from millstream.ingest.rebuilt import rebuild_states

    table, topic = batch_table(version.id), staging_topic(version.id)
    snapshot = source.offline.snapshot(table)
    if version.group.query is None or snapshot is None:
        return 0
    position = held(table, snapshot).get(0, 0)
    copy.log.create(topic, 1)
    mendable(copy.log).rebase(topic, 0, position, [])
    key = next(iter(version.group.entity.keys))
    few = source.offline.scan(table, columns=[key], snapshot=snapshot.id).num_rows <= _SMALL
    kept = 0
    for batch in batches_of(source.offline, table, None, (), snapshot.id):
        some = pa.Table.from_batches([batch])
        if not few:  # a row without a key marks a run, and is kept
            some = some.filter(pc.or_(pc.is_null(some[key]), chosen(some[key], share)))
        copy.offline.append(table, some, {POSITIONS: json.dumps({"0": position})})
        kept += some.num_rows
    rebuild_states(version, copy.online, copy.offline, copy.log, copy.clock)
    return kept
