"""The heart: a feature is a fold over events, read as of a moment.

`prepare` turns validated events into lanes, `fold` folds them to states, `merge` merges states, `value` reads states at
an instant, and `as_of` does all of it over history for many (key, instant) rows. Stream computing, ingestion, serving,
backfill, training and verification call these and nothing else. `oracle` is the definition they are tested against.
"""

from millstream.fold.deltas import Deltas, decode_deltas, encode_deltas
from millstream.fold.keys import decode_key, encode_key, encode_keys, shard_of
from millstream.fold.layout import HEAD_CAPACITY, HEAD_SPAN, STATE_VERSION, Layout, layout_of
from millstream.fold.prepare import Prepared, aggregated, prepare
from millstream.fold.probes import Probes, probes_of, probes_of_few
from millstream.fold.requests import RequestRows, request_lanes
from millstream.fold.states import States, Values, as_of, exact, fold, merge, pruned, value
from millstream.fold.warm import warm

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
    "value",
    "warm",
]
