"""Messages that are written by schemas of a registry, and what is said where a schema cannot be had."""

from __future__ import annotations

import base64
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from io import BytesIO
from typing import Any

import fastavro
import msgspec
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP
from tests.schema_registry import Registry

from millstream.errors import MillstreamError, SourceError
from millstream.settings import Settings
from millstream.sources.formats import Json
from millstream.sources.kafka import registry as registries
from millstream.sources.kafka.avro import Avro
from millstream.sources.kafka.backend import Kafka
from millstream.sources.kafka.proto_text import ProtoError, file_of
from millstream.sources.kafka.protobuf import Protobuf
from millstream.sources.kafka.registered import Language, Registered
from millstream.sources.kafka.registry import SchemaRegistry

CLICK = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "user_id", "type": "long"},
        {"name": "page", "type": ["null", "string"], "default": None},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["BUY", "SELL"]}},
        {"name": "raw", "type": "bytes"},
    ],
}
PROTO = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/timestamp.proto";
import "common.proto";
// What is before it.
message Outer { message Inner { sint64 n = 1; } }
message Click {
  option deprecated = false;
  int64 user_id = 1;
  optional string page = 2 [json_name = "p", deprecated = true];
  google.protobuf.Timestamp at = 3;
  map<string, int32> counts = 4;
  Kind kind = 5;
  oneof of { string text = 6; Outer.Inner inner = 7; }
  bytes raw = 8;
  repeated double prices = 9;
  reserved 20 to 30, 40; reserved "old";
  common.Money paid = 10;
  Click before = 11;
}
enum Kind { option allow_alias = true; NONE = 0; BIG = 1; LARGE = 1; }
service Clicks { rpc Get(Click) returns (Click) { option idempotency_level = NO_SIDE_EFFECTS; } }
"""
COMMON = 'syntax = "proto3"; package common; message Money { int64 cents = 1; }'


class Sent:
    """A message that has come, as far as its readers ask."""

    def __init__(self, value: bytes | None) -> None:
        self._value = value

    def value(self) -> bytes | None:
        return self._value


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def read(registry: Registry, language: Language, values: Sequence[bytes | None]) -> list[Any]:
    """What messages say."""
    form = Registered(SchemaRegistry(registry.url, 5, "clicks"), language, Json())
    found = form.read([Sent(one) for one in values])
    return [None if line is None else msgspec.json.decode(line) for line in found.payloads]


def headed(number: int, body: bytes) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + body


def avro(schema: Any, record: Any, number: int = 1) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return headed(number, out.getvalue())


def click(**fields: Any) -> dict[str, Any]:
    at = datetime.datetime(2026, 1, 5, 9, 0, 0, 7, tzinfo=datetime.UTC)
    return {"user_id": 2**60, "page": None, "price": Decimal("1.50"), "at": at, "kind": "BUY", "raw": b"x"} | fields


def test_records_of_avro_are_json_and_their_schema_is_asked_for_once(registry: Registry):
    registry.put(1, json.dumps(CLICK))
    found = read(registry, Avro(), [avro(CLICK, click()), avro(CLICK, click(page="/a")), None])
    plain = {
        "user_id": 2**60,
        "page": None,
        "price": 1.5,
        "at": "2026-01-05T09:00:00.000007Z",
        "kind": "BUY",
        "raw": "eA==",
    }
    assert found == [plain, plain | {"page": "/a"}, None]
    assert registry.asked == ["/schemas/ids/1"]


def test_a_schema_of_avro_may_refer_to_others(registry: Registry):
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "cents", "type": "long"}]}
    paid = {"type": "record", "name": "shop.Paid", "fields": [{"name": "paid", "type": "shop.Money"}]}
    registry.put_version("money", 3, json.dumps(money))
    registry.put(1, json.dumps(paid), references=[{"name": "shop.Money", "subject": "money", "version": 3}])
    whole = {**paid, "fields": [{"name": "paid", "type": money}]}
    assert read(registry, Avro(), [avro(whole, {"paid": {"cents": 5}})]) == [{"paid": {"cents": 5}}]


def test_records_of_protobuf_are_json(registry: Registry):
    registry.put_version("common", 1, COMMON, "PROTOBUF")
    registry.put(7, PROTO, "PROTOBUF", [{"name": "common.proto", "subject": "common", "version": 1}])
    pool = DescriptorPool()
    for file in (TIMESTAMP.serialized_pb, file_of("common.proto", COMMON).SerializeToString()):
        pool.AddSerializedFile(file)
    pool.AddSerializedFile(file_of("click.proto", PROTO).SerializeToString())
    made = GetMessageClass(pool.FindMessageTypeByName("shop.v1.Click"))(user_id=2**60, kind=1, raw=b"x", prices=[1.5])
    made.at.FromJsonString("2026-01-05T09:00:00Z")
    made.counts["a"] = 3
    made.inner.n = -4
    made.paid.cents = 5
    inner = GetMessageClass(pool.FindMessageTypeByName("shop.v1.Outer.Inner"))(n=-1)
    body, nested = made.SerializeToString(), inner.SerializeToString()
    found = read(
        registry, Protobuf(), [headed(7, b"\x02\x02" + body), headed(7, b"\x04\x00\x00" + nested), headed(7, b"\0")]
    )
    assert found[0] == {
        "user_id": 2**60, "page": None, "at": "2026-01-05T09:00:00Z", "counts": {"a": 3}, "kind": "BIG", "text": None,
        "inner": {"n": -4}, "raw": "eA==", "prices": [1.5], "paid": {"cents": 5}, "before": None,
    }  # fmt: skip
    assert found[1:] == [{"n": -1}, {}]


@pytest.mark.parametrize(
    "payload",
    [b"{}", b"\0\0\0", headed(1, b""), headed(1, b"\xff" * 20), avro(CLICK, click()) + b"more"],
)
def test_bytes_that_are_not_what_their_schema_says_are_text_that_says_so(registry: Registry, payload: bytes):
    registry.put(1, json.dumps(CLICK))
    [text, good] = read(registry, Avro(), [payload, avro(CLICK, click())])
    assert isinstance(text, str) and "cannot be read" in text and payload.hex()[:20] in text
    assert good["user_id"] == 2**60


@pytest.mark.parametrize("payload", [headed(1, b""), headed(1, b"\x08\x06\x06\x06\x06\xff"), headed(1, b"\x02\x0a")])
def test_bytes_that_are_no_protobuf_are_text_that_says_so(registry: Registry, payload: bytes):
    registry.put(1, COMMON, "PROTOBUF")
    assert "cannot be read" in read(registry, Protobuf(), [payload])[0]


def test_what_comes_before_a_schema_that_nobody_knows_is_read_and_then_it_is_said(registry: Registry, monkeypatch):
    registry.put(1, json.dumps(CLICK))
    messages = [avro(CLICK, click()), avro(CLICK, click(), 9), avro(CLICK, click())]
    assert len(read(registry, Avro(), messages)) == 1
    with pytest.raises(SourceError, match="Stream 'clicks': schema 9 is not in the registry at 'http") as told:
        read(registry, Avro(), messages[1:])
    assert told.value.hint is not None
    monkeypatch.setattr(registries, "AGAIN", 0.0)
    registry.put(9, json.dumps(CLICK))
    assert len(read(registry, Avro(), messages[1:])) == 2


def test_a_registry_that_refuses_is_not_asked_at_every_turn(registry: Registry):
    asks = SchemaRegistry(registry.url, 5, "clicks")
    for _ in range(3):
        with pytest.raises(SourceError, match="schema 4 is not in the registry"):
            asks.schema(4)
    assert registry.asked == ["/schemas/ids/4"]


def test_a_registry_may_want_to_know_who_asks(monkeypatch, tmp_path):
    wanted = "Basic " + base64.b64encode(b"ada:grist-7").decode()
    monkeypatch.setenv("REGISTRY_PASSWORD", "grist-7")
    with Registry(wanted) as registry:
        registry.put(1, json.dumps(CLICK))
        with pytest.raises(SourceError, match=r"does not let us in \(401\)"):
            SchemaRegistry(registry.url, 5, "clicks").schema(1)
        known = SchemaRegistry(registry.url, 5, "clicks", ("ada", "grist-7"))
        assert known.schema(1).kind == "AVRO"


def test_a_registry_that_is_away_or_something_else_is_said(registry: Registry):
    with pytest.raises(SourceError, match=r"has not answered as one: .*refused"):
        SchemaRegistry("http://127.0.0.1:1", 1, "clicks").schema(1)
    registry.schemas["/schemas/ids/1"] = {"name": "something else"}
    with pytest.raises(SourceError, match="has not answered as one"):
        SchemaRegistry(registry.url, 1, "clicks").schema(1)


def test_a_schema_in_another_language_or_that_is_broken_is_said(registry: Registry):
    registry.put(1, COMMON, "PROTOBUF")
    registry.put(2, '{"type": "record"}')
    registry.put(3, "message {", "PROTOBUF")
    for language, number, said in (
        (Avro(), 1, "is PROTOBUF"),
        (Avro(), 2, "cannot be read"),
        (Protobuf(), 3, "line 1"),
    ):
        with pytest.raises(SourceError, match=said):
            read(registry, language, [headed(number, b"")])


def test_a_package_that_a_format_lacks_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fastavro", None)
    monkeypatch.delitem(sys.modules, "millstream.sources.kafka.avro")
    bound = Kafka(servers="127.0.0.1:1", topic="clicks", format="avro", registry="http://127.0.0.1:1")
    with pytest.raises(MillstreamError, match="needs the package 'fastavro'") as told:
        bound.open(Settings(folder=tmp_path), None, "clicks")
    assert told.value.hint == "pip install 'millstream[avro]'"


@pytest.mark.parametrize(
    "text", ["message A { int64 a }", "message A {", "message A { map<int64> a = 1; }", "enum A { B; }"]
)
def test_a_text_that_is_no_proto_file_is_refused(text: str):
    with pytest.raises(ProtoError, match="line 1"):
        file_of("a.proto", text)
