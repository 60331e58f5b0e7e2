"""The registry: plans a person can read, versions of feature groups, pins, and many processes at once."""

import multiprocessing
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import millstream as ms
from millstream.definitions.on_demand import OnDemandFeature
from millstream.definitions.serialise import fingerprint, from_dict, to_dict
from millstream.errors import CorruptState, DiskFull, NotFound, PlanError, StoreError
from millstream.registry.database import Database
from millstream.registry.definitions import Registry
from millstream.registry.tables import definitions, group_versions, pins
from millstream.testing.servers.postgresql import PASSWORD, QUOTED, USER, PostgreSQL

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
    registry.go_live("habits@1")
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
    assert registry.go_live("habits@2")
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
    registry.go_live("habits@1")
    registry.pin("fraud@1", ["habits@1"])
    applied(registry, group={"where": "amount > 1"})
    assert registry.go_live("habits@2")
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


@pytest.mark.parametrize("state", ["new", "backfilling", "live"])
def test_a_group_that_comes_back_has_a_version_to_read_however_far_it_was(registry: Registry, state: str) -> None:
    applied(registry)
    registry.set_state("habits@1", state)
    registry.pin("fraud@3", ["habits@1", "kyc@1"])
    without = world(drop=("habits",), view_features=[world()["kyc"]["tier"]])  # the model stays, and what it pins
    registry.apply(registry.plan(without.values(), complete=True), allow_breaking=True)
    assert not registry.group("habits", 1).default
    applied(registry)
    assert [one.id for one in registry.groups() if one.default] == ["habits@1", "kyc@1"]


def test_what_comes_back_unfilled_does_not_take_the_place_of_what_is_read(registry: Registry) -> None:
    applied(registry)
    registry.pin("fraud@3", ["habits@1"])
    applied(registry, group={"where": "amount > 1"})
    registry.go_live("habits@2")
    applied(registry)
    assert registry.group("habits").id == "habits@2"


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


def test_a_captured_column_keeps_its_type(registry: Registry) -> None:
    def served(kind: str, returns: str) -> Any:
        habits = world()["habits"]
        text = f"def ratio(amount, habits__amount_mean_30d):\n    return np.where(amount > 0, {kind}, {kind})"
        made = OnDemandFeature("ratio", source_text=text, returns=returns)
        return world(view_features=[habits, made])

    registry.apply(registry.plan(served("1.0", "float64").values()))
    assert kinds(registry.plan(served("'a'", "string").values())) == {"view fraud": "change"}
    registry.pin("fraud@1", ["habits@1"])
    assert registry.plan(served("2", "int64").values()).changes  # a number like the one before
    with pytest.raises(PlanError, match="'fraud': ratio is string, not a number; captures keep a column under one"):
        registry.plan(served("'a'", "string").values())


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
    registry.go_live("habits@2")
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


def test_a_version_that_comes_late_does_not_take_the_place_of_what_is_declared(registry: Registry) -> None:
    applied(registry)
    registry.pin("fraud@1", ["habits@1"])
    applied(registry, group={"where": "amount > 1"})
    assert registry.go_live("habits@2")
    assert registry.go_live("habits@1")
    assert registry.group("habits").id == "habits@2"
    assert registry.group("habits", 1).state == "live"


def test_a_version_that_was_retired_before_it_was_filled_stays_so(registry: Registry) -> None:
    applied(registry)
    applied(registry, group={"where": "amount > 1"})
    applied(registry, group={"where": "amount > 2"})
    assert not registry.go_live("habits@2")
    assert registry.group("habits", 2).state == "retired"
    assert registry.group("habits").id == "habits@1"


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
    view = ms.FeatureView("kyc", features=[kyc])
    registry.apply(registry.plan([view, kyc.resolved({"tier": "string"})]))
    assert registry.group("kyc").schema == {"tier": "string"}
    assert dict(registry.view("kyc").dtypes) == {"kyc__tier": "string"}
    assert registry.plan([view, kyc.resolved({"tier": "string"})]).changes == ()
    plan = registry.plan([view, kyc.resolved({"tier": "int64"})])
    assert "group kyc" in kinds(plan)
    assert "feature tier: string -> int64" in plan.text()
    registry.apply(plan)
    assert registry.group("kyc", 2).schema == {"tier": "int64"}


