"""Moving rows through a project in one process: append, compute, ingest, archive, read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.errors import MillstreamError, NotFound, RequestError
from millstream.project import applying
from millstream.project.wiring import Parts

if TYPE_CHECKING:
    from millstream.project.applying import Advance
    from millstream.store.registry import GroupVersion

FEW = 1_000
"""Steps without an end to the buffer after which draining gives up: somebody else keeps filling it."""


def append(parts: Parts, stream: str, rows: Any, *, history: bool) -> int:
    """Append rows to a stream in one transaction; returns how many."""
    from millstream.buffer.events import encode, encode_history, partition_of

    definition = parts.registry.stream(stream)
    rows = [rows] if isinstance(rows, Mapping) else rows
    encoded = encode_history if history else encode
    placed = [
        (partition, batch)
        for partition, part in partition_of(definition, rows, len(parts.log.ends(stream)))
        for batch in encoded(definition, part)
    ]
    with parts.log.transaction() as work:
        for partition, batch in placed:
            work.append(stream, partition, batch)
    return sum(batch.count for _, batch in placed)


def write(parts: Parts, group: str, rows: Any) -> int:
    """Stage rows of a batch group as if a run of its query had just returned them; returns how many."""
    from millstream.buffer.log import Batch
    from millstream.buffer.staging import Run, encode_run, staging_topic
    from millstream.computing.staged import features_of, stage
    from millstream.definitions.feature_group import BatchFeatureGroup

    version = parts.registry.group(group)
    if not isinstance(version.group, BatchFeatureGroup) or version.group.query is None:
        raise RequestError(
            f"Group '{group}' cannot be written to: its values are folded from events.",
            field="group",
            given=group,
            expected="a BatchFeatureGroup with a query",
            hint="send the events instead.",
        )
    result = rows if isinstance(rows, pa.Table) else _table(rows)
    now = parts.clock.now()
    schema = version.schema or features_of(version.group, result)
    staged = stage(f"Group '{group}'", version.group, schema, result, now, now)
    parts.log.create(staging_topic(version.id), 1)
    record = encode_run(Run(now, now, now, False, staged.rows))
    parts.log.append(staging_topic(version.id), 0, Batch(record, "bytes", 1))
    return int(staged.rows.num_rows)


def _table(rows: Any) -> pa.Table:
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, Sequence):
        return pa.Table.from_pylist(list(rows))
    return rows.to_arrow() if hasattr(rows, "to_arrow") else pa.Table.from_pandas(rows, preserve_index=False)


def features(parts: Parts, view: str, keys: Sequence[Mapping[str, Any]], at: int | None) -> pa.Table:
    """The columns of a view for rows of keys, now or at an instant (µs)."""
    from millstream.serve.reader import FeatureReader
    from millstream.serve.request import RequestSchema

    definition = parts.registry.view(view)
    reader = FeatureReader(parts.online, definition, parts.versions(), parts.clock)
    instant = parts.clock.now() if at is None else at
    rows = RequestSchema(definition, lenient=True).parse(keys, instant)
    read = reader.read(rows.values, rows.at)
    return pa.table({name: _nullable(read.columns[name], kind) for name, kind in definition.dtypes.items()})


def _nullable(values: np.ndarray, kind: str) -> pa.Array:
    if values.dtype == object:
        return pa.array(values, pa.string())
    found = pa.array(values, mask=np.isnan(values))
    return found.cast(pa.int64()) if kind == "int64" else found


def synced(parts: Parts, group: str, start: int | None, end: int | None) -> pa.Table:
    """What sync wrote of a group's default version, between two instants (µs)."""
    table = f"features.{parts.registry.group(group).id}"
    if parts.offline.snapshot(table) is None:
        raise NotFound.named("synced group", group, [one.removeprefix("features.") for one in parts.offline.tables()])
    bounds = [f"at {sign} {bound}" for sign, bound in ((">=", start), ("<", end)) if bound is not None]
    return parts.offline.scan(table, where=" and ".join(bounds) or None)


class Drainer:
    """Computes and ingests in this process, with the parts made anew when the registry has changed.

    Args:
        parts: The project.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revision: int | None = None

    def drain(self) -> Mapping[str, int]:
        """Compute and ingest until nothing is left."""
        self._renew()
        total: Counter[str] = Counter()
        for _ in range(FEW):
            done = self._step()
            total.update(done)
            if not any(done.values()):
                return dict(total)
        raise MillstreamError(
            "The buffer is not empty after a thousand steps: it is being filled.", "stop what sends, or use `up`."
        )

    def _step(self) -> dict[str, int]:
        computed = self._computer.step()
        runs = self._batch_computer.step()
        ingested = self._ingester.step()
        stored = self._batch_ingester.step()
        return {
            "events": computed.records,
            "fenced": computed.fenced + ingested.fenced + stored.fenced,
            "runs": len(runs),
            "deltas": ingested.records,
            "restated": stored.runs + stored.written,
        }

    def sync(self) -> Mapping[str, int]:
        """Archive everything that has come, then sync."""
        self._renew()
        archived = 0
        while (step := self._archiver.step()).rows:
            archived += step.rows
        reports = self._syncer.step()
        return {"archived": archived, "synced": sum(report.rows for report in reports)}

    def backfill(self, group: str | None, progress: Advance | None) -> list[str]:
        """Backfill one group anew, or all versions that are not live yet; returns their ids."""
        parts = self._parts
        if group is not None:
            versions = [parts.registry.group(group)]
        else:
            versions = [*parts.registry.groups("new"), *parts.registry.groups("backfilling")]
        applying.start(parts)
        for version in versions:
            applying.backfill(parts, version, anew=group is not None, progress=progress)
        self.drain()
        return [version.id for version in versions if self._finished(version)]

    def _finished(self, version: GroupVersion) -> bool:
        done = applying.finish(self._parts, version)
        if not done:
            self.drain()
            done = applying.finish(self._parts, version)
        return done

    def close(self) -> None:
        """Let go of what is open."""
        if self._revision is not None:
            self._computer.close()
            self._revision = None

    def _renew(self) -> None:
        revision = self._parts.registry.revision()
        if revision == self._revision:
            return
        self.close()
        parts = self._parts
        self._computer, self._ingester = parts.computer(), parts.ingester()
        self._batch_computer, self._batch_ingester = parts.batch_computer(), parts.batch_ingester()
        self._archiver, self._syncer = parts.archiver(), parts.syncer()
        self._revision = revision
