"""Faults as programmers make them, each a small patch of the product that the simulation has to find."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc
import pytest

from millstream.buffer import repeats
from millstream.buffer.embedded import columns
from millstream.buffer.embedded import log as embedded
from millstream.buffer.embedded import rows as stored
from millstream.computing import positions
from millstream.computing import stream as computing
from millstream.engines.instants import FIRST
from millstream.errors import DiskFull
from millstream.history import captures
from millstream.history import events as history
from millstream.ingest import archive, backfill, ranges, stream, sync
from millstream.project import apply, drain, retire, serving
from millstream.registry import definitions as registry
from millstream.registry import tables
from millstream.serve import capture, catalogue, reader, receiver
from millstream.store.iceberg import file_ledger
from millstream.store.iceberg import store as iceberg
from millstream.store.lmdb import store as lmdb
from millstream.store.offline import ANY
from millstream.store.online import BEGUN, Answer, read_shard
from millstream.testing.shards import meta_of, pairs
from millstream.testing.simulation.simulate import Adversarial
from millstream.train import stored_history, training_set, versions

Patch = pytest.MonkeyPatch
FAULTS: dict[str, Callable[[Patch], None]] = {}
ELUSIVE: dict[str, Callable[[Patch], None]] = {}
WHERE: dict[str, Adversarial] = {}
"""On which log and store a fault shows, by name; without one on those that are embedded."""


def fault(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """A fault, by the name of the function that plants it."""
    FAULTS[plant.__name__] = plant
    return plant


def fault_on(adversarial: Adversarial) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """A fault that shows where a log or a store keeps the text of its protocol and nothing more."""

    def planted(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        WHERE[plant.__name__] = adversarial
        return fault(plant)

    return planted


def elusive(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """A fault that has not been shown to be found within the budget."""
    ELUSIVE[plant.__name__] = plant
    return plant


# The log, and computing.


@fault
def positions_are_committed_before_the_data(patch: Patch) -> None:
    _split_transactions(patch, first="commit")


@fault
def data_is_appended_before_the_positions_are_committed(patch: Patch) -> None:
    _split_transactions(patch, first="append")


def _split_transactions(patch: Patch, first: str) -> None:
    """What one transaction does, done in two: `first` is done at once, the other at the end."""
    real = embedded.EmbeddedLog.transaction

    class Split:
        def __init__(self, log: Any) -> None:
            self.log, self.later = log, list[tuple[str, tuple[Any, ...]]]()

        def append(self, *given: Any) -> None:
            self._do("append", given)

        def commit(self, *given: Any) -> None:
            self._do("commit", given)

        def _do(self, name: str, given: tuple[Any, ...]) -> None:
            if name != first:
                self.later.append((name, given))
                return
            with real(self.log) as work:
                getattr(work, name)(*given)

    @contextmanager
    def transaction(self: Any) -> Any:
        split = Split(self)
        yield split
        with real(self) as work:
            for name, given in split.later:
                getattr(work, name)(*given)

    patch.setattr(embedded.EmbeddedLog, "transaction", transaction)


@fault
def a_full_disk_is_acknowledged(patch: Patch) -> None:
    real = drain.append

    def append(parts: Any, stream: str, rows: Any, *, history: bool) -> int:
        try:
            return real(parts, stream, rows, history=history)
        except DiskFull:
            return len(rows)

    patch.setattr(drain, "append", append)


@fault
def an_append_of_two_partitions_is_two_appends(patch: Patch) -> None:
    real = drain.append

    def append(parts: Any, stream: str, rows: Any, *, history: bool) -> int:
        return sum(real(parts, stream, [row], history=history) for row in rows)

    patch.setattr(drain, "append", append)


@fault
def the_index_of_repeats_forgets_when_it_is_lost(patch: Patch) -> None:
    def catch_up(self: Any, stream: Any, partition: int, prefix: bytes, upto: int, oldest: int) -> None:
        with self._env.begin(write=True) as rows:
            reached, since = repeats._covered(rows, prefix) or (0, oldest)
            rows.put(b"c" + prefix, repeats._COVERED.pack(max(upto, reached), min(since, oldest)))

    patch.setattr(repeats.RepeatIndex, "_catch_up", catch_up)


@fault
def repeats_are_told_by_event_time(patch: Patch) -> None:
    real = computing.mark

    def mark(table: Any, stream: Any, *given: Any) -> Any:
        place = table.schema.get_field_index("_appended")
        times = table[stream.time].cast("int64")
        return real(table.set_column(place, table.schema.field(place), times), stream, *given)

    patch.setattr(computing, "mark", mark)


@fault
def late_events_are_dropped(patch: Patch) -> None:
    real = computing.prepare_all

    def prepare_all(versions: Any, stream: Any, table: Any) -> Any:
        late = pc.less(table[stream.time].cast("int64"), pc.subtract(table["_arrival"], 600_000_000))
        return real(versions, stream, table.filter(pc.invert(late)))

    patch.setattr(computing, "prepare_all", prepare_all)


@fault
def only_the_first_dead_letter_of_a_batch_is_written(patch: Patch) -> None:
    real = computing.dead_batches
    patch.setattr(computing, "dead_batches", lambda letters, largest: real(letters[:1], largest))


# Ingestion and the online store.


@fault
def the_store_takes_a_write_from_anywhere(patch: Patch) -> None:
    real = lmdb.LmdbOnlineStore.write

    def write(self: Any, gv: str, shard: int, items: Any, meta: Any, expected: int | None) -> Any:
        found = meta_of(self, gv, shard)
        return real(self, gv, shard, items, meta, None if found is None else found.position)

    patch.setattr(lmdb.LmdbOnlineStore, "write", write)
    # Nor does the layer look whether the shard has moved before it read its values, which is refused without the store.
    patch.setattr(stream, "read_unmoved", lambda online, gv, shard, keys, expected: read_shard(online, gv, shard, keys))


@elusive
def positions_are_written_before_the_states(patch: Patch) -> None:
    real = lmdb.LmdbOnlineStore.write

    def write(self: Any, gv: str, shard: int, items: Any, meta: Any, expected: int | None) -> Any:
        real(self, gv, shard, [], meta, expected)
        return real(self, gv, shard, items, meta, meta.position)

    patch.setattr(lmdb.LmdbOnlineStore, "write", write)


@fault
def a_tile_is_merged_twice(patch: Patch) -> None:
    real = stream.combine
    patch.setattr(stream, "combine", lambda layout, deltas: real(layout, [*deltas, *deltas[2:3]]))


@elusive
def the_last_delta_of_a_write_is_forgotten(patch: Patch) -> None:
    real = stream.combine
    patch.setattr(stream, "combine", lambda layout, deltas: real(layout, deltas[:2]))


@fault
def ingestion_begins_without_the_history(patch: Patch) -> None:
    real = backfill.fold_history

    def hasty(version: Any, past: Any, *given: Any, **options: Any) -> Any:
        class Nothing:
            def chunks(self, one: Any, *_: Any, **__: Any) -> Any:
                yield from ()

        return real(version, Nothing(), *given, **options)

    patch.setattr(backfill, "fold_history", hasty)


@fault
def backfill_goes_one_past_the_start_marker(patch: Patch) -> None:
    real = backfill.Handover.before
    patch.setattr(
        backfill.Handover, "before", lambda self, name: {part: at + 1 for part, at in real(self, name).items()}
    )


@fault
def a_rebuild_empties_what_is_read(patch: Patch) -> None:
    real = apply.rebuild

    def rebuild(parts: Any, version: Any) -> Any:
        found = real(parts, version)
        for shard in range(version.shards):
            if (meta := meta_of(parts.online, version.states, shard)) is not None:
                gone = [(key, b"") for key, _ in pairs(parts.online, version.states, shard)]
                parts.online.write(version.states, shard, gone, meta, meta.position)
        return found

    patch.setattr(apply, "rebuild", rebuild)


# Stores that refuse keys, and logs whose transactions come apart.


@fault_on(True)
def keys_that_the_store_refuses_are_forgotten(patch: Patch) -> None:
    def write_all(online: Any, states: str, shard: int, changes: Any, meta: Any, expected: int | None) -> None:
        if online.write(states, shard, changes, meta, expected):
            online.write(states, shard, [], meta, BEGUN if expected is None else expected)

    patch.setattr(stream, "write_all", write_all)


@fault_on(True)
def values_that_are_ahead_are_merged_again(patch: Patch) -> None:
    patch.setattr(Answer, "ahead", lambda self, position: set())


@fault_on("torn")
def a_committed_position_is_trusted(patch: Patch) -> None:
    patch.setattr(positions.Positions, "of", lambda self, consumer, topic: self._log.committed(consumer, topic))


@fault_on("torn")
def deltas_are_merged_whatever_ranges_they_name(patch: Patch) -> None:
    real = stream.lacking

    def lacking(version: Any, shard: int, applied: Any, deltas: Any, *given: Any) -> Any:
        return replace(real(version, shard, applied, deltas, *given), deltas=list(deltas))

    patch.setattr(stream, "lacking", lacking)


@fault_on("torn")
def what_no_delta_brings_is_not_folded_again(patch: Patch) -> None:
    patch.setattr(ranges, "_folded_again", lambda *given: [])


# History, archive, sync.


@fault
def the_archive_loses_its_positions(patch: Patch) -> None:
    real = iceberg.IcebergOfflineStore.append

    def append(self: Any, table: str, rows: Any, properties: Any = None, expected: Any = ANY) -> Any:
        kept = {} if table.startswith("events.") else properties
        return real(self, table, rows, kept, expected)

    patch.setattr(iceberg.IcebergOfflineStore, "append", append)


@elusive
def the_archive_takes_a_commit_from_anywhere(patch: Patch) -> None:
    real = iceberg.IcebergOfflineStore.append
    patch.setattr(
        iceberg.IcebergOfflineStore,
        "append",
        lambda self, table, rows, properties=None, expected=ANY: real(self, table, rows, properties, ANY),
    )


@fault
def history_reads_the_seam_twice(patch: Patch) -> None:
    real = history.positions_of
    patch.setattr(history, "positions_of", lambda told: {part: max(0, at - 1) for part, at in real(told).items()})


@fault
def retention_does_not_wait_for_the_archive(patch: Patch) -> None:
    real = embedded.EmbeddedLog.committed

    def committed(self: Any, consumer: str, topic: str) -> Any:
        found = real(self, consumer, topic)
        return [end for _, end in self.ends(topic)] if consumer == archive.ARCHIVE else found

    patch.setattr(embedded.EmbeddedLog, "committed", committed)


@elusive
def retention_trims_a_batch_too_many(patch: Patch) -> None:
    real = embedded.EmbeddedLog.trim
    patch.setattr(
        embedded.EmbeddedLog, "trim", lambda self, topic, part, before: real(self, topic, part, before and before + 6)
    )


@fault
def sync_writes_a_part(patch: Patch) -> None:
    real = sync.Syncer._values

    def values(self: Any, version: Any, states: Any, now: int, meta: Any) -> Any:
        return real(self, version, dict(list(states.items())[:1]), now, meta)

    patch.setattr(sync.Syncer, "_values", values)


@elusive
def a_run_is_stated_twice(patch: Patch) -> None:
    real = iceberg.IcebergOfflineStore.append

    def append(self: Any, table: str, rows: Any, properties: Any = None, expected: Any = ANY) -> Any:
        if table.startswith("batch."):
            real(self, table, rows, {}, expected)
            return real(self, table, rows, properties, ANY)
        return real(self, table, rows, properties, expected)

    patch.setattr(iceberg.IcebergOfflineStore, "append", append)


# Serving.


@fault
def a_read_counts_its_own_instant(patch: Patch) -> None:
    from millstream.fold.views import Vector

    real = Vector.read
    patch.setattr(Vector, "read", lambda self, states, at: real(self, states, at + 1))


@fault
def a_capture_names_older_positions(patch: Patch) -> None:
    real = reader.FeatureReader._facts

    def facts(self: Any, lookup: Any, number: int, answer: Any, now: int) -> Any:
        fact = real(self, lookup, number, answer, now)
        kept = self.__dict__.setdefault("_planted", {}).setdefault((lookup.gv, number), fact)
        return msgspec.structs.replace(fact, positions=kept.positions)

    patch.setattr(reader.FeatureReader, "_facts", facts)


@elusive
def states_and_positions_are_read_apart(patch: Patch) -> None:
    real = lmdb.LmdbOnlineStore.read

    def read(self: Any, asks: Any) -> Any:
        answers = real(self, asks)
        metas = self.__dict__.setdefault("_planted", {})
        for ask, answer in zip(asks, answers, strict=True):
            meta, place = answer.meta, (ask.states, ask.shard)
            answer.meta = metas.get(place) or meta
            metas[place] = meta
        return answers

    patch.setattr(lmdb.LmdbOnlineStore, "read", read)


@elusive
def a_capture_is_let_go_before_it_is_shipped(patch: Patch) -> None:
    real = capture.CaptureShipper._ship

    def ship(self: Any, path: Any) -> int:
        held = path.read_bytes()
        path.unlink()
        with self._log.transaction():
            pass
        path.write_bytes(held)
        return real(self, path)

    patch.setattr(capture.CaptureShipper, "_ship", ship)


@elusive
def a_capture_that_is_shipped_twice_counts_twice(patch: Patch) -> None:
    patch.setattr(captures, "_once", lambda table: table)


@fault
def a_rollback_goes_to_the_oldest_version(patch: Patch) -> None:
    def rollback(parts: Any, model: str) -> int:
        newest = max(one.version for one in parts.model_versions.versions(model))
        parts.model_versions.alias(model, serving.CHAMPION, newest, reason="rolled back by hand")
        return newest

    patch.setattr(serving, "rollback", rollback)


@elusive
def the_newest_version_is_served_instead_of_the_champion(patch: Patch) -> None:
    real = versions.ModelVersions.load

    def load(self: Any, model: str, which: str | int = "champion") -> Any:
        return real(self, model, max(one.version for one in self.versions(model)))

    patch.setattr(versions.ModelVersions, "load", load)


@elusive
def string_columns_are_scored_as_missing(patch: Patch) -> None:
    real = reader.column_of

    def column_of(values: Any, kind: str) -> Any:
        found = real(values, kind)
        return np.array([None] * len(found), object) if kind == "string" else found

    patch.setattr(reader, "column_of", column_of)


# Learning, and definitions that go and come back.


@fault
def training_counts_what_was_not_known_yet(patch: Patch) -> None:
    patch.setattr(stored_history.Stored, "available", lambda self, group, events: _noted(self, group, events))


def _noted(stored: Any, group: Any, events: Any) -> Any:
    stored.read.delays[stored.read.versions[group.name]] = 0
    return np.full(len(events.arrivals), FIRST, np.int64)


@fault
def a_model_learns_from_labels_that_may_still_come(patch: Patch) -> None:
    real = training_set._labelled

    def labelled(label: Any, examples: Any, labels: Any, now: int) -> Any:
        return real(label, examples, labels, now + label.after)

    patch.setattr(training_set, "_labelled", labelled)


@fault
def a_group_that_goes_takes_along_what_models_pin(patch: Patch) -> None:
    real = registry._remove

    def remove(connection: Any, key: Any) -> None:
        real(connection, key)
        ours = tables.group_versions.update().where(tables.group_versions.c.name == key[1])
        if key[0] == "group":
            connection.execute(ours.values(state="retired"))

    patch.setattr(registry, "_remove", remove)


@fault
def what_is_retired_is_never_dropped(patch: Patch) -> None:
    patch.setattr(retire, "_drop", lambda parts, unused: False)


# Over HTTP.


@fault
def the_service_acknowledges_what_found_no_room(patch: Patch) -> None:
    real = receiver.Receiver._write

    def write(self: Any, requests: Any) -> Any:
        try:
            return real(self, requests)
        except DiskFull:
            return [[0 for _ in placed] for placed in requests]

    patch.setattr(receiver.Receiver, "_write", write)


@fault
def the_service_does_not_see_a_new_champion(patch: Patch) -> None:
    real = catalogue.Deployments.refresh
    patch.setattr(catalogue.Deployments, "refresh", lambda self: not self.current().models and real(self))


@fault
def captures_are_kept_in_memory_until_they_are_shipped(patch: Patch) -> None:
    append, rotate = capture.CaptureJournal.append, capture.CaptureJournal.rotate
    waiting: dict[int, list[Any]] = {}

    def flushed(self: Any) -> Any:
        for given in waiting.pop(id(self), []):
            append(self, *given)
        return rotate(self)

    patch.setattr(capture.CaptureJournal, "append", lambda self, *given: waiting.setdefault(id(self), []).append(given))
    patch.setattr(capture.CaptureJournal, "rotate", flushed)


# Flipped bits.


@fault
def what_the_log_holds_is_not_compared_with_its_checksum(patch: Patch) -> None:
    for module in (columns, stored):
        patch.setattr(module, "intact", lambda texts, sums: len(texts))


@fault
def states_are_not_compared_with_their_checksums(patch: Patch) -> None:
    patch.setattr(lmdb, "opened", lambda key, record: record[8:])


@fault
def captures_are_not_compared_with_their_checksums(patch: Patch) -> None:
    patch.setattr(capture, "_checked", lambda line: line.rpartition(b"\t")[0])


@fault
def offline_files_are_not_compared_with_their_sums(patch: Patch) -> None:
    patch.setattr(file_ledger.FileLedger, "verify", lambda self, path: None)


@fault
def damaged_states_are_not_built_anew(patch: Patch) -> None:
    patch.setattr(apply, "rebuild_damaged", lambda parts: [])
