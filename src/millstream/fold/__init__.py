"""The heart: a feature is a fold over events, read as of a moment.

`prepare` turns validated events into lanes, `fold` folds them to states, `merge` merges states, `value` reads states at
an instant, and `as_of` does all of it over history for many (key, instant) rows. Stream computing, ingestion, serving,
backfill, training and verification call these and nothing else. `oracle` is the definition they are tested against.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.fold.deltas import Deltas, decode_deltas, encode_deltas
    from millstream.fold.keys import decode_key, encode_key, encode_keys, shard_of
    from millstream.fold.layout import HEAD_CAPACITY, HEAD_SPAN, STATE_VERSION, Layout, layout_of
    from millstream.fold.preparation import Prepared, aggregated, prepare
    from millstream.fold.probes import Probes, probes_of, probes_of_few
    from millstream.fold.requests import RequestRows, request_lanes
    from millstream.fold.states import States, Values, as_of, exact, fold, merge, pruned, spent, value

#: Where each name is: what folds nothing does not wait for the compiler's library.
_HOMES = {
    "deltas": ("Deltas", "decode_deltas", "encode_deltas"),
    "keys": ("decode_key", "encode_key", "encode_keys", "shard_of"),
    "layout": ("HEAD_CAPACITY", "HEAD_SPAN", "STATE_VERSION", "Layout", "layout_of"),
    "preparation": ("Prepared", "aggregated", "prepare"),
    "probes": ("Probes", "probes_of", "probes_of_few"),
    "requests": ("RequestRows", "request_lanes"),
    "states": ("States", "Values", "as_of", "exact", "fold", "merge", "pruned", "spent", "value"),
}
_LAZY = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "HEAD_CAPACITY",
    "HEAD_SPAN",
    "STATE_VERSION",
    "Deltas",
    "Layout",
    "Prepared",
    "Probes",
    "RequestRows",
    "States",
    "Values",
    "aggregated",
    "as_of",
    "decode_deltas",
    "decode_key",
    "encode_deltas",
    "encode_key",
    "encode_keys",
    "exact",
    "fold",
    "layout_of",
    "merge",
    "prepare",
    "probes_of",
    "probes_of_few",
    "pruned",
    "request_lanes",
    "shard_of",
    "spent",
    "value",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LAZY[name]), name)
    globals()[name] = found
    return found