DAMAGE = {
    "body": "update registry_definitions set body = '{\"$kind\": 1'",
    "format": "update registry_facts set value = 9",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_registry_is_one_sentence(registry: Registry, url: str, damage: str) -> None:
    applied(registry)
    execute(url, DAMAGE[damage])
    assert_damaged(url)


def test_a_registry_of_the_version_before_is_read_and_written(registry: Registry, url: str) -> None:
    applied(registry)
    execute(url, "drop table registry_builds", "update registry_facts set value = 1 where name = 'format'")
    again = Registry(url)
    assert [version.id for version in again.groups()] == ["habits@1", "kyc@1"]
    assert again.builds.begin("habits@1") == 2
    again.builds.cut_over("habits@1", 2)
    assert again.group("habits").states == "habits@1.2"


def test_a_build_is_made_beside_the_one_that_is_read_and_cut_over_to(registry: Registry) -> None:
    applied(registry)
    assert [registry.builds.begin("habits@1") for _ in range(2)] == [2, 2]
    version = registry.group("habits")
    assert (version.states, version.beside.states) == ("habits@1", "habits@1.2")
    with pytest.raises(StoreError, match="build 3 is not being made"):
        registry.builds.cut_over("habits@1", 3)
    registry.builds.cut_over("habits@1", 2)
    assert (registry.group("habits").states, registry.group("habits").beside) == ("habits@1.2", None)
    with pytest.raises(NotFound, match="habits@7"):
        registry.builds.begin("habits@7")


def test_a_replaced_build_goes_when_it_was_seen_as_such_before(registry: Registry) -> None:
    applied(registry)
    registry.builds.cut_over("habits@1", registry.builds.begin("habits@1"))
    [one] = registry.builds.unused()
    assert (one.states, one.whole, one.leaving) == (["habits@1"], False, False)
    registry.builds.let_go(one)
    [one] = registry.builds.unused()
    assert one.leaving
    registry.builds.dropped(one)
    assert registry.builds.unused() == []
    assert registry.builds.begin("habits@1") == 3


def test_all_builds_of_a_retired_version_go(registry: Registry) -> None:
    applied(registry)
    registry.builds.cut_over("habits@1", registry.builds.begin("habits@1"))
    registry.builds.begin("habits@1")
    applied(registry, drop=("model", "view", "habits", "kyc"))
    found = {one.gv: one for one in registry.builds.unused()}
    assert found["habits@1"].states == ["habits@1", "habits@1.2", "habits@1.3"]
    assert found["kyc@1"].states == ["kyc@1"]
    for one in found.values():
        assert one.whole and not one.leaving
        registry.builds.let_go(one)
    for one in registry.builds.unused():
        assert one.leaving
        registry.builds.dropped(one)
    assert registry.builds.unused() == []


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/registry.db"
    applied(Registry(url))
    for place in (tmp_path / "deep").iterdir():
        place.write_bytes(b"garbage " * 1000)
    assert_damaged(url)


def assert_damaged(url: str) -> None:
    again = Registry(url)
    for read in (again.streams, lambda: again.plan(world().values())):
        with pytest.raises(CorruptState) as raised:
            read()
        assert url.rpartition("/")[2] in raised.value.message
        assert "\n" not in raised.value.message
        assert raised.value.hint


def execute(url: str, *statements: str) -> None:
    """Run statements in a registry's database, past the registry."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_wrong_url_is_one_sentence() -> None:
    with pytest.raises(StoreError, match=r"Registry '\.\.\.' is not an SQLAlchemy URL"):
        Registry("nonsense")


@pytest.mark.parametrize(
    "wrong", ["postgresql://u:hunter2@h:port/db", "postgre://u:hunter2@h/db", "postgresql//u:hunter2@h/db"]
)
def test_a_wrong_url_keeps_its_password_to_itself(wrong: str) -> None:
    with pytest.raises(StoreError, match="is not an SQLAlchemy URL") as raised:
        Registry(wrong).groups()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_names_of_any_length_are_kept_in_the_order_of_their_bytes(registry: Registry) -> None:
    names = ["Zeta", "alpha", "a_b", "aB", "b" * 64, "B1"]
    for name in names:
        schema = {"user_id": "int64", "at": "timestamp"}
        stream = ms.EventStream(name, schema=schema, time="at")
        group = ms.StreamFeatureGroup(name, entity=user, source=stream, features=[ms.Count(over="1h")])
        registry.apply(registry.plan([ms.FeatureView(name, features=[group])]))
        registry.pin(f"{name}@1", ["alpha@1"] if name != "Zeta" else [])
    assert [stream.name for stream in registry.streams()] == sorted(names)
    assert [version.group.name for version in registry.groups()] == sorted(names)
    assert [view.name for view in registry.views()] == sorted(names)
    assert [version.group.name for version in registry.groups("new")] == sorted(names)
    with pytest.raises(NotFound):
        registry.pin("x@1", ["nothing@1"])


def test_a_read_sees_one_state_whatever_is_written_meanwhile(registry: Registry, url: str) -> None:
    applied(registry)
    database = Database(url)
    count = sa.select(sa.func.count()).select_from(pins)
    with database.reading() as connection:
        assert connection is not None
        assert connection.execute(count).scalar() == 0
        registry.pin("fraud@1", ["habits@1"])
        assert connection.execute(count).scalar() == 0
    with database.reading() as connection:
        assert connection is not None
        assert connection.execute(count).scalar() == 1


def test_of_plans_that_are_applied_at_once_one_wins(registry: Registry, url: str) -> None:
    applied(registry)
    changes = [world(group={"where": f"amount > {number}"}).values() for number in range(6)]
    others = [Registry(url) for _ in changes]
    plans = [other.plan(change, complete=True) for other, change in zip(others, changes, strict=True)]
    together = threading.Barrier(len(others))

    def applying(number: int) -> bool:
        together.wait(60)
        try:
            others[number].apply(plans[number])
        except PlanError as error:
            assert "has changed" in error.message
            return False
        return True

    with ThreadPoolExecutor(len(others)) as pool:
        won = list(pool.map(applying, range(len(others))))
    assert won.count(True) == 1
    assert registry.group("habits", 2).group.where == f"amount > {won.index(True)}"
    assert [version.id for version in registry.groups()] == ["habits@1", "habits@2", "kyc@1"]


def test_processes_that_start_together_agree(url: str) -> None:
    server = multiprocessing.get_context("forkserver")
    children = [server.Process(target=_use, args=(url, number)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
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


def test_a_process_that_forks_and_its_child_both_go_on(registry: Registry) -> None:
    applied(registry)
    child = os.fork()
    if child == 0:
        os._exit(0 if registry.groups() and registry.revision() == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    registry.pin("fraud@1", ["habits@1"])
    assert registry.revision() == 2


def refused(url: str) -> StoreError:
    """What a read says that fails because of the server: one sentence, without the password."""
    with pytest.raises(StoreError) as raised:
        Registry(url).streams()
    assert type(raised.value) is StoreError
    assert "\n" not in raised.value.message
    told = str(raised.value)
    assert not any(secret in told for secret in (PASSWORD, QUOTED, "hunter2"))
    assert "PGPASSWORD" in told
    return raised.value


def test_a_server_that_is_down_is_one_sentence_and_one_that_is_back_is_used(postgresql: PostgreSQL) -> None:
    url = postgresql.database()
    registry = applied(Registry(url))
    postgresql.stop()
    try:
        told = refused(url)
        with pytest.raises(StoreError, match="cannot be used"):
            registry.revision()
    finally:
        postgresql.start()
    assert told.message.startswith(f"Registry 'postgresql://{USER}:***@127.0.0.1:{postgresql.port}/")
    assert "Connection refused" in told.message
    assert registry.revision() == 1


def test_a_password_that_is_wrong_or_absent_is_one_sentence(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "password authentication failed" in refused(postgresql.database(f"{USER}:hunter2")).message
    url = postgresql.database(USER)
    assert "no password supplied" in refused(url).message
    refused(f"{url}?password=hunter2")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert applied(Registry(url)).revision() == 1


def test_a_database_that_is_not_there_is_no_full_disk(postgresql: PostgreSQL) -> None:
    url = postgresql.database().rpartition("/")[0] + "/full"
    assert 'database "full" does not exist' in refused(url).message


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ("alter database {name} set default_transaction_read_only = on", StoreError, "read-only transaction"),
        ("revoke all on registry_facts from {role}", StoreError, "permission denied"),
        ("drop table registry_pins", CorruptState, "registry_pins"),
        (
            "create function full_() returns trigger language plpgsql as $$ begin "
            "raise exception 'no room' using errcode = 'disk_full'; end $$; "
            "create trigger full_ before update on registry_facts execute function full_()",
            DiskFull,
            "No space is left",
        ),
    ],
)
def test_what_a_server_refuses_says_what_it_is(
    postgresql: PostgreSQL, trouble: str, kind: type[Exception], said: str
) -> None:
    url = postgresql.database()
    name = url.rpartition("/")[2]
    applied(Registry(url))
    role = f"reader_of_{name}"
    execute(url, f"create role {role} login password 'hunter2'", f"grant all on all tables in schema public to {role}")
    execute(url, trouble.format(name=name, role=role))
    with pytest.raises(kind) as raised:
        Registry(url.replace(f"{USER}:{QUOTED}", f"{role}:hunter2")).pin("fraud@1", [])
    assert type(raised.value) is kind
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_without_its_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match="needs the library 'psycopg'") as raised:
        Registry("postgresql://u:hunter2@127.0.0.1/registry").streams()
    assert raised.value.hint == "pip install 'millstream[postgresql]'"


def test_a_version_whose_whole_numbers_were_rounded_is_kept_and_a_new_one_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    payments = ms.EventStream("payments", schema=SCHEMA, time="paid_at")
    group = ms.StreamFeatureGroup("habits", entity=user, source=payments, features=[ms.Last("payee_id")])
    registry = Registry(url)
    registry.apply(registry.plan([group]))
    older = from_dict({name: value for name, value in to_dict(group).items() if name != "$format"})
    with sa.create_engine(url).begin() as connection:  # as a release before wrote it
        for table in (definitions, group_versions):
            body = connection.execute(sa.select(table.c.body).where(table.c.name == "habits")).scalar_one()
            connection.execute(
                table.update().where(table.c.name == "habits").values(body=body.replace(',"$format":2', ""))
            )
        connection.execute(group_versions.update().values(fingerprint=fingerprint(older)))
    registry = Registry(url)
    assert registry.group("habits").schema == {"payee_id_last": "float64"}
    plan = registry.plan([group])
    assert "feature payee_id_last: dtype: float64 -> int64" in plan.text()
    registry.apply(plan)
    assert [(one.id, one.schema["payee_id_last"]) for one in registry.groups()] == [
        ("habits@1", "float64"), ("habits@2", "int64"),
    ]  # fmt: skip
