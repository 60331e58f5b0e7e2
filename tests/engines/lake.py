"""A project whose offline tables hold every type and null, and captures, dead letters, lists, structs and maps."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

import millstream as ms

NOW = datetime.now(UTC).replace(microsecond=0)
SEEN = NOW - timedelta(days=3)
TYPES = {"whole": "int64", "number": "float64", "text": "string", "flag": "bool", "day": "date", "moment": "timestamp",
         "card": "uuid", "price": "decimal(38, 2)", "print": "bytes", "vector": "list<float64>", "short": "list<float32>",
         "wholes": "list<int64>", "words": "list<string>"}  # fmt: skip
#: Three values of each type, as far apart as they can be.
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "whole": (-(2**63), 2**53 + 1, 2**63 - 1), "number": (-0.0, 5e-324, 1.5), "text": ("", "é" * 19, "it's"),
    "flag": (False, True, True), "day": (date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31)),
    "moment": (datetime(1, 1, 1, tzinfo=UTC), SEEN + timedelta(microseconds=1), datetime(9999, 12, 31, tzinfo=UTC)),
    "card": (UUID(int=1), UUID(int=2**64), UUID(int=2**128 - 1)),
    "price": (Decimal("-" + "9" * 36 + ".25"), Decimal("0.10"), Decimal("9" * 36 + ".99")),
    "print": (b"", b"\0" * 16, b"\xff" * 39), "vector": ([], [1.5, -0.0], [2.0**40]), "short": ([], [0.5], [1.5, 2.5]),
    "wholes": ([], [2**63 - 1], [1, -1]), "words": ([], [""], ["é", "b"]),
}  # fmt: skip

user = ms.Entity("user", keys={"user_id": "int64"})
visits = ms.EventStream("visits", time="at", schema={"id": "string", "user_id": "int64", **TYPES, "at": "timestamp"})
tiers = ms.Table("tiers", path="tiers.parquet", time="seen", schema={
    "user_id": "int64", "tier": "string", "born": "date", "card": "uuid", "price": "decimal(12, 2)",
    "seen": "timestamp"})  # fmt: skip
level = ms.BatchFeatureGroup("level", entity=user, sources=[tiers], every="24h", time="seen",
                             query="select user_id, seen, tier, born, card, price from tiers")  # fmt: skip
kept = ms.StreamFeatureGroup("kept", entity=user, source=visits, features=[
    ms.Count(over="30d"), *(ms.Last(one) for one in TYPES if not TYPES[one].startswith("list")), ms.Sum("number"),
    ms.VectorSum("vector", dim=1, where="len(vector) = 1"), ms.Histogram("number", bins=[0, 1, 9]),
    *(ms.LastK(one, k=2) for one in ("card", "day", "moment", "price", "print")), ms.LastK(["number", "text"], k=2),
    ms.CountBy("text"), ms.SumBy("flag", "number"), ms.By("text", ms.Max("moment")), ms.By("moment", ms.First("text"), k=1),
])  # fmt: skip
view = ms.FeatureView("v", request={"card": "uuid", "price": "decimal(12, 2)", "day": "date"}, features=[
    level, kept["count_30d"], kept["whole_last"], kept["card_last"], kept["text_count_by"].spread()])  # fmt: skip
asks = ms.EventStream("asks", time="at", schema={
    "id": "string", "user_id": "int64", "card": "uuid", "price": "decimal(12, 2)", "day": "date", "y": "bool",
    "at": "timestamp"})  # fmt: skip
model = ms.Model("m", view=view, examples=asks, trainer=ms.LightGBM(rounds=3, min_rows=1),
                 label=ms.Label(asks, "y", on="id", after="1m"))  # fmt: skip
REQUEST = {"card": UUID(int=2**128 - 1), "price": Decimal("0.10"), "day": date(1985, 10, 26)}


class Lake:
    """A project that has written all tables there are, and goes on."""

    def __init__(self, folder: Path, offline: str) -> None:
        folder.mkdir(parents=True)
        (folder / "millstream.toml").write_text(f'[offline]\nkind = "iceberg"\n{offline}for_spark = true\n')
        seen = pa.array([SEEN, SEEN], pa.timestamp("us", "UTC"))
        cards = pa.array([one.bytes for one in VALUES["card"][1:]], pa.binary(16)).cast(pa.uuid())
        price = pa.array([Decimal("7.00"), None], pa.decimal128(12, 2))
        rows = {"user_id": [0, 1], "tier": ["gold", None], "born": [date(1969, 12, 30), None], "card": cards}
        pq.write_table(pa.table({**rows, "price": price, "seen": seen}), folder / "tiers.parquet")
        self.project = ms.Project(folder, create=True)
        self.project.apply(model, ms.FeatureView("all", features=[kept]))
        self.sent = 0
        self.visit()
        at = NOW - timedelta(hours=1)
        self.project.load(asks, [
            {"id": str(n), "user_id": n % 2, **REQUEST, "y": n % 3 == 0, "at": at - timedelta(minutes=n)} for n in range(60)
        ])  # fmt: skip
        self.project.load(asks, [{"id": "wrong", "user_id": 1, **REQUEST, "card": "none", "y": True, "at": at}])
        self.project.drain()
        self.project.backfill()
        self.project.train(model)
        self.project.deploy(model)
        self.project.score(model, [{"id": f"s{n}", "user_id": n, **REQUEST} for n in range(3)])
        self.project.sync()

    @property
    def offline(self) -> Any:
        """Its offline store."""
        return self.project.parts.offline

    def visit(self) -> None:
        """Three events of every type, and one that is null in all of them; each of a user of its own."""
        for n in range(4):
            row = {name: three[n] if n < 3 else None for name, three in VALUES.items()}
            at = SEEN + timedelta(minutes=self.sent)
            self.project.load(visits, [{"id": str(self.sent), "user_id": n, **row, "at": at}])
            self.sent += 1
