"""An event that is taken while the clock is wrong spoils nothing that its key, or another one, has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.cli.checks import checked
from millstream.clock import FileClock
from millstream.testing.shards import pairs

MINUTE = 60_000_000
DAY = 1440 * MINUTE
NOW = 1_767_258_000_000_000  # 2026-01-01 09:00 UTC

user = ms.Entity("user", keys={"user_id": "int64"})
payments = ms.EventStream("payments", time="at", schema={"user_id": "int64", "amount": "float64", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=payments, features=[
    ms.Count(over=["1m", "5m", "1h", "24h", "7d"]), ms.Sum("amount", over=["5m", "24h"]), ms.Max("amount", over="1h"),
    ms.Last("amount", over="7d")])  # fmt: skip
view = ms.FeatureView("pace", features=[pace])


class Shop:
    """A project whose clock can be set wrong."""

    def __init__(self, folder: Path) -> None:
        self.project = ms.Project(folder, create=True)
        self.project.settings.data.mkdir(exist_ok=True)
        self.clock = FileClock(self.project.settings.data / "clock.json")
        self.clock.set(NOW)
        self.project.apply(view)
        self.events: list[dict[str, Any]] = []

    def send(self, at: int, users: tuple[int, ...], *, drain: bool = True) -> None:
        for number in users:
            event = {"user_id": number, "amount": 1.0 + len(self.events), "at": at}
            self.project.send(payments, [event])
            self.events.append(event)
        if drain:
            self.project.drain()

    def shop(self, minutes: int) -> None:
        """Some minutes of ordinary trade, an event in each."""
        for _ in range(minutes):
            self.clock.advance(MINUTE)
            self.send(self.clock.now() - 1_300_000, (1, 2), drain=self.clock.now() % (3 * MINUTE) == 0)
        self.project.drain()

    def differences(self) -> list[tuple[Any, Any]]:
        """What is served now, where it is not what the events say."""
        keys = [{"user_id": number} for number in (1, 2)]
        found = self.project.features(view, keys)
        pure = ms.compute(pace, {payments: self.events}, [{**key, "at": self.clock.now()} for key in keys])
        rows = zip(found.to_pylist(), pure.select(found.column_names).to_pylist(), strict=True)
        return [(one, other) for one, other in rows if one != other]


@pytest.mark.parametrize("applied", ["while it is ahead", "when it is right again"])
@pytest.mark.parametrize("producer", ["right", "ahead"])
def test_an_event_taken_while_the_clock_was_a_day_ahead(tmp_path: Path, producer: str, applied: str) -> None:
    shop = Shop(tmp_path)
    shop.shop(40)
    right = shop.clock.now()
    shop.clock.advance(DAY)
    event = shop.clock.now() if producer == "ahead" else right
    shop.send(event, (1,), drain=applied == "while it is ahead")
    shop.clock.set(right)
    if applied == "while it is ahead":
        said = {check.name: check for check in checked(tmp_path)}["clock"]
        assert not said.fine
        assert "2026-01-02 09:40:00" in said.found
    for minutes in (1, 1, 5, 30):
        shop.shop(minutes)
        assert shop.differences() == []
    shop.project.close()
    again = ms.Project(tmp_path)
    assert (
        again.features(view, [{"user_id": 1}]).to_pylist() == shop.project.features(view, [{"user_id": 1}]).to_pylist()
    )
    shop.project.sync()
    assert [report.disagreeing for report in shop.project.parts.layers.syncer().step()] == [0]


def test_a_key_that_comes_back_after_a_quiet_week_is_read_and_pruned_as_ever(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.shop(10)
    shop.clock.advance(7 * DAY)
    for minutes in (1, 1, 10):
        shop.shop(minutes)
        assert shop.differences() == []
    states = [one for shard in range(4) for one in pairs(shop.project.parts.online, "pace@1", shard)]
    assert max(len(state) for _, state in states) < 6_000
