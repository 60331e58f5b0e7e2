"""The registry: plans a person can read, versions of feature groups, pins, and many processes at once."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.definitions.serialise import to_dict
from millstream.errors import CorruptState, NotFound, PlanError, StoreError
from millstream.store.registry import Registry

SCHEMA = {
    "payment_id": "string",
    "user_id": "int64",
    "payee_id": "int64",
    "amount": "float64",
    "country": "string",
    "paid_at": "timestamp",
}
user = ms.Entity("user", keys={"user_id": "int64"})


@ms.on_demand(returns="float64")
def ratio(amount, habits__amount_mean_30d):
    return amount / habits__amount_mean_30d


def world(
    *,
    stream: dict[str, Any] | None = None,
    group: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    view_features: Any = None,
) -> dict[str, Any]:
    """A small project, by name; each argument replaces something in it."""
    payments = ms.EventStream(
        "payments", **({"schema": SCHEMA, "time": "paid_at", "deduplicate": "payment_id"} | (stream or {}))
    )
    disputes = ms.EventStream(
        "disputes", schema={"payment_id": "string", "is_fraud": "bool", "at": "timestamp"}, time="at"
    )
    features = [ms.Mean("amount", over="30d"), ms.Count(over=["1h", "24h"])]
    habits = ms.StreamFeatureGroup(
        "habits", **({"entity": user, "source": payments, "features": features} | (group or {}))
    )
    accounts = ms.Table("accounts", path="accounts.parquet", schema={"user_id": "int64", "tier": "string"})
    kyc = ms.BatchFeatureGroup(
        "kyc", entity=user, sources=[accounts], every="0 2 * * *", query="select user_id, tier from accounts"
    )
    view = ms.FeatureView(
        "fraud", request={"amount": "float64"}, features=view_features or [habits, kyc["tier"], ratio]
    )
    model = ms.Model(
        "fraud", view=view, examples=payments, label=ms.Label(disputes, "is_fraud", on="payment_id", absent=False)
    )
    found = {"payments": payments, "disputes": disputes, "habits": habits, "kyc": kyc, "view": view, "model": model}
    return {name: one for name, one in found.items() if name not in drop}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/registry.db"


@pytest.fixture
def registry(url: str) -> Registry:
    return Registry(url, shards=2)


def applied(registry: Registry, **changes: Any) -> Registry:
    registry.apply(registry.plan(world(**changes).values(), complete=True))
    return registry


def kinds(plan: Any) -> dict[str, str]:
    return {f"{change.thing} {change.name}": change.kind for change in plan.changes}


def test_planning_writes_nothing(registry: Registry, tmp_path: Path) -> None:
    assert registry.plan(world().values()).changes
    assert registry.groups() == registry.streams() == []
    assert registry.revision() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_first_plan_names_everything_and_what_it_computes(registry: Registry) -> None:
    plan = registry.plan([world()["model"]])
    assert [f"{change.thing} {change.name}" for change in plan.changes] == [
        "entity user", "stream payments", "stream disputes", "table accounts", "group habits", "group kyc",
        "view fraud", "model fraud",
    ]  # fmt: skip
    text = plan.text()
    assert text.startswith("8 to add\n")
    assert "+ group habits@1" in text
    assert "    features: amount_mean_30d, count_1h, count_24h" in text
    assert "    computes all history of payments" in text
    assert "    runs past intervals over accounts" in text
    assert "bytes per key" in text


def test_what_was_applied_is_read_back_equal(registry: Registry) -> None:
    declared = world()
    applied(registry)
    assert [to_dict(one) for one in registry.streams()] == [to_dict(declared[n]) for n in ("disputes", "payments")]
    assert to_dict(registry.view("fraud")) == to_dict(declared["view"])
    assert to_dict(registry.model("fraud")) == to_dict(declared["model"])
    assert [table.name for table in registry.tables()] == ["accounts"]
    assert registry.views()[0].columns == declared["view"].columns
    found = registry.group("habits")
    assert (found.id, found.state, found.default, found.shards) == ("habits@1", "new", True, 2)
    assert found.schema == {"amount_mean_30d": "float64", "count_1h": "int64", "count_24h": "int64"}
    assert registry.group("kyc").schema == {"tier": "string"}
    assert registry.plan(declared.values(), complete=True).changes == ()
    assert registry.plan(declared.values(), complete=True).text() == ""


@pytest.mark.parametrize("thing", ["stream", "view", "model", "group"])
def test_an_unknown_name_is_answered_with_the_nearest(registry: Registry, thing: str) -> None:
    applied(registry)
    with pytest.raises(NotFound) as raised:
        getattr(registry, thing)({"stream": "payment", "view": "frod", "model": "frod", "group": "habit"}[thing])
    assert "did you mean" in str(raised.value)


def test_words_change_no_version(registry: Registry) -> None:
    applied(registry)
    plan = registry.plan(world(group={"owner": "risk", "description": "habits"}).values(), complete=True)
    assert kinds(plan) == {"group habits": "change"}
    assert plan.changes[0].recompute is None
    assert "owner: none -> risk" in plan.text()
    registry.apply(plan)
    assert [version.id for version in registry.groups()] == ["habits@1", "kyc@1"]
    assert registry.group("habits").group.owner == "risk"


def test_a_changed_group_is_a_new_version_that_is_read_once_it_is_there(registry: Registry) -> None:
    applied(registry)
    registry.set_state("habits@1", "live")
    changed = world(
        group={"where": "amount > 0", "features": [ms.Mean("amount", over="30d"), ms.Max("amount", over="1h")]}
    )
    plan = registry.plan(changed.values(), complete=True)
    [change] = [change for change in plan.changes if change.thing == "group"]
    assert set(change.detail) == {
        "feature - count_1h",
        "feature - count_24h",
        "feature + amount_max_1h",
        "where: none -> amount > 0",
    }
    assert change.recompute == "computes all history of payments; habits@1 is read until that is done"
    assert "~ group habits@2" in plan.text()
    registry.apply(plan)
    assert registry.group("habits").id == "habits@1"
    assert registry.group("habits", 2).state == "new"
    registry.set_state("habits@2", "live")
    registry.default("habits@2")
    assert registry.group("habits").id == "habits@2"
    assert [version.id for version in registry.groups("retired")] == ["habits@1"]
    assert [version.id for version in registry.groups()] == ["habits@2", "kyc@1"]


def test_a_change_that_was_never_read_is_retired_by_the_next(registry: Registry) -> None:
    applied(registry)
    applied(registry, group={"where": "amount > 1"})
    applied(registry, group={"where": "amount > 2"})
    assert [(version.id, version.state) for version in registry.groups()] == [
        ("habits@1", "new"), ("habits@3", "new"), ("kyc@1", "new"),
    ]  # fmt: skip


def test_going_back_to_a_version_that_is_there_computes_nothing(registry: Registry) -> None:
    applied(registry)
    registry.set_state("habits@1", "live")
    registry.pin("fraud@1", ["habits@1"])
    applied(registry, group={"where": "amount > 1"})
    registry.set_state("habits@2", "live")
    registry.default("habits@2")
    plan = registry.plan(world().values(), complete=True)
    [change] = plan.changes
    assert (change.version, change.recompute) == (1, None)
    registry.apply(plan)
    assert registry.group("habits").id == "habits@1"
    assert [version.id for version in registry.groups("retired")] == ["habits@2"]


@pytest.mark.parametrize(
    ("change", "makes_a_version", "breaks"),
    [
        ({"schema": SCHEMA | {"channel": "string"}}, False, False),
        ({"retention": "30d"}, False, False),
        ({"future": "1h"}, True, False),
        ({"deduplicate": None}, True, False),
        ({"schema": {name: kind for name, kind in SCHEMA.items() if name != "country"}}, False, True),
        ({"schema": SCHEMA | {"country": "int64"}}, False, True),
    ],
)
def test_a_change_of_a_stream_recomputes_and_breaks_what_it_must(
    registry: Registry, change: dict[str, Any], makes_a_version: bool, breaks: bool
) -> None:
    applied(registry)
    if "schema" in change and not makes_a_version:
        assert "country" not in str(world()["habits"].features)
    plan = registry.plan(world(stream=change).values(), complete=True)
    assert kinds(plan)["stream payments"] == ("breaking" if breaks else "change")
    assert ("group habits" in kinds(plan)) == makes_a_version
    if not breaks:
        registry.apply(plan)
        assert registry.plan(world(stream=change).values(), complete=True).changes == ()
        return
    before = registry.revision()
    with pytest.raises(PlanError) as raised:
        registry.apply(plan)
    assert "country" in raised.value.message
    assert registry.revision() == before
    registry.apply(plan, allow_breaking=True)
    assert registry.plan(world(stream=change).values(), complete=True).changes == ()


def test_only_a_complete_plan_removes(registry: Registry) -> None:
    applied(registry)
    fewer = world(drop=("model", "view", "kyc"))
    assert registry.plan(fewer.values()).changes == ()
    plan = registry.plan(fewer.values(), complete=True)
    assert kinds(plan) == {
        "model fraud": "remove", "view fraud": "remove", "group kyc": "remove", "table accounts": "remove",
    }  # fmt: skip
    assert "- group kyc" in plan.text()
    registry.apply(plan)
    assert registry.models() == registry.views() == registry.tables() == []
    assert [version.id for version in registry.groups()] == ["habits@1"]
    with pytest.raises(NotFound):
        registry.group("kyc")
    applied(registry)
    assert registry.group("kyc").id == "kyc@2"


def test_a_group_that_a_model_pins_is_not_removed_unless_asked(registry: Registry) -> None:
    applied(registry)
    registry.pin("fraud@3", ["habits@1", "kyc@1"])
    assert registry.pins("habits@1") == ["fraud@3"]
    plan = registry.plan(world(drop=("model", "view", "habits")).values(), complete=True)
    assert kinds(plan)["group habits"] == "breaking"
    assert "breaks: model version 'fraud@3' reads habits@1" in plan.text()
    with pytest.raises(PlanError, match="fraud@3"):
        registry.apply(plan)
    assert registry.group("habits").id == "habits@1"
    registry.apply(plan, allow_breaking=True)
    assert "habits" not in {version.group.name for version in registry.groups()}


def test_a_view_must_keep_what_a_trained_model_reads(registry: Registry) -> None:
    applied(registry)
    habits, kyc = world()["habits"], world()["kyc"]
    fewer = {"view_features": [habits["amount_mean_30d"], kyc["tier"].default("none"), ratio]}
    assert kinds(registry.plan(world(**fewer).values(), complete=True)) == {"view fraud": "change"}
    registry.pin("fraud@1", ["habits@1"])
    plan = registry.plan(world(**fewer).values(), complete=True)
    [change] = plan.breaking
    assert "model version 'fraud@1': habits__count_1h is gone" in change.breaks
    assert "model version 'fraud@1': kyc__tier has another default" in change.breaks
    more = {"view_features": [habits, kyc["tier"], ratio, habits.on(user_id="payee_id", prefix="payee")]}
    assert kinds(registry.plan(world(**more).values(), complete=True)) == {"view fraud": "change"}


def test_a_feature_that_a_view_outside_the_plan_reads_is_not_taken_away_unless_asked(registry: Registry) -> None:
    applied(registry)
    plan = registry.plan([world(group={"features": [ms.Mean("amount", over="30d")]}, drop=("model", "view"))["habits"]])
    assert "view 'fraud' reads habits__count_1h, which is gone" in plan.text()
    with pytest.raises(PlanError):
        registry.apply(plan)


def test_a_pinned_version_outlives_its_successor_until_it_is_let_go(registry: Registry) -> None:
    applied(registry)
    registry.pin("fraud@1", ["habits@1"])
    applied(registry, group={"where": "amount > 1"})
    registry.default("habits@2")
    assert [version.id for version in registry.groups()] == ["habits@1", "habits@2", "kyc@1"]
    registry.pin("fraud@1", ["habits@2"])
    assert registry.pins("habits@1") == []
    assert [version.id for version in registry.groups("retired")] == ["habits@1"]
    with pytest.raises(StoreError, match="retired"):
        registry.pin("fraud@2", ["habits@1"])
    with pytest.raises(NotFound, match="habits@9"):
        registry.pin("fraud@2", ["habits@9"])
    with pytest.raises(StoreError, match="did you mean 'live'"):
        registry.set_state("habits@2", "alive")


def test_a_plan_that_is_out_of_date_is_refused(registry: Registry) -> None:
    stale = registry.plan(world().values())
    applied(registry)
    with pytest.raises(PlanError, match="has changed"):
        registry.apply(stale)


def test_two_definitions_of_one_name_are_refused(registry: Registry) -> None:
    with pytest.raises(PlanError) as raised:
        registry.plan([world()["model"], world(stream={"within": "1h"})["payments"]])
    assert "Two different streams are named 'payments' (within: 24h -> 1h)" in raised.value.message.replace("1d", "24h")
    with pytest.raises(PlanError, match="expected a definition"):
        registry.plan(["payments"])


def test_types_that_were_read_from_tables_reach_the_version_the_view_and_the_model(registry: Registry) -> None:
    accounts = ms.Table("accounts", path="accounts.parquet")
    kyc = ms.BatchFeatureGroup(
        "kyc", entity=user, sources=[accounts], every="24h", query="select user_id, tier from accounts"
    )
    view = ms.FeatureView("kyc", request={}, features=[kyc])
    registry.apply(registry.plan([view, kyc.resolved({"tier": "string"})]))
    assert registry.group("kyc").schema == {"tier": "string"}
    assert dict(registry.view("kyc").dtypes) == {"kyc__tier": "string"}
    assert registry.plan([view, kyc.resolved({"tier": "string"})]).changes == ()
    plan = registry.plan([view, kyc.resolved({"tier": "int64"})])
    assert "group kyc" in kinds(plan)
    assert "feature tier: string -> int64" in plan.text()
    registry.apply(plan)
    assert registry.group("kyc", 2).schema == {"tier": "int64"}


@pytest.mark.parametrize("damage", ["file", "body", "format"])
def test_a_damaged_registry_is_one_sentence(registry: Registry, url: str, damage: str) -> None:
    import sqlite3

    applied(registry)
    path = url.removeprefix("sqlite:///")
    if damage == "file":
        for place in Path(path).parent.iterdir():
            place.write_bytes(b"garbage " * 1000)
    else:
        changes = {
            "body": "update registry_definitions set body = '{\"$kind\": 1'",
            "format": "update registry_facts set value = 9",
        }
        with sqlite3.connect(path) as connection:
            connection.execute(changes[damage])
    again = Registry(url)
    for read in (again.streams, lambda: again.plan(world().values())):
        with pytest.raises(CorruptState) as raised:
            read()
        assert path in raised.value.message
        assert "\n" not in raised.value.message
        assert raised.value.hint


def test_a_wrong_url_is_one_sentence() -> None:
    with pytest.raises(StoreError, match="not an SQLAlchemy URL"):
        Registry("nonsense")


def test_processes_that_start_together_agree(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=_use, args=(url, number)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    registry = Registry(url)
    assert registry.group("habits").id == "habits@1"
    assert len(registry.groups()) == 2
    assert len(registry.pins("habits@1")) == 30


def _use(url: str, number: int) -> None:
    registry = Registry(url)
    while True:
        try:
            registry.apply(registry.plan(world().values()))
            break
        except PlanError:
            continue
    for count in range(10):
        registry.pin(f"fraud@{number * 10 + count}", ["habits@1"])
