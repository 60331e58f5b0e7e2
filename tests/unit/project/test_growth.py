"""A project whose streams get more partitions: by a definition that says more, or by whoever runs the log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.unit.monitor.shop import Shop, holds, user

import millstream as ms
from millstream.errors import PlanError
from millstream.project.repair import repair

COLUMNS = {"user_id": "int64", "payee_id": "int64", "amount": "float64", "at": "timestamp"}


def orders(partitions: int | None) -> ms.EventStream:
    return ms.EventStream("orders", time="at", schema=COLUMNS, partition_by="user_id", partitions=partitions)


def spend(partitions: int | None) -> ms.StreamFeatureGroup:
    features = [ms.Count(over="1h"), ms.Sum("amount", over="1h")]
    return ms.StreamFeatureGroup("spend", entity=user, source=orders(partitions), features=features)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.begin(spend(2), request={"amount": "float64"})
    return shop


def counted(project: ms.Project) -> list[int]:
    return [row["spend__count_1h"] for row in project.features("risk", [{"user_id": n} for n in range(5)]).to_pylist()]


def test_a_stream_that_is_declared_with_more_partitions_grows(shop: Shop) -> None:
    shop.round()
    topics = shop.project.parts.log.topics
    assert topics()["orders"] == 2
    (change,) = shop.project.plan(orders(5)).changes
    assert (change.kind, change.detail) == ("change", ("partitions: 2 -> 5",))
    before = shop.project.parts.registry.group("spend").id
    shop.project.apply(orders(5))
    assert topics()["orders"] == 5
    assert shop.project.parts.registry.group("spend").id == before
    assert shop.project.apply(orders(5)) == []
    shop.round()
    assert topics()["dead.orders"] == 5
    assert topics()["features.spend@1"] == shop.project.parts.settings.shards
    assert counted(shop.project) == [22, 24, 24, 24, 24]
    with pytest.raises(PlanError, match="partitions was given 3; its topic has 5, and may get more, never fewer"):
        shop.project.apply(orders(3))
    shop.project.apply(orders(None))
    assert topics()["orders"] == 5


def test_what_was_served_before_and_after_growth_is_verified(shop: Shop) -> None:
    asked = shop.round()
    shop.project.sync()
    for partitions in (3, 6):
        shop.project.parts.log.grow("orders", partitions)
        asked += shop.round()
    holds(shop.project, 18)
    shop.project.sync()
    asked += shop.round()
    holds(shop.project, 24)
    assert shop.project.explain(asked[0], "spend__count_1h").events.num_rows == 11
    assert shop.project.explain(asked[-6], "spend__count_1h").events.num_rows == 44
    (stream,) = [one for one in shop.project.status()["streams"] if one["name"] == "orders"]
    assert (stream["partitions"], stream["events"]) == (6, 4 * 59)


def test_a_group_that_is_declared_after_growth_is_folded_from_all_partitions(shop: Shop) -> None:
    shop.round()
    shop.project.parts.log.grow("orders", 6)
    shop.round()
    most = ms.StreamFeatureGroup("most", entity=user, source=orders(6), features=[ms.Count(over="1h")])
    view = ms.FeatureView("most", features=[most])
    shop.project.apply(view)
    shop.round()
    shop.project.backfill()
    rows = shop.project.features(view, [{"user_id": n} for n in range(5)])
    assert rows["most__count_1h"].to_pylist() == counted(shop.project) == [33, 36, 36, 36, 36]
    holds(shop.project, 18)


def test_states_are_built_anew_of_the_partitions_that_have_come_too(shop: Shop) -> None:
    shop.round()
    shop.project.parts.log.grow("orders", 6)
    shop.round()
    assert shop.project.backfill("spend") == ["spend@1"]
    shop.round()
    assert counted(shop.project) == [33, 36, 36, 36, 36]
    holds(shop.project, 18)


def test_a_log_of_before_growth_is_seen_and_mended(shop: Shop) -> None:
    shop.round()
    folder = shop.project.parts.settings.folder
    shop.project.close()
    shutil.copytree(folder / ".millstream" / "log", folder / "copy")
    project = ms.Project(folder)
    project.parts.log.grow("orders", 6)
    shop.project = project
    shop.round()
    project.sync()
    project.close()
    shutil.rmtree(folder / ".millstream" / "log")
    shutil.copytree(folder / "copy", folder / ".millstream" / "log")
    project = shop.project = ms.Project(folder)
    assert project.status()["stepped_back"]
    repaired = repair(project)
    assert repaired.rebuilt == ["spend@1"]
    assert project.parts.log.topics()["orders"] == 6
    assert project.status()["stepped_back"] == []
    shop.round()
    assert counted(project) == [33, 36, 36, 36, 36]
