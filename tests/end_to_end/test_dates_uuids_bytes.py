"""Dates, UUIDs, bytes and decimals come back as they were: from aggregates, queries and requests, on every path."""

import asyncio
import json
from base64 import b64encode
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.errors import DefinitionError
from millstream.serve.server import Service

NOW = datetime.now(UTC).replace(microsecond=0)
SEEN = NOW - timedelta(days=3)
LOW, HIGH = UUID(int=1), UUID(int=2**128 - 1)
user = ms.Entity("user", keys={"user_id": "int64"})
cards = ms.Table("cards", path="cards.parquet", time="seen", schema={
    "user_id": "int64", "born": "date", "card": "uuid", "print": "bytes", "price": "decimal(12, 2)",
    "seen": "timestamp"})  # fmt: skip
last_card = ms.BatchFeatureGroup(
    "c", entity=user, sources=[cards], every="24h", time="seen",
    query="select user_id, seen, born + 1 as born, card, print, price from cards where card > uuid '" + str(UUID(int=0)) + "'",
)  # fmt: skip
visits = ms.EventStream("visits", time="at", deduplicate="id", schema={
    "id": "uuid", "user_id": "int64", "day": "date", "card": "uuid", "print": "bytes", "price": "decimal(12,2)",
    "y": "bool",
    "at": "timestamp"})  # fmt: skip
kept = ms.StreamFeatureGroup(
    "g", entity=user, source=visits, where="card is null or card <> '{00000000-0000-0000-0000-00000000000a}'",
    derive={"due": "day + 30", "half": "print[1:1]", "same": "card", "gross": "price * 2"},
    features=[
        ms.Count(), ms.Min("day", over="30d"), ms.Max("day"), ms.First("card"), ms.Last("print"), ms.Max("card", over="30d"),
        ms.Min("print"), ms.ArgMax("card", by="day"), ms.ArgMin("day", by="print"), ms.Last("due"), ms.Last("half"),
        ms.Last("same"), ms.Lag("card", 2), ms.Mode("card"), ms.Mode("day"), ms.DistinctCount("card"), ms.Lag("print"),
        ms.DistinctCount("day"), ms.Entropy("card"), ms.Max('"at"::date', name="latest"),
        ms.Min("price"), ms.Max("price", over="30d"), ms.First("price"), ms.Last("price"), ms.ArgMax("price", by="card"),
        ms.ArgMin("card", by="price"), ms.Lag("price", 2), ms.Last("gross"), ms.LastK("price", k=2),
        ms.LastK("card", k=2), ms.LastK("day", k=2), ms.LastK("print", k=2),
    ],
)  # fmt: skip
ASKED = {"born": "date", "card": "uuid", "print": "bytes", "price": "decimal(12, 2)"}
view = ms.FeatureView("v", request=ASKED, features=[
    last_card, *(kept[name].spread() if name.endswith("_last_2") else kept[name] for name in kept.feature_names)])  # fmt: skip
model = ms.Model(
    "m", view=view, examples=ms.EventStream("asks", time="at", schema={
        "id": "uuid", "user_id": "int64", **ASKED, "y": "bool", "at": "timestamp"}),
    trainer=ms.LightGBM(rounds=3, min_rows=1), label=ms.Label(visits, "y", on="id", after="1m"),
)  # fmt: skip
DAYS = [date(1899, 12, 31), date(2024, 2, 29), date(9999, 12, 1)]
PRINTS = [b"", b"\0" * 16, b"\xff" * 39]
PRICES = [Decimal("1.10"), Decimal("-0.50"), Decimal("9999999999.99")]
ROWS: list[dict[str, Any]] = [
    {"id": UUID(int=i), "user_id": 1, "day": DAYS[i], "card": [HIGH, LOW, LOW][i], "print": PRINTS[i], "price": PRICES[i],
     "y": i != 1, "at": SEEN + timedelta(hours=i)}
    for i in range(3)
]  # fmt: skip
ROWS += [
    {**ROWS[0], "day": date(1, 1, 1)},
    {**ROWS[0], "id": UUID(int=9), "card": UUID(int=10)},
]  # a repeat; filtered out
REQUEST = {"born": date(1985, 10, 26), "card": HIGH, "print": b"\0\1", "price": Decimal("0.10")}
KEPT = {
    "g__count": 3, "g__day_min_30d": DAYS[0], "g__day_max": DAYS[2], "g__card_first": HIGH, "g__print_last": PRINTS[2],
    "g__card_max_30d": HIGH, "g__print_min": b"", "g__card_day_arg_max": LOW, "g__day_print_arg_min": DAYS[0],
    "g__due_last": date(9999, 12, 31), "g__half_last": b"\xff", "g__same_last": LOW, "g__card_lag_2": LOW,
    "g__card_mode": LOW, "g__day_mode": DAYS[0], "g__card_distinct_count": 2, "g__print_lag_1": PRINTS[2],
    "g__day_distinct_count": 3, "g__card_entropy": pytest.approx(0.9182958340544896),
    "g__price_min": PRICES[1], "g__price_max_30d": PRICES[2], "g__price_first": PRICES[0], "g__price_last": PRICES[2],
    "g__price_card_arg_max": PRICES[0], "g__card_price_arg_min": LOW, "g__price_lag_2": PRICES[1],
    "g__gross_last": Decimal("19999999999.98"), "g__price_last_2_1": PRICES[2], "g__price_last_2_2": PRICES[1],
    "g__latest": (SEEN + timedelta(hours=2)).date(), "g__card_last_2_1": LOW, "g__card_last_2_2": LOW,
    "g__day_last_2_1": DAYS[2], "g__day_last_2_2": DAYS[1], "g__print_last_2_1": PRINTS[2], "g__print_last_2_2": PRINTS[1],
}  # fmt: skip
LISTS = {
    "card": [LOW, LOW],
    "day": [DAYS[2], DAYS[1]],
    "print": [PRINTS[2], PRINTS[1]],
    "price": [PRICES[2], PRICES[1]],
}
CARDS = {"user_id": [1, 2], "born": [date(1969, 12, 30), None], "card": [LOW.bytes, HIGH.bytes], "print": [b"\0", b""],
         "price": [Decimal("7.00"), Decimal("8.50")], "seen": [SEEN, SEEN]}  # fmt: skip
