"""Captures are read back once each, wherever they are, and whatever the log lets go of meanwhile."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.monitor.shop import Shop, orders, user

import millstream as ms
from millstream.errors import RequestError
from millstream.history.captures import capture_of, captured


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.begin(ms.StreamFeatureGroup("spend", entity=user, source=orders, features=[ms.Count(over="1h")]))
    return shop


def test_the_newest_captures_are_the_same_wherever_they_are(shop: Shop) -> None:
    parts = shop.project.parts
    for number in range(9):
        shop.clock.advance(1_000)
        shop.score()
        shop.project.sync()  # ships and archives one more
        if number == 4:
            trim(shop)
    trim(shop)
    shop.clock.advance(1_000)
    shop.score()
    shop.project.verify(sample=1)
    for newest in (1, 2, 5, 9, 10, 11, None):
        found = captured(parts.log, parts.offline, "risk", newest)
        assert found["_request_id"].to_pylist() == shop.asked[-(newest or 0) :][-10:]
    for request in shop.asked:
        assert capture_of(parts.log, parts.offline, "risk", request)["_request_id"].to_pylist() == [request]
    assert capture_of(parts.log, parts.offline, "risk", "none").num_rows == 0


def trim(shop: Shop) -> None:
    """Let the log forget the captures that are archived, as retention does a week later."""
    log = shop.project.parts.log
    log.trim("captures.risk", 0, log.ends("captures.risk")[0][1])


@pytest.mark.parametrize("newest", [None, 2, 50])
def test_a_trim_between_two_looks_loses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, newest: int | None
) -> None:
    parts = shop.project.parts
    for _ in range(4):
        shop.clock.advance(1_000)
        shop.score()
        shop.project.verify(sample=1)
    read, trimmed = parts.log.read, list[bool]()

    def late(topic: str, *place: Any) -> Any:
        if topic == "captures.risk" and not trimmed:
            trimmed.append(True)
            monkeypatch.undo()
            shop.project.sync()
            trim(shop)
        return read(topic, *place)

    monkeypatch.setattr(parts.log, "read", late)
    found = captured(parts.log, parts.offline, "risk", newest)
    assert trimmed
    assert found["_request_id"].to_pylist() == shop.asked[-(newest or 50) :]


@pytest.mark.parametrize("sample", [0, -1, -(10**12), math.nan, 1.5, True, "10", np.float64(3)])
def test_a_sample_that_checks_nothing_is_refused(shop: Shop, sample: Any) -> None:
    for look in (shop.project.verify, lambda sample: shop.project.parity("risk", sample=sample)):
        with pytest.raises(RequestError, match="1 or more"):
            look(sample=sample)


def test_numbers_of_numpy_are_numbers(shop: Shop) -> None:
    shop.score()
    assert shop.project.verify(sample=np.int64(1)).requests == 1


def test_captures_that_came_twice_count_once(shop: Shop) -> None:
    parts = shop.project.parts
    for _ in range(3):
        shop.clock.advance(1_000)
        shop.score()
    shop.project.verify(sample=1)
    again = pa.ipc.open_stream(parts.log.read("captures.risk", 0, 0, 1).payloads[0]).read_all()
    parts.log.append("captures.risk", 0, type_of(again))
    shop.project.sync()
    trim(shop)
    for newest in (1, 2, 3, 4, None):
        found = captured(parts.log, parts.offline, "risk", newest)
        assert found["_request_id"].to_pylist() == shop.asked[-(newest or 3) :][-3:]


def type_of(table: pa.Table) -> Any:
    from millstream.buffer.codec.write import encode_frame

    return encode_frame(table)[0]
