"""The service over HTTP: every route, what is answered to whatever is sent, and what stays in log and journal."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from tests.unit.serve.world import NOW, SHARDS, artefact, disputes, fill, model, payments, velocity, view

import millstream as ms
from millstream.buffer.codec.events import decode
from millstream.buffer.embedded.log import EmbeddedLog
from millstream.clock import SimulatedClock
from millstream.errors import StoreError
from millstream.registry import pinning
from millstream.registry.definitions import Registry
from millstream.serve.server import Service
from millstream.store.deadline import DeadlineStore
from millstream.store.lmdb.store import LmdbOnlineStore
from millstream.store.online import Answer, Ask, Fact, OnlineStore
from millstream.testing.adversarial_online import AdversarialOnlineStore
from millstream.train.versions import ModelVersions
from millstream.usage.layers import publish

ROW = {"user_id": 4, "payee_id": 2, "device_id": "d1", "amount": 12.5, "country": "de", "payment_id": "p1"}


class Served:
    """A service over real parts, asked without a socket."""

    def __init__(
        self, folder: Path, clock: SimulatedClock, elsewhere: Callable[[LmdbOnlineStore], OnlineStore] | None = None
    ) -> None:
        self.clock = clock
        self.online = LmdbOnlineStore(folder / "online")
        self.log = EmbeddedLog(folder / "log", clock, map_gib=1)
        for stream in (payments, disputes):
            self.log.create(stream.name, 2)
        url = f"sqlite:///{folder}/registry.db"
        self.registry = Registry(url, shards=SHARDS)
        self.registry.apply(self.registry.plan([model, payments, disputes]))
        self.versions = ModelVersions(url, folder / "models", clock, pin=pinning.pin)
        self.service = Service(
            "shop",
            folder,
            log=self.log,
            online=elsewhere(self.online) if elsewhere else self.online,
            registry=self.registry,
            versions=self.versions,
            clock=clock,
        )
        self.folder = folder

    def train(self, seed: int) -> None:
        pins = [one.id for one in self.registry.groups()]
        registered = self.versions.register("fraud", artefact(seed), pins=pins)
        self.versions.alias("fraud", "champion", registered.version)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.service.application, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def score(self, body: Any) -> httpx.Response:
        return self.ask("POST", "/v1/models/fraud/score", content=json.dumps(body))

    def captured(self) -> pa.Table:
        self.service.ship()
        records = self.log.read("captures.fraud", 0, 0, 10**6)
        return pa.concat_tables([pa.ipc.open_stream(payload).read_all() for payload in records.payloads])


@pytest.fixture
def served(tmp_path: Path, clock: SimulatedClock) -> Iterator[Served]:
    found = Served(tmp_path, clock)
    fill(found.online)
    found.train(0)
    with found.service:
        yield found


def error(answer: httpx.Response) -> dict[str, Any]:
    said: dict[str, Any] = answer.json()
    assert "Traceback" not in answer.text
    assert said["request_id"]
    found: dict[str, Any] = said["error"]
    assert set(found) == {"message", "field", "given", "expected", "hint"}
    return found


def test_one_row_is_scored_with_versions_and_ages(served: Served) -> None:
    answer = served.score(ROW)
    said = answer.json()
    assert answer.status_code == 200
    assert 0 < said["score"] < 1
    assert (said["model"], said["version"], said["degraded"]) == ("fraud", 1, False)
    assert said["at"] == "2023-11-14T22:13:20Z"
    assert said["groups"]["velocity"] == {"version": "velocity@1", "age_ms": 2000.0, "applied_ms": 1000.0}
    assert set(said["groups"]) == {"velocity", "habits", "together", "kyc", "payee__kyc"}
    assert "captured" not in said


def test_many_rows_are_scored_as_each_alone(served: Served) -> None:
    rows = [{**ROW, "user_id": u} for u in range(120)]
    said = served.score({"rows": rows}).json()
    assert [row["score"] for row in said["rows"][:20]] == [served.score(row).json()["score"] for row in rows[:20]]
    assert len({row["request_id"] for row in said["rows"]}) == 120
    assert said["rows"][0]["request_id"].startswith(said["request_id"])


def test_every_answer_is_captured_once_under_its_request_id(served: Served) -> None:
    one = served.score(ROW).json()
    many = served.score({"rows": [ROW, {**ROW, "user_id": None}]}).json()
    table = served.captured()
    scores = dict(zip(table["_request_id"].to_pylist(), table["_score"].to_pylist(), strict=True))
    assert scores == {row["request_id"]: row["score"] for row in (one, *many["rows"])}
    assert table["payment_id"].to_pylist() == ["p1"] * 3
    assert served.captured().num_rows == 3


def test_a_score_is_given_when_it_cannot_be_captured(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    answer = served.score(ROW)
    monkeypatch.undo()
    assert answer.status_code == 200
    assert answer.json()["captured"] is False
    assert "captured" not in served.score(ROW).json()
    assert "millstream_captures_lost_total 1" in served.ask("GET", "/metrics").text


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, "body"),
        (b"", 400, "body"),
        (b"\xff\xfe", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b'{"user_id": NaN}', 400, "body"),
        (b"5", 400, "rows"),
        (b"[]", 400, "rows"),
        (b'{"rows": {}}', 400, "rows"),
        (b'{"rows": [1]}', 400, "rows[0]"),
        (b"{}", 400, "user_id"),
        (json.dumps({**ROW, "amount": "12"}).encode(), 400, "amount"),
        (json.dumps({**ROW, "user_id": 4.5}).encode(), 400, "user_id"),
        (json.dumps({**ROW, "device_id": "\ud800"}).encode(), 400, ("device_id", "body")),
        (json.dumps({**ROW, "at": "soon"}).encode(), 400, "at"),
        (json.dumps({"rows": [ROW] * 10_001}).encode(), 413, "rows"),
        (b" " * (17 * 2**20), 413, "body"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(
    served: Served, body: bytes, status: int, field: str | tuple[str, ...]
) -> None:
    answer = served.ask("POST", "/v1/models/fraud/score", content=body)
    found = error(answer)
    assert answer.status_code == status
    assert found["field"] in field
    assert found["expected"] and found["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("POST", "/v1/models/frod/score", 404, "did you mean 'fraud'?"),
        ("GET", "/v1/views/frau/features", 404, "did you mean 'fraud'?"),
        ("POST", "/v1/streams/payment/events", 404, "did you mean 'payments'?"),
        ("POST", "/v1/models/x/labels", 404, "fraud"),
        ("GET", "/v1/models/fraud/score", 405, "POST"),
        ("DELETE", "/", 405, "GET"),
        ("GET", "/statu", 404, "did you mean '/status'?"),
        ("GET", "/openapi", 404, "did you mean '/openapi.json'?"),
        ("POST", "/v1/models/fraud/score/x", 404, "did you mean '/v1/models/fraud/score'?"),
        ("POST", "/v1/model/fraud/scores", 404, "did you mean '/v1/models/fraud/score'?"),
        ("POST", "/models/a-model-with-a-long-name/score", 404, "'/v1/models/a-model-with-a-long-name/score'?"),
        ("POST", "/v1/events/payments", 404, "did you mean '/v1/streams/payments/events'?"),
        ("GET", "/v1/views/fraud", 404, "did you mean '/v1/views/VIEW/features'?"),
        ("GET", "/../../etc/passwd", 404, "/openapi.json describes every path"),
        ("GET", "/x" * 5_000, 404, "/openapi.json describes every path"),
    ],
)
def test_a_wrong_path_or_method_is_told_what_there_is(
    served: Served, method: str, path: str, status: int, hint: str
) -> None:
    answer = served.ask(method, path, content=b"{}")
    assert answer.status_code == status
    assert hint in error(answer)["hint"]


def test_a_request_counts_itself_before_it_is_published(served: Served) -> None:
    fields = {"amount": "float64", "country": "string"}
    both = ms.FeatureView("both", request=fields, features=[velocity, velocity.with_request(prefix="now")])
    served.registry.apply(served.registry.plan([both]))
    served.service.deployments.refresh()
    path = "/v1/views/both/features?user_id=4&amount=12.5&country=de"
    said = served.ask("GET", path).json()["features"]
    assert said["now__velocity__count_1h"] == said["velocity__count_1h"] + 1
    assert said["now__velocity__amount_sum_1h"] == pytest.approx(said["velocity__amount_sum_1h"] + 12.5)
    said = served.ask("GET", "/v1/views/both/features?user_id=4").json()["features"]
    assert said["now__velocity__count_1h"] == said["velocity__count_1h"] + 1
    assert said["now__velocity__amount_sum_1h"] == said["velocity__amount_sum_1h"]


def test_features_are_read_by_query(served: Served) -> None:
    answer = served.ask("GET", "/v1/views/fraud/features?user_id=4&payee_id=2&device_id=d0&amount=52")
    said = answer.json()
    assert answer.status_code == 200
    assert list(said["features"]) == list(view.columns)
    assert said["features"]["kyc__tier"] == "t1"
    assert said["features"]["over_limit"] == 0.5
    assert said["features"]["country"] is None
    assert said["groups"]["kyc"]["version"] == "kyc@1"
    wrong = served.ask("GET", "/v1/views/fraud/features?user_id=x&payee_id=2&device_id=d0")
    assert (wrong.status_code, error(wrong)["field"]) == (400, "user_id")


def test_a_query_of_too_many_fields_is_refused(served: Served) -> None:
    many = "&".join(f"field{number}=1" for number in range(201))
    answer = served.ask("GET", f"/v1/views/fraud/features?{many}")
    assert (answer.status_code, error(answer)["field"]) == (413, "query")


def test_a_method_that_a_path_does_not_take_is_told_the_one_it_does(served: Served) -> None:
    assert served.ask("PUT", "/v1/models/fraud/score").headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/models/fraud/score", "/v1/models/fraud/labels", "/v1/streams/payments/events"])
def test_a_compressed_body_is_refused_and_not_taken_for_events(served: Served, path: str) -> None:
    body = gzip.compress(b'{"payment_id": "a"}\n' * 5)
    answer = served.ask("POST", path, content=body, headers={"content-encoding": "gzip"})
    assert (answer.status_code, error(answer)["field"]) == (415, "content-encoding")
    assert served.log.ends("payments") == [(0, 0), (0, 0)]
    plain = served.ask("POST", path, content=json.dumps(ROW), headers={"content-encoding": "identity"})
    assert plain.status_code < 300


def test_events_reach_the_log_in_each_form(served: Served) -> None:
    event = {"payment_id": "a", "user_id": 1, "paid_at": "2023-11-14T22:13:00Z"}
    for content, kind in (
        (json.dumps(event), "application/json"),
        (json.dumps([event, event]), "application/json"),
        (f"{json.dumps(event)}\n\n{json.dumps(event)}\n", "application/json"),
        (json.dumps(event), "application/x-ndjson"),
    ):
        answer = served.ask("POST", "/v1/streams/payments/events", content=content, headers={"content-type": kind})
        assert answer.status_code == 202
        for part in answer.json()["positions"]:
            found = served.log.read("payments", part["partition"], part["position"], 1)
            assert found.counts[0] == part["count"]
    records = [served.log.read("payments", partition, 0, 100) for partition in (0, 1)]
    decoded = decode(payments, records)
    assert (decoded.table.num_rows, decoded.dead) == (6, [])


def test_a_wrong_event_among_lines_becomes_a_dead_letter_and_the_rest_goes_on(served: Served) -> None:
    good = '{"payment_id": "a", "user_id": 1, "paid_at": "2023-11-14T22:13:00Z"}'
    body = f'{good}\n{{"payment_id": \n{{"user_id": "x", "paid_at": 1}}\n{good}'
    answer = served.ask("POST", "/v1/streams/payments/events", content=body)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 4)
    records = [served.log.read("payments", partition, 0, 100) for partition in (0, 1)]
    decoded = decode(payments, records)
    assert (decoded.table.num_rows, len(decoded.dead)) == (2, 2)


def test_a_body_without_events_is_refused(served: Served) -> None:
    for content in (b"7", b"{", b'"x"'):
        assert error(served.ask("POST", "/v1/streams/payments/events", content=content))["field"] == "body"
    assert served.ask("POST", "/v1/streams/payments/events", content=b"[]").json()["accepted"] == 0


@pytest.mark.parametrize(("column", "sent"), [("user_id", "usr_id"), ("paid_at", "paidAt"), ("device_id", "deviceid")])
def test_events_whose_key_or_time_is_misspelt_are_refused_as_send_refuses_them(
    served: Served, column: str, sent: str
) -> None:
    event = {"payment_id": "a", "user_id": 1, "device_id": "d", "paid_at": "2023-11-14T22:13:00Z"}
    wrong = json.dumps({sent if name == column else name: value for name, value in event.items()})
    for content in (wrong, f"[{wrong}, {wrong}]", f"{wrong}\n{wrong}\n"):
        answer = served.ask("POST", "/v1/streams/payments/events", content=content)
        assert answer.status_code == 400
        said = error(answer)
        assert f"no row has the column '{column}'" in said["message"]
        assert f"did you mean '{sent}'" in said["hint"]
    assert sum(following for _, following in served.log.ends("payments")) == 0
    for content in (f"[{wrong}, {json.dumps(event)}]", f"{wrong}\nno JSON\n", '{"payment_id": "a"}', f"[{wrong}, 7]"):
        assert served.ask("POST", "/v1/streams/payments/events", content=content).status_code == 202


def test_requests_that_wait_together_are_appended_together(served: Served) -> None:
    event = {"payment_id": "a", "user_id": 1, "paid_at": "2023-11-14T22:13:00Z"}

    async def together() -> list[httpx.Response]:
        transport = httpx.ASGITransport(served.service.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            asked = [
                client.post("/v1/streams/payments/events", json={**event, "payment_id": str(i)}) for i in range(50)
            ]
            return list(await asyncio.gather(*asked))

    answers = asyncio.run(together())
    places = [(part["partition"], part["position"]) for answer in answers for part in answer.json()["positions"]]
    assert len(set(places)) == 50
    assert sum(following for _, following in served.log.ends("payments")) == 50


def test_labels_are_events_of_the_labels_stream(served: Served) -> None:
    answer = served.ask("POST", "/v1/models/fraud/labels", json={"payment_id": "p1", "is_fraud": True, "paid_at": NOW})
    assert (answer.status_code, answer.json()["stream"]) == (202, "disputes")
    assert sum(following for _, following in served.log.ends("disputes")) == 1


def test_a_new_champion_answers_without_a_restart(served: Served) -> None:
    before = served.score(ROW).json()
    served.train(1)
    assert served.service.deployments.refresh()
    after = served.score(ROW).json()
    assert (before["version"], after["version"]) == (1, 2)
    assert before["score"] != after["score"]
    assert not served.service.deployments.refresh()


def test_a_champion_that_cannot_be_loaded_leaves_the_one_before(served: Served) -> None:
    served.train(1)
    for path in (served.folder / "models" / "fraud").iterdir():
        if path.name == served.versions.version("fraud", 2).digest:
            (path / "model.txt").write_text("damaged")
    served.service.deployments.refresh()
    assert served.score(ROW).json()["version"] == 1
    ready = served.ask("GET", "/readyz")
    assert ready.status_code == 503
    assert "fraud@2" in ready.json()["missing"]["model fraud"]


def test_a_damaged_capture_journal_stops_nothing_and_is_said(tmp_path: Path, clock: SimulatedClock) -> None:
    served = Served(tmp_path, clock)
    served.train(1)
    with served.service:
        left = served.folder / "journal" / "1-1"
        left.mkdir()
        (left / "lock").touch()
        (left / "00000001.closed").write_bytes(b"\xff damaged\n{}\n")
        served.service.ship()
        assert served.score(ROW).status_code == 200
        served.train(2)
        served.service.deployments.refresh()
        ready = served.ask("GET", "/readyz")
        assert (ready.status_code, ready.json()["damaged_captures"]) == (200, ["1-1/00000001.unreadable"])
        assert served.ask("GET", "/status").json()["damaged_captures"] == ["1-1/00000001.unreadable"]


def test_a_model_without_a_version_says_what_to_do(tmp_path: Path, clock: SimulatedClock) -> None:
    served = Served(tmp_path, clock)
    assert served.ask("GET", "/readyz").status_code == 503
    with served.service:
        answer = served.score(ROW)
        assert answer.status_code == 503
        assert "millstream train fraud" in error(answer)["hint"]
        assert served.ask("GET", "/readyz").status_code == 200
        features = served.ask("GET", "/v1/views/fraud/features?user_id=4&payee_id=2&device_id=d0").json()
        assert features["degraded"]
        assert features["groups"]["velocity"]["fallback"] == "nothing is ingested yet"


def test_an_unexpected_failure_is_named_by_its_request_id_only(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("secret inside")

    monkeypatch.setattr(served.online, "read", broken)
    answer = served.score(ROW)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["request_id"] in error(answer)["hint"]


def test_liveness_metrics_and_openapi(served: Served) -> None:
    served.score(ROW)
    assert served.ask("GET", "/livez").json() == {"alive": True}
    text = served.ask("GET", "/metrics").text
    assert 'millstream_requests_total{route="score",status="200"} 1' in text
    assert 'millstream_scored_total{model="fraud",version="1"} 1' in text
    document = served.ask("GET", "/openapi.json").json()
    row = document["paths"]["/v1/models/fraud/score"]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "anyOf"
    ][0]
    assert set(row["required"]) == {"user_id", "payee_id", "device_id", "amount", "country"}
    assert served.score(row["example"]).status_code == 200
    assert "/v1/streams/payments/events" in document["paths"]


def test_status_shows_layers_groups_models_and_streams(served: Served) -> None:
    publish(served.folder, "compute", {"rate": 120.5, "lag": 3, "dead": 2})
    served.score(ROW)
    said = served.ask("GET", "/status").json()
    layers = {layer["name"]: layer for layer in said["layers"]}
    assert (layers["compute"]["state"], layers["compute"]["rate"], layers["compute"]["facts"]) == (
        "up",
        120.5,
        {"dead": 2},
    )
    assert layers["ingest"]["state"] == "absent"
    groups = {group["id"]: group for group in said["groups"]}
    assert (groups["velocity@1"]["age"], groups["velocity@1"]["applied"]) == (2_000_000, 1_000_000)
    assert (said["models"][0]["name"], said["models"][0]["version"]) == ("fraud", 1)
    assert [stream["name"] for stream in said["streams"]] == ["disputes", "payments"]


def test_the_page_carries_the_facts_and_nothing_from_elsewhere(served: Served) -> None:
    publish(served.folder, "compute", {"note": "</script><script>alert(1)</script>"})
    answer = served.ask("GET", "/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "</script><script>alert" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text
    first = answer.text.split('id="first">')[1].split("</script>")[0]
    assert json.loads(first)["project"] == "shop"


SLOW = 0.3


class Elsewhere(AdversarialOnlineStore):
    """A store across a network: whatever it is asked takes 300 ms."""

    def read(self, asks: Sequence[Ask]) -> list[Answer]:
        time.sleep(SLOW)
        return self.embedded.read(asks)

    def facts(self, shards: Mapping[str, int]) -> dict[str, list[Fact]]:
        time.sleep(SLOW)
        return self.embedded.facts(shards)


def test_a_store_across_a_network_keeps_nobody_waiting_who_does_not_ask_it(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    served = Served(tmp_path, clock, lambda store: Elsewhere(store, seed=1))
    fill(served.online)
    served.train(1)

    async def scene() -> tuple[list[httpx.Response], float, list[float]]:
        transport = httpx.ASGITransport(served.service.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            begun = time.perf_counter()
            path, content = "/v1/views/fraud/features?user_id=4&payee_id=2&device_id=d1", json.dumps(ROW)
            slow = [client.post("/v1/models/fraud/score", content=content) for _ in range(8)]
            slow += [client.get(path), client.get("/readyz"), client.get("/status"), client.get("/")]
            asked = asyncio.gather(*slow)
            waits = []
            for quick in ("/livez", "/metrics", "/openapi.json") * 3:
                await asyncio.sleep(0.01)
                since = time.perf_counter()
                assert (await client.get(quick)).status_code == 200
                waits.append(time.perf_counter() - since)
            assert not asked.done()
            answers = await asked
            return answers, time.perf_counter() - begun, sorted(waits)

    with served.service:
        answers, took, waits = asyncio.run(scene())
        assert [answer.status_code for answer in answers] == [200] * 9 + [503] + [200] * 2
        assert "stepped_back" in answers[9].json()  # the states hold more than this log
        assert len({answer.json()["score"] for answer in answers[:8]}) == 1
        assert took < 6 * SLOW  # one after the other, the scores alone take 8
        assert waits[len(waits) // 2] < 0.05
        assert served.captured().num_rows == 8
        assert 'scored_total{model="fraud",version="1"} 8.0' in served.ask("GET", "/metrics").text


def test_a_store_across_a_network_that_hangs_costs_values_and_no_answers(tmp_path: Path, clock: SimulatedClock) -> None:
    goes_on = threading.Event()

    class Hanging(Elsewhere):
        def read(self, asks: Sequence[Ask]) -> list[Answer]:
            assert goes_on.wait(60)
            return self.embedded.read(asks)

    served = Served(tmp_path, clock, lambda store: DeadlineStore(Hanging(store, seed=1), 0.3))
    served.train(1)

    async def scene() -> list[httpx.Response]:
        transport = httpx.ASGITransport(served.service.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            content = json.dumps(ROW)
            return await asyncio.gather(*[client.post("/v1/models/fraud/score", content=content) for _ in range(70)])

    with served.service:
        begun = time.monotonic()
        answers = asyncio.run(scene())
        assert time.monotonic() - begun < 20
        assert {(answer.status_code, answer.json()["degraded"]) for answer in answers} == {(200, True)}
        goes_on.set()


def test_a_store_across_a_network_that_fails_is_said_of_the_values(tmp_path: Path, clock: SimulatedClock) -> None:
    class Unreachable(Elsewhere):
        def read(self, asks: Sequence[Ask]) -> list[Answer]:
            raise StoreError("The store's server does not answer.")

    served = Served(tmp_path, clock, lambda store: Unreachable(store, seed=1))
    served.train(1)
    with served.service:
        answer = served.score(ROW)
        assert (answer.status_code, answer.json()["degraded"]) == (200, True)
