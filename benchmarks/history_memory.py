"""Peak memory of reading stored history, beside PyArrow loading the same rows into a table.

Fair: each measurement is a process of its own, and counts what it takes beyond what it held before. Ours reads the
events of a stream in their order, what is in force of a query's rows for a thousand keys, and what training takes of
captures; PyArrow reads the Parquet files of the same table, and no more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.harness import Claim, Scale
from benchmarks.proof_memory import measured
from millstream.history.events import POSITIONS
from millstream.store.iceberg.store import IcebergOfflineStore

COMMITS, USERS, DAYS = 8, 40_000, 8
DAY = 86_400_000_000
GROUPS = '{"spending": {"version": "spending@1", "shard": 3, "positions": {"payments/0": %d}}}'
OPENED = """
import numpy as np, pyarrow as pa
import millstream as ms
from millstream.definitions.group_version import GroupVersion
from millstream.fold import encode_keys
from millstream.history.events import History
from millstream.store.iceberg.store import IcebergOfflineStore
from millstream.train.stated import newest_of
from millstream.train.stored_history import Stored
rows = int(sys.argv[2])
class Trimmed:
    def ends(self, topic):
        return [(rows, rows)]
store = IcebergOfflineStore(sys.argv[1])
schema = {"user_id": "int64", "amount": "float64", "note": "string", "at": "timestamp"}
payments = ms.EventStream("payments", time="at", schema=schema)
history = History(Trimmed(), store, [payments])
user = ms.Entity("user", keys={"user_id": "int64"})
table = ms.Table("accounts", path="a.parquet", schema={"user_id": "int64", "tier": "string"})
kyc = ms.BatchFeatureGroup(
    "kyc", entity=user, sources=[table], every="24h", query="select user_id, tier from accounts"
)
past = Stored(history, store, {"kyc": GroupVersion(kyc.resolved({"tier": "string"}), 1)})
past.group(kyc)
store.scan("warm.up")
before = begin()
"""
PRINTED = """
print(json.dumps(held("VmHWM") - before))
"""
READS = {
    "events.payments": "found = history.read('payments')\nassert len(found) == rows, len(found)",
    "batch.kyc@1": "keys = encode_keys(user.keys, [pa.array(np.arange(1_000))])\n"
    "found = newest_of(user.keys, past.rows(kyc), keys, np.full(1_000, 2**60))\nassert 0 < len(found) <= 1_000",
    "captures.risk": "found = past.captures('risk', ['user_id', '_at', '_received_at', '_request_id'], 2**60)\n"
    "assert len(found) == rows",
}
THEIRS = """
import pyarrow as pa
import pyarrow.parquet as pq
files = sorted(Path(sys.argv[1]).glob("warehouse/{place}/*/data/**/*.parquet"))
pq.ParquetFile(next(iter(Path(sys.argv[1]).glob("warehouse/warm/up/data/**/*.parquet")))).read()
before = begin()
found = pa.concat_tables([pq.ParquetFile(file).read() for file in files])
"""
NAMES = {
    "events.payments": "read {:,} events of a stream in order",
    "batch.kyc@1": "read what is in force for 1,000 keys of {:,} rows",
    "captures.risk": "read {:,} captures to train on",
}


def run(scale: Scale) -> Iterator[Claim]:
    """Measure each table, in turns with the peer."""
    rows = scale.of(2_000_000) // COMMITS * COMMITS
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder), rows)
        for table, read in READS.items():
            place = table.partition(".")[0]
            ours, theirs = [], []
            for _ in range(min(scale.repeats, 3)):
                ours.append(measured(OPENED + read + PRINTED, folder, rows))
                theirs.append(measured(THEIRS.replace("{place}", place) + PRINTED, folder, rows))
            yield Claim(NAMES[table].format(rows), "MiB", ours, theirs, "PyArrow, loading the rows")


def made(folder: Path, rows: int) -> None:
    """An offline store with a stream's archive, the rows of a query, and captures, each in some commits."""
    store, each = IcebergOfflineStore(folder), rows // COMMITS
    store.append("warm.up", pa.table({"n": [1]}))
    for number in range(COMMITS):
        places = np.arange(number * each, (number + 1) * each)
        drawn, at = np.random.default_rng(number), places * (DAYS * DAY // rows)
        users, amounts = drawn.integers(0, USERS, each), drawn.random(each)
        known = {
            "_partition": pa.array(np.zeros(each), pa.int32()),
            "_position": places,
            "_arrival": at,
            "_appended": at,
        }
        notes = pa.array([f"the note number {place % 1_000}" for place in places.tolist()])
        when = pa.array(at).cast(pa.timestamp("us", "UTC"))
        events = pa.table({"user_id": users, "amount": amounts, "note": notes, "at": when, **known})
        store.append("events.payments", events, {POSITIONS: f'{{"0": {(number + 1) * each}}}'})
        tiers = pa.array([f"tier {place % 7}" for place in places.tolist()])
        stated = {"user_id": users, "event_time": at, "available_time": at, "_run": places // 1_000, "tier": tiers}
        store.append("batch.kyc@1", pa.table(stated))
        requests = pa.array([f"request-{place:012}" for place in places.tolist()])
        groups = pa.array([GROUPS % place for place in places.tolist()])
        served = {"_request_id": requests, "_groups": groups, "_at": at, "_received_at": at, "user_id": users}
        store.append("captures.risk", pa.table({**served, "amount": amounts}))