BATCH = {"c__born": date(1969, 12, 31), "c__card": LOW, "c__print": b"\0", "c__price": Decimal("7.00")}
WANTED = {**REQUEST, **BATCH, **KEPT}
NOTHING = {**REQUEST, **dict.fromkeys(BATCH), **dict.fromkeys(KEPT), "g__count": 0, "g__card_distinct_count": 0,
           "g__day_distinct_count": 0}  # fmt: skip
KINDS = {
    "c__born": pa.date32(),
    "c__card": pa.uuid(),
    "g__print_last": pa.binary(),
    "g__due_last": pa.date32(),
    "g__price_min": pa.decimal128(12, 2),
    "c__price": pa.decimal128(12, 2),
}


def card_rows() -> pa.Table:
    cards = pa.array(CARDS["card"], pa.binary(16)).cast(pa.uuid())
    return pa.table({**CARDS, "card": cards, "seen": pa.array(CARDS["seen"], pa.timestamp("us", "UTC"))})


def in_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value if value is None or isinstance(value, int | float | str) else str(value)


def test_the_pure_function_gives_them_back() -> None:
    at = NOW - timedelta(hours=1)
    asked = [{"user_id": user_id, **REQUEST, "at": at} for user_id in (1, 3)]
    for events in (ROWS, pa.Table.from_pylist(ROWS), [{n: in_json(v) for n, v in row.items()} for row in ROWS]):
        found = ms.compute(view, {cards: card_rows(), visits: events}, asked)
        assert found.select(list(WANTED)).to_pylist() == [WANTED, NOTHING]
        assert {name: found.schema.field(name).type for name in KINDS} == KINDS
    found = ms.compute(kept, {visits: ROWS}, [{"user_id": user_id, "at": at} for user_id in (1, 3)])
    assert [found[f"g__{name}_last_2"].to_pylist() for name in LISTS] == [[value, []] for value in LISTS.values()]
    kinds = [found.schema.field(f"g__{name}_last_2").type.value_type for name in LISTS]
    assert kinds == [pa.uuid(), pa.date32(), pa.binary(), pa.decimal128(12, 2)]


def test_a_project_gives_them_back_on_every_path(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "p", create=True)
    pq.write_table(card_rows(), tmp_path / "p" / "cards.parquet")
    project.apply(model)
    project.load(visits, ROWS)
    project.load(visits, [{**ROWS[0], "id": UUID(int=100 + i), "user_id": 2} for i in range(2)])
    asks = [{"id": UUID(int=i % 3 if i < 6 else 1000 + i), "user_id": 1 + 2 * (i % 2), **REQUEST, "y": True,
             "at": NOW - timedelta(hours=1, minutes=i)} for i in range(40)]  # fmt: skip
    project.load("asks", asks)
    project.load("asks", [{**asks[0], "print": "no base64", "at": NOW}])
    project.drain()
    project.backfill()
    assert project.dead_letters("asks")["reason"].to_pylist() == [
        "Wrong type: column 'print' does not hold bytes (as text, in base64)."
    ]
    keys = [{"user_id": user_id, **REQUEST} for user_id in (1, 3)]
    online = project.features("v", keys)
    assert online.to_pylist() == [WANTED, NOTHING]
    assert {name: online.schema.field(name).type for name in KINDS} == KINDS
    trained = project.training_set("m").table
    rows = trained.select([*REQUEST, *KEPT]).to_pylist()
    assert {name: WANTED[name] for name in (*REQUEST, *KEPT)} in rows
    assert trained["_label"].null_count < len(asks)
    project.train("m")
    project.deploy("m")
    project.score("m", [{"id": str(HIGH), **one} for one in keys])
    project.score("m", [{"id": LOW, **{n: in_json(v) for n, v in keys[0].items()}}])
    project.sync()
    history = project.history("g").sort_by("user_id").to_pylist()[0]
    single = {name.removeprefix("g__"): value for name, value in KEPT.items() if "_last_2" not in name}
    assert {name: history[name] for name in single} == single
    assert [history[f"{name}_last_2"] for name in LISTS] == list(LISTS.values())
    assert project.verify("v").mismatches == 0 and project.verify("v").requests == 3
    assert project.parity("m").unexplained == 0
    check_http(project)
    check_files(project)
    project.close()
    reopened = ms.Project(tmp_path / "p")
    assert reopened.features("v", keys).to_pylist() == [WANTED, NOTHING]
    assert "habits" not in str(reopened.apply(model))
    assert reopened.features("v", keys).to_pylist() == [WANTED, NOTHING]
    reopened.close()


