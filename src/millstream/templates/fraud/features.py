"""What @NAME@ computes, trains and serves. `millstream plan` shows what a change here would do."""

import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
device = ms.Entity("device", keys={"device_id": "string"})
payee = ms.Entity("payee", keys={"payee_id": "int64"})

payments = ms.EventStream(
    "payments",
    time="paid_at",
    deduplicate="payment_id",
    schema={
        "payment_id": "string",
        "user_id": "int64",
        "payee_id": "int64",
        "device_id": "string",
        "amount": "float64",
        "country": "string",
        "status": "string",
        "paid_at": "timestamp",
    },
)
logins = ms.EventStream("logins", time="at", schema={"user_id": "int64", "country": "string", "at": "timestamp"})
disputes = ms.EventStream(  # known days after the payment that they are about
    "disputes",
    time="paid_at",
    available="decided_at",
    schema={
        "payment_id": "string",
        "payee_id": "int64",
        "is_fraud": "bool",
        "paid_at": "timestamp",
        "decided_at": "timestamp",
    },
)
accounts = ms.Table("accounts", path="accounts.parquet", time="updated_at", delay="1h")

velocity = [
    ms.StreamFeatureGroup(
        f"{entity.name}_velocity",
        entity=entity,
        source=payments,
        where="amount > 0",
        features=[
            ms.Count(over=["5m", "1h", "24h"]),
            ms.Sum("amount", over=["1h", "24h"]),
            ms.Share(name="declined", where="status = 'declined'", over=["1h", "24h"]),
            ms.DistinctCount(others, over=["24h", "7d"]),  # devices of a user, users of a device
        ],
    )
    for entity, others in ((user, "device_id"), (device, "user_id"))
]
habits = ms.StreamFeatureGroup(
    "habits",
    entity=user,
    source=payments,
    features=[
        ms.Mean("amount", over="30d"),
        ms.Std("amount", over="30d"),
        ms.Max("amount", over="30d"),
        ms.ZScore("amount", request="amount", over=["20 events", "30d"]),
        ms.Seen("payee_id", request="payee_id", over="90d", name="known_payee"),
    ],
)
access = ms.StreamFeatureGroup("access", entity=user, source=logins, features=[ms.Last("country"), ms.TimeSince()])
risk = ms.StreamFeatureGroup(
    "risk", entity=payee, source=disputes, features=[ms.Count(name="frauds", where="is_fraud", over=["7d", "30d"])]
)
kyc = ms.BatchFeatureGroup(
    "kyc",
    entity=user,
    sources=[accounts],
    every="0 2 * * *",
    query="select user_id, updated_at, tier from accounts",
    time="updated_at",
    ttl="90d",
)


@ms.on_demand(returns="float64")
def beside_largest(amount: float, habits__amount_max_30d: float) -> float:
    """This amount beside the user's largest of the last month."""
    return amount / habits__amount_max_30d


fraud_view = ms.FeatureView(
    "fraud",
    request={"amount": "float64", "country": "string"},
    features=[
        *velocity,
        habits,
        access,
        risk,
        kyc["tier"].default("none"),
        kyc["tier"].on(user_id="payee_id", prefix="payee"),
        beside_largest,
    ],
)
fraud = ms.Model(
    "fraud",
    view=fraud_view,
    trainer=ms.LightGBM(),
    examples=payments,
    label=ms.Label(disputes, "is_fraud", on="payment_id", absent=False, after="30d"),
    retrain=ms.Retrain(every="24h"),
)
