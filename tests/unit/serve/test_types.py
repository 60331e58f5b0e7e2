"""Features are answered as the types that they are declared with, over HTTP and in Python alike."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.definitions.schema import element_of
from millstream.serve.server import Service

user = ms.Entity("user", keys={"user_id": "int64"})
visits = ms.EventStream(
    "visits", time="at",
    schema={"user_id": "int64", "spent": "float64", "page": "string", "order": "int64", "new": "bool", "at": "timestamp"},
)  # fmt: skip
facts = {"user_id": "int64", "paid": "bool", "since": "timestamp", "points": "int64"}
accounts = ms.Table("accounts", path="accounts.parquet", schema=facts)
seen = ms.StreamFeatureGroup(
    "seen", entity=user, source=visits,
    features=[
        ms.Count(over="24h"), ms.Sum("spent"), ms.Last("page"), ms.Max("order"), ms.Min("new"), ms.Min("page"),
        ms.ArgMax("at", by="spent"), ms.LastK("order", k=2), ms.LastK("at", k=1),
    ],
)  # fmt: skip
account = ms.BatchFeatureGroup(
    "account", entity=user, sources=[accounts], every="1d", query="select user_id, paid, since, points from accounts"
)


@ms.on_demand(returns="bool")
def often(seen__count_24h: Any) -> Any:
    return seen__count_24h > 1


@ms.on_demand(returns="int64")
def half(seen__count_24h: Any) -> Any:
    return seen__count_24h / 2


view = ms.FeatureView("seen", request={"limit": "int64", "member": "bool"}, features=[seen, account, often, half])
SINCE = datetime(2025, 12, 31, 23, 30, 0, 250_000, tzinfo=UTC)
KNOWN = {
    "limit": 5,
    "member": False,
    "seen__count_24h": 2,
    "seen__spent_sum": 7.0,
    "seen__page_last": "home",
    "seen__order_max": 2**53 + 1,
    "seen__new_min": False,
    "seen__page_min": "home",
    "seen__at_spent_arg_max": datetime(2025, 12, 1, 11, tzinfo=UTC),
    "seen__order_last_2": [2**53 + 1, 2**53 + 1],
    "seen__at_last_1": [datetime(2026, 1, 1, 11, tzinfo=UTC)],
    "account__paid": True,
    "account__since": SINCE,
    "account__points": -3,
    "often": True,
    "half": 1,
}
UNKNOWN = dict.fromkeys(KNOWN) | {"seen__count_24h": 0, "seen__spent_sum": 0.0, "often": False, "half": 0}
UNKNOWN |= {name: [] for name in KNOWN if "last_" in name}
NOON = "2026-01-01T12:00:00Z"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ms.Project:
    folder = tmp_path_factory.mktemp("types")
    (folder / ".millstream").mkdir()
    FileClock(folder / ".millstream" / "clock.json").set(to_micros(NOON), rate=0.0)
    project = ms.Project(folder, create=True)
    project.apply(view)
    days = {"2026-01-01T10:00:00Z": 0.0, "2026-01-01T11:00:00Z": 1.0, "2025-12-01T11:00:00Z": 6.0}
    project.load(visits, [
        {"user_id": 1, "page": "home", "spent": spent, "order": 2**53 + 1, "new": spent > 0, "at": at}
        for at, spent in days.items()
    ])  # fmt: skip
    other = {"user_id": 3, "page": "home", "spent": 1.0, "order": 7, "new": True, "at": "2026-01-01T11:00:00Z"}
    project.load(visits, [other])
    columns = {"user_id": [1, 3], "paid": [True, False], "since": pa.array([SINCE, None]), "points": [-3, 2**40]}
    pq.write_table(pa.table(columns), project.settings.folder / "accounts.parquet")
    project.drain()
    project.backfill("seen")
    return project


def asked(project: ms.Project, path: str) -> Any:
    parts = project.parts
    service = Service(
        "types",
        project.settings.data,
        log=parts.log,
        online=parts.online,
        registry=parts.registry,
        versions=parts.model_versions,
        clock=parts.clock,
    )

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.application), base_url="http://x") as client:
            return await client.get(path)

    with service:
        answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_json(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


def same(found: Any, wanted: Any) -> bool:
    """Equal, and of the same type: 1 is neither 1.0 nor true."""
    return type(found) is type(wanted) and found == wanted


def test_project_features_have_their_types(project: ms.Project) -> None:
    keys = [{"user_id": 1, "limit": 5, "member": False}, {"user_id": 2}]
    table = project.features("seen", keys, at=NOON)
    for row, wanted in zip(table.to_pylist(), (KNOWN, UNKNOWN), strict=True):
        assert {n: (row[n], v) for n, v in wanted.items() if not same(row[n], v)} == {}
    assert table.schema.field("account__since").type == pa.timestamp("us", "UTC")
    assert table.schema.field("often").type == pa.bool_()


@pytest.mark.parametrize(("query", "wanted"), [("user_id=1&limit=5&member=false", KNOWN), ("user_id=2", UNKNOWN)])
def test_features_over_http_have_their_types(project: ms.Project, query: str, wanted: dict[str, Any]) -> None:
    found = asked(project, f"/v1/views/seen/features?{query}&at={NOON}")["features"]
    told = {name: as_json(value) for name, value in wanted.items()}
    assert list(found) == list(view.columns)
    assert {n: (found[n], v) for n, v in told.items() if not same(found[n], v)} == {}


def test_a_number_that_is_not_whole_is_no_int64(project: ms.Project) -> None:
    assert asked(project, f"/v1/views/seen/features?user_id=3&at={NOON}")["features"]["half"] is None
    assert project.features("seen", [{"user_id": 3}], at=NOON)["half"].to_pylist() == [None]


def test_openapi_declares_what_is_answered(project: ms.Project) -> None:
    document = asked(project, "/openapi.json")
    answer = document["paths"]["/v1/views/seen/features"]["get"]["responses"]["200"]
    declared = answer["content"]["application/json"]["schema"]["properties"]["features"]
    json_types = {"int64": "integer", "float64": "number", "string": "string", "bool": "boolean", "timestamp": "string"}
    assert declared["required"] == sorted(view.columns)
    for name, kind in view.dtypes.items():
        told = declared["properties"][name]
        if (element := element_of(kind)) is not None:
            assert {"array", "null"} == set(told["type"])
            told, kind = told["items"], element
        assert {json_types[kind], "null"} <= set(told["type"])