def check_http(project: ms.Project) -> None:
    """The same over HTTP, as text; what is none is refused with what was expected."""
    parts = project.parts
    service = Service(
        "types", project.settings.data, log=parts.log, online=parts.online, registry=parts.registry,
        versions=parts.model_versions, clock=parts.clock,
    )  # fmt: skip
    texts = {name: in_json(value) for name, value in REQUEST.items()}

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.application), base_url="http://x") as client:
            body = {"id": str(HIGH).upper(), "user_id": 1, **texts}
            return [
                await client.get("/v1/views/v/features", params={"user_id": 1, **texts}),
                await client.post("/v1/models/m/score", json=body),
                await client.post("/v1/models/m/score", json={**body, "print": "no base64"}),
                await client.get("/v1/views/v/features", params={"user_id": 1, **texts, "card": "none"}),
                await client.get("/openapi.json"),
            ]

    with service:
        features, scored, no_bytes, no_uuid, document = asyncio.run(ask())
    told = {name: value if name.endswith("entropy") else in_json(value) for name, value in WANTED.items()}
    assert features.json()["features"] == told
    assert scored.status_code == 200, scored.text
    assert no_bytes.status_code == no_uuid.status_code == 400
    assert no_bytes.json()["error"]["expected"] == "base64 text, or null"
    assert "is not a uuid" in no_uuid.json()["error"]["message"]
    assert '"format":"uuid"' in json.dumps(document.json(), separators=(",", ":"))


def check_files(project: ms.Project) -> None:
    """Offline tables hold them as Iceberg's own types, which other engines read."""
    table = project.parts.offline.scan("features.g@1")
    kinds = {name: table.schema.field(name).type for name in ("card_first", "due_last", "print_last")}
    assert list(kinds.values()) == [pa.uuid(), pa.date32(), pa.binary()]
    files = list(Path(project.settings.folder).rglob("*.parquet"))
    [found] = [one for one in files if "features" in str(one) and "g_v1" in str(one)][:1]
    kinds = dict(duckdb.sql(f"select column_name, column_type from (describe from '{found}')").fetchall())
    assert (kinds["card_first"], kinds["due_last"], kinds["print_last"]) == ("UUID", "DATE", "BLOB")


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (ms.Sum("day"), "sum of `day` has type date"),
        (ms.DistinctCount("print"), "distinct_count of `print` has type bytes"),
        (ms.Sum("price"), "sum of `price` has type decimal(12, 2)"),
        (ms.Mean("price"), "cast(price as double)"),
        (ms.DistinctCount("price"), "cast(price as varchar)"),
        (ms.Median("card"), "median of `card` has type uuid"),
    ],
)
def test_what_makes_no_sense_of_them_is_refused(feature: ms.Sum, said: str) -> None:
    with pytest.raises(DefinitionError, match="Hint") as refused:
        ms.StreamFeatureGroup("g", entity=user, source=visits, features=[feature])
    assert said in str(refused.value)


def test_a_default_or_a_function_of_one_is_refused_with_what_to_write() -> None:
    @ms.on_demand(returns="bool")
    def same(card: Any) -> Any:
        return card == 1

    with pytest.raises(DefinitionError, match="cast\\(card as varchar\\)"):
        ms.FeatureView("v", request={"card": "uuid"}, features=[same])
    with pytest.raises(DefinitionError, match="coalesce"):
        ms.FeatureView("v", features=[last_card["born"].default("2024-01-01")])


def test_a_key_may_be_a_date_that_sql_makes_and_one_beyond_the_calendar_is_refused() -> None:
    day = ms.Entity("day", keys={"day": "date"})
    derive = {"on_day": "case when user_id = 1 then date 'infinity' else cast(\"at\" as date) end"}
    group = ms.StreamFeatureGroup(
        "g", entity=day, source=visits, derive=derive, keys={"day": "on_day"}, features=[ms.Count()]
    )
    asked = [{"day": SEEN.date(), "at": NOW}]
    rows = [{**row, "user_id": 2} for row in ROWS[:3]]
    assert ms.compute(group, {visits: rows}, asked)["g__count"].to_pylist() == [
        sum(row["at"].date() == SEEN.date() for row in rows)
    ]
    with pytest.raises(ms.MillstreamError, match="no date of the years 1 to 9999"):
        ms.compute(group, {visits: ROWS[:1]}, asked)
