"""What is computed, trained and served here; put your own definitions in its place."""

import millstream as ms

user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream(
    "payments",
    time="paid_at",
    deduplicate="payment_id",
    schema={
        "payment_id": "string",
        "user_id": "int64",
        "amount": "float64",
        "disputed": "bool",
        "paid_at": "timestamp",
    },
)
habits = ms.StreamFeatureGroup(
    "habits",
    entity=user,
    source=payments,
    features=[ms.Count(over=["5m", "1h", "24h"]), ms.Mean("amount", over="30d"), ms.Max("amount", over="30d")],
)
view = ms.FeatureView("payments", request={"amount": "float64"}, features=[habits])
model = ms.Model(
    "disputes",
    view=view,
    trainer=ms.LightGBM(),
    examples=payments,
    label=ms.Label(payments, "disputed", on="payment_id", absent=False, after="1h"),
    retrain=ms.Retrain(every="24h"),
)
