"""A small fraud view with its states in a real store, as ingestion would have written them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import millstream as ms
from millstream.definitions.group_version import GroupVersion
from millstream.fold import encode_key, fold, layout_of, prepare, shard_of
from millstream.fold.rows import encode_row
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import ShardMeta
from millstream.train.trainers.trainer import Artefact, fit
from millstream.train.versions import LoadedModel, ModelVersion

NOW = 1_700_000_000_000_000
SECOND, HOUR = 1_000_000, 3_600_000_000
SHARDS = 3

user = ms.Entity("user", keys={"user_id": "int64"})
pair = ms.Entity("pair", keys={"user_id": "int64", "device_id": "string"})
payments = ms.EventStream(
    "payments",
    time="paid_at",
    schema={"payment_id": "string", "user_id": "int64", "device_id": "string", "amount": "float64", "country": "string",
            "paid_at": "timestamp"},
)  # fmt: skip
disputes = ms.EventStream(
    "disputes", time="paid_at", schema={"payment_id": "string", "is_fraud": "bool", "paid_at": "timestamp"}
)
accounts = ms.Table(
    "accounts", path="a.parquet", time="updated_at", schema={"user_id": "int64", "tier": "string", "limit": "float64",
                                                             "updated_at": "timestamp"},
)  # fmt: skip
velocity = ms.StreamFeatureGroup(
    "velocity", entity=user, source=payments, features=[ms.Count(over=["5m", "1h"]), ms.Sum("amount", over="1h")]
)
habits = ms.StreamFeatureGroup(
    "habits",
    entity=user,
    source=payments,
    features=[ms.Mean("amount", over="30d"), ms.Last("country"), ms.Max("amount")],
)
together = ms.StreamFeatureGroup("together", entity=pair, source=payments, features=[ms.Count(over="24h")])
kyc = ms.BatchFeatureGroup(
    "kyc", entity=user, sources=[accounts], every="24h", time="updated_at", ttl="30d",
    query='select user_id, updated_at, tier, "limit" from accounts',
)  # fmt: skip


@ms.on_demand(returns="float64")
def over_limit(amount: Any, kyc__limit: Any) -> Any:
    return amount / kyc__limit


view = ms.FeatureView(
    "fraud",
    request={"amount": "float64", "country": "string"},
    features=[velocity, habits, together, kyc["tier"].default("none"), kyc["limit"],
              kyc["tier"].on(user_id="payee_id", prefix="payee"), over_limit],
)  # fmt: skip
model = ms.Model(
    "fraud",
    view=view,
    examples="captures",
    label=ms.Label(disputes, "is_fraud", on="payment_id", absent=False, after="30d"),
)


VERSIONS = {g.name: GroupVersion(g, 1, "live", True, SHARDS) for g in (velocity, habits, together, kyc)}


def events(rows: int = 400) -> pa.Table:
    generator = np.random.default_rng(5)
    times = np.sort(NOW - generator.integers(1, 3 * 24 * HOUR, rows))
    users = generator.integers(0, 20, rows)
    return pa.table({
        "payment_id": [str(i) for i in range(rows)],
        "user_id": users,
        "device_id": [f"d{u % 4}" for u in users],
        "amount": np.round(generator.lognormal(3, 1, rows), 2),
        "country": generator.choice(["de", "fr", "it"], rows),
        "paid_at": pa.array(times, pa.timestamp("us", tz="UTC")),
        "_partition": np.zeros(rows, np.int32),
        "_position": np.arange(rows),
        "_arrival": times,
        "_appended": times,
    })  # fmt: skip


def sharded(pairs: list[tuple[bytes, bytes]]) -> dict[int, list[tuple[bytes, bytes]]]:
    shards: dict[int, list[tuple[bytes, bytes]]] = {shard: [] for shard in range(SHARDS)}
    for key, state in sorted(pairs):
        shards[shard_of(key, SHARDS)].append((key, state))
    return shards


def fill(online: LmdbOnlineStore) -> None:
    """Write what ingestion would have: every payment up to two seconds ago, and accounts."""
    meta = ShardMeta(
        position=4,
        applied={"payments/0": 400},
        newest_arrival=NOW - 2 * SECOND,
        applied_at=NOW - SECOND,
        backfilled=True,
    )
    groups = [velocity, habits, together]
    for group, prepared in zip(groups, prepare(groups, payments, events()), strict=True):
        states = fold(layout_of(group), prepared).to_bytes()
        for shard, items in sharded(list(zip(prepared.keys, states, strict=True))).items():
            online.write(f"{group.name}@1", shard, items, meta, None)
    schema = VERSIONS["kyc"].schema
    rows = [
        (
            encode_key(user.keys, [u]),
            encode_row(schema, NOW - HOUR, NOW - HOUR, {"tier": f"t{u % 3}", "limit": 100.0 + u}),
        )
        for u in range(0, 20, 2)
    ]
    for shard, items in sharded(rows).items():
        online.write("kyc@1", shard, items, meta, None)


def artefact(seed: int = 0) -> Artefact:
    """A model of the view's columns, fitted to noise; another seed gives another model."""
    generator = np.random.default_rng(seed)
    words = np.array(["de", "fr", "it", "t0", "t1", "none"])
    dtypes = {name: "string" if view.dtypes[name] == "string" else "float64" for name in view.columns}
    table = pa.table({
        name: words[generator.integers(0, 6, 500)] if kind == "string" else generator.random(500) * 50
        for name, kind in dtypes.items()
    })  # fmt: skip
    labels = (generator.random(500) < 0.3).astype(float)
    return fit(ms.LightGBM(rounds=10, leaves=7, seed=seed), table, labels, dtypes)


def trained() -> LoadedModel:
    """That model, loaded as version 1."""
    found = artefact()
    about = ModelVersion("fraud", 1, "digest", NOW, pins=tuple(version.id for version in VERSIONS.values()))
    return LoadedModel(about, found.encoder, found.predictor())
