"""What a query's rows gave a reader, from the runs alone that had been applied by then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.definitions.whole_numbers import put
from millstream.engines.instants import micros
from millstream.fold.rows import rows_as_of
from millstream.train.stated import LOOKED_AT, Instants, Newest

if TYPE_CHECKING:
    from millstream.definitions.group_version import BatchGroupVersion

Rows = Callable[[], Iterable[pa.Table]]


def applied_as_of(
    version: BatchGroupVersion, rows: Rows, keys: pa.Array, at: Instants, applied: Instants
) -> dict[str, NDArray[np.generic]]:
    """Return a query's features for (key, instant) pairs, from the runs that were applied when each was read.

    Mostly these are all that had become available; where some were still in the buffer, the rest is read apart.

    Args:
        version: the group version.
        rows: gives the rows that it stated, some at a time, each time it is called.
        keys: the encoded keys.
        at: for each key the instant (µs).
        applied: for each key the position of the first run that was not applied.
    """
    group = version.group
    newest, runs = Newest(group.entity.keys, keys, at), list[pa.Table]()
    for piece in rows():
        newest.add(piece)
        runs = _runs([*runs, piece])
    found = rows_as_of(version.schema, newest.rows(), keys, at, group.ttl)
    late = applied <= _last_available(runs, at)
    places = {
        following: np.flatnonzero(late & (applied == following)) for following in np.unique(applied[late]).tolist()
    }
    apart = {
        following: Newest(group.entity.keys, keys.take(pa.array(mine)), at[mine], LOOKED_AT // len(places))
        for following, mine in places.items()
    }
    for piece in rows() if apart else ():
        for following, some in apart.items():
            some.add(piece.filter(pc.less(piece["_run"], following)) if piece.num_rows else piece)
    for following, mine in places.items():
        known = apart[following].rows()
        part = rows_as_of(version.schema, known, keys.take(pa.array(mine)), at[mine], group.ttl)
        for name, values in part.items():
            found[name] = put(found[name], mine, values)
    return found


def _runs(pieces: list[pa.Table]) -> list[pa.Table]:
    """Each run of some rows once, with when it became available."""
    known = [piece.select(["available_time", "_run"]) for piece in pieces if piece.num_rows]
    return [pa.concat_tables(known).group_by(["available_time", "_run"]).aggregate([])] if known else []


def _last_available(runs: list[pa.Table], at: Instants) -> Instants:
    """For each instant, the position of the last run that had become available, -1 before the first."""
    if not runs:
        return np.full(len(at), -1, np.int64)
    available = np.asarray(micros(runs[0]["available_time"])).astype(np.int64)
    positions = np.asarray(runs[0]["_run"]).astype(np.int64)
    order = np.argsort(available, kind="stable")
    newest = np.concatenate([[-1], np.maximum.accumulate(positions[order])])
    found: Instants = newest[np.searchsorted(available[order], at, side="right")]
    return found
