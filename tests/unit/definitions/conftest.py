"""The fraud project of the design, as every test of definitions reads it."""

from types import SimpleNamespace

import pytest

import millstream as ms


@ms.on_demand(returns="float64")
def amount_z(amount, habits__amount_mean_30d, habits__amount_std_30d):
    return (amount - habits__amount_mean_30d) / habits__amount_std_30d


def fraud_project() -> SimpleNamespace:
    user = ms.Entity("user", keys={"user_id": "int64"})
    device = ms.Entity("device", keys={"device_id": "string"})
    payments = ms.EventStream(
        "payments", time="paid_at", deduplicate="payment_id",
        schema={
            "payment_id": "string", "user_id": "int64", "payee_id": "int64", "device_id": "string",
            "amount": "float64", "country": "string", "status": "string", "paid_at": "timestamp",
        },
    )  # fmt: skip
    logins = ms.EventStream("logins", time="at", schema={"user_id": "int64", "country": "string", "at": "timestamp"})
    disputes = ms.EventStream(
        "disputes", time="paid_at", available="decided_at",
        schema={"payment_id": "string", "is_fraud": "bool", "paid_at": "timestamp", "decided_at": "timestamp"},
    )  # fmt: skip
    accounts = ms.Table("accounts", path="accounts.parquet", time="updated_at", delay="1h")
    velocity = [
        ms.StreamFeatureGroup(
            f"{entity.name}_velocity", entity=entity, source=payments, where="amount > 0",
            features=[
                ms.Count(over=["5m", "1h", "24h"]), ms.Sum("amount", over=["1h", "24h"]),
                ms.Count(name="declined", where="status = 'declined'", over="1h"),
            ],
        )
        for entity in (user, device)
    ]  # fmt: skip
    habits = ms.StreamFeatureGroup(
        "habits", entity=user, source=payments, derive={"k": "amount / 1000"},
        features=[ms.Mean("amount", over="30d"), ms.Std("amount", over="30d"), ms.Max("k", over="30d")],
    )  # fmt: skip
    access = ms.StreamFeatureGroup("access", entity=user, source=logins, features=[ms.Last("country"), ms.TimeSince()])
    kyc = ms.BatchFeatureGroup(
        "kyc", entity=user, sources=[accounts], every="0 2 * * *", time="updated_at", ttl="90d",
        query="select user_id, updated_at, tier from accounts",
    )  # fmt: skip
    view = ms.FeatureView(
        "fraud", request={"amount": "float64", "country": "string"},
        features=[
            *velocity, habits, access, kyc["tier"].default("none"),
            kyc["tier"].on(user_id="payee_id", prefix="payee"), amount_z,
        ],
    )  # fmt: skip
    model = ms.Model(
        "fraud", view=view, trainer=ms.LightGBM(), examples=payments, retrain=ms.Retrain(every="24h"),
        label=ms.Label(disputes, "is_fraud", on="payment_id", absent=False, after="30d"),
    )  # fmt: skip
    return SimpleNamespace(
        user=user, device=device, payments=payments, logins=logins, disputes=disputes, accounts=accounts,
        velocity=velocity, habits=habits, access=access, kyc=kyc, amount_z=amount_z, view=view, model=model,
    )  # fmt: skip


@pytest.fixture(scope="session")
def fraud() -> SimpleNamespace:
    return fraud_project()
