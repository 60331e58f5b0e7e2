"""Rows given to a batch group by hand, as if a run of its query had just returned them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from millstream.engines.instants import beyond
from millstream.errors import Fenced, MillstreamError, RequestError, shown

if TYPE_CHECKING:
    from millstream.buffer.log import OwnLog
    from millstream.project.parts import Parts


def write(parts: Parts, group: str, rows: Any) -> int:
    """Stage rows of a batch group as if a run of its query had just returned them; returns how many.

    Args:
        parts: the project.
        group: the name of the group.
        rows: its join keys, its time column if it has one, and its features, as dicts or a table; instants may be
            ISO-8601 text.

    Raises:
        NotFound: when there is no such group.
        RequestError: when the group is folded from events, or a value is not what its column holds.
        MillstreamError: when a row is wrong; nothing was written.
    """
    from millstream.buffer.staging import Run, run_payloads
    from millstream.buffer.topics import staging_topic
    from millstream.computing.interval_runs import Result
    from millstream.computing.run_rows import features_of, stage
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
    instants = [name for name, kind in version.schema.items() if kind == "timestamp"]
    if version.group.time is not None:
        instants.append(version.group.time)
    result = _table(group, rows, instants)
    if not result.num_rows:
        return 0
    now = parts.clock.now()
    schema = version.schema or features_of(version.group, result)
    staged = stage(f"Group '{group}'", version.group, schema, Result(result, None, []), now, now)
    if staged.dead:
        raise MillstreamError(staged.dead[0].reason.replace(" of its query", ""), "mend the row; nothing was written.")
    parts.log.create(staging_topic(version.id), 1)
    _append(
        parts.log, staging_topic(version.id), run_payloads(Run(now, now, now, False, staged.rows), parts.log.largest)
    )
    return int(staged.rows.num_rows)


def _append(log: OwnLog, topic: str, payloads: Sequence[bytes]) -> None:
    """Append the parts of a run; a part that is written again counts once."""
    from millstream.buffer.log import Batch
    from millstream.buffer.writing import until_there

    batches = [Batch(payload, "bytes", 1) for payload in payloads]

    def written() -> bool:
        try:
            with log.transaction() as work:
                for batch in batches:
                    work.append(topic, 0, batch)
        except Fenced:
            return False
        return True

    if len(batches) == 1:
        log.append(topic, 0, batches[0])
    else:
        until_there(written, topic)


def _table(group: str, rows: Any, instants: Sequence[str]) -> pa.Table:
    """The rows as a table, whose columns of instants are timestamps whatever form they came in."""
    from millstream.buffer.codec.frames import taken

    table = taken(f"Group '{group}'", rows, MillstreamError)
    if not isinstance(table, pa.Table):
        return _from_dicts(group, table, instants)
    for name in instants:
        if name in table.column_names and pa.types.is_temporal(table[name].type):
            wrong = beyond(table[name].combine_chunks())
            if wrong is not None:
                given = table[name].filter(wrong)[0].cast(pa.int64()).as_py()
                raise _wrong(group, name, given, "an instant of the years 1 to 9999")
        elif name in table.column_names:
            values = _instants(group, name, table[name].to_pylist())
            table = table.set_column(table.column_names.index(name), name, values)
    return table


def _from_dicts(group: str, rows: Sequence[Any], instants: Sequence[str]) -> pa.Table:
    for row in rows:
        if not isinstance(row, Mapping):
            raise _wrong(group, "rows", row, "dicts, or an Arrow, pandas or Polars table")
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if name in instants:
            columns[name] = _instants(group, name, values)
            continue
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            first = next(value for value in values if value is not None)
            other = next((value for value in values if value is not None and type(value) is not type(first)), first)
            raise _wrong(group, name, other, f"values of one type that fits a column, like {shown(first)}") from error
    return pa.table(columns)


def _instants(group: str, name: str, values: Sequence[Any]) -> pa.Array:
    from millstream.buffer.codec.values import EXPECTED, Unfit, fit, reason
    from millstream.definitions.data_types import INSTANT

    found: list[int | None] = []
    for value in values:
        try:
            found.append(fit(value, "timestamp"))
        except Unfit:
            why = reason(name, "timestamp", value)
            said = why if "looks like" in why else EXPECTED["timestamp"]
            raise _wrong(group, name, value, said) from None
    return pa.array(found, pa.int64()).cast(INSTANT)


def _wrong(group: str, name: str, given: Any, expected: str) -> RequestError:
    return RequestError(
        f"Group '{group}', column '{name}': {shown(given)} is given; expected {expected}.",
        field=name,
        given=given,
        expected=expected,
        hint="nothing was written; mend the value and write the rows again.",
    )
