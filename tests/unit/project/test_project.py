"""A project in one process: what apply does, how rows move, how a model is trained, deployed, scored and checked."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.store.test_other_engines import other_engine, rewrite_and_expire

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.errors import DefinitionError, MillstreamError, NotFound, PlanError, ProjectError, RequestError
from millstream.templates import START, write_project
from millstream.testing.generators import DAY, FraudSimulator, LiveEvents, rows

user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", schema={"user_id": "int64", "page": "string", "at": "timestamp"})
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(over=["1h", "24h"])])
tiers = ms.Table("tiers", path="tiers.parquet", schema={"user_id": "int64", "tier": "string"})
level = ms.BatchFeatureGroup("level", entity=user, sources=[tiers], every="1d", query="select user_id, tier from tiers")
view = ms.FeatureView("pace", features=[pace])
NOON = to_micros("2026-01-01T12:00:00Z")


@pytest.fixture
def project(tmp_path: Path) -> ms.Project:
    data = tmp_path / ".millstream"
    data.mkdir()
    FileClock(data / "clock.json").set(NOON, rate=0.0)
    return ms.Project(tmp_path, create=True)


def click(user_id: int, at: str, page: str = "home") -> dict[str, object]:
    return {"user_id": user_id, "page": page, "at": at}


def counts(project: ms.Project, user_id: int, at: str | None = None) -> list[int | None]:
    (row,) = project.features("pace", [{"user_id": user_id}], at=at).to_pylist()
    return list(row.values())


def test_a_folder_without_settings_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"no millstream\.toml"):
        ms.Project(tmp_path)


def test_planning_writes_nothing(tmp_path: Path) -> None:
    project = ms.Project(tmp_path, create=True)
    assert "+ group pace@1" in project.plan(view).text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["millstream.toml"]


def test_applying_again_changes_nothing(project: ms.Project) -> None:
    assert [change.kind for change in project.apply(view)] == ["add"] * 4
    assert project.apply(view) == []


def test_only_what_the_folder_declares_removes_and_only_when_agreed(project: ms.Project) -> None:
    project.apply(view, ms.Entity("shop", keys={"shop_id": "int64"}))
    (project.settings.folder / "features.py").write_text(
        'import millstream as ms\nshop = ms.Entity("shop", keys={"shop_id": "int64"})\n'
    )
    with pytest.raises(PlanError, match="would remove view 'pace'"):
        project.apply()
    with pytest.raises(PlanError, match="would remove"):
        project.apply(agreed=lambda plan: False)
    assert {change.kind for change in project.apply(agreed=lambda plan: True)} == {"remove"}
    assert project.parts.registry.views() == []


def test_events_sent_are_read_once_drained(project: ms.Project) -> None:
    project.apply(view)
    sent = [click(1, "2026-01-01T11:30:00Z"), click(1, "2026-01-01T02:00:00Z"), click(2, "2026-01-01T11:59:59Z")]
    assert project.send(clicks, sent) == 3
    assert counts(project, 1) == [None, None]
    assert project.drain()["events"] == 3
    assert (counts(project, 1), counts(project, 2), counts(project, 3)) == ([1, 2], [1, 1], [0, 0])
    assert counts(project, 1, "2026-01-01T12:45:00Z") == [0, 2]


@pytest.mark.parametrize("form", ["dict", "dicts", "arrow", "pandas", "polars"])
def test_rows_go_in_in_any_form(project: ms.Project, form: str) -> None:
    project.apply(view)
    row = click(1, "2026-01-01T11:30:00Z")
    table = pa.Table.from_pylist([{**row, "at": NOON - 1_800_000_000}]).set_column(
        2, "at", pa.array([NOON - 1_800_000_000]).cast(pa.timestamp("us", "UTC"))
    )
    forms = {"dict": row, "dicts": [row], "arrow": table, "pandas": table.to_pandas()}
    if form == "polars":
        import polars

        forms["polars"] = polars.from_arrow(table)
    assert project.send("clicks", forms[form]) == 1
    project.drain()
    assert counts(project, 1) == [1, 1]


def test_an_instant_that_no_engine_can_hold_stops_nothing(project: ms.Project) -> None:
    births = ms.EventStream("births", time="at", schema={"user_id": "int64", "at": "timestamp", "born": "timestamp"})
    people = ms.Table("people", path="people.parquet", schema={"user_id": "int64", "born": "timestamp"})
    group = ms.BatchFeatureGroup(
        "born", entity=user, sources=[people], every="1d", query="select user_id, born from people"
    )
    beyond = pa.array([2**62, NOON], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": [1, 2], "born": beyond}), project.settings.folder / "people.parquet")
    project.apply(births, ms.FeatureView("born", features=[group]))
    project.send(births, [{"user_id": 1, "at": NOON, "born": 2**62}, {"user_id": 2, "at": NOON, "born": NOON}])
    project.send(births, pa.table({"user_id": [1, 2], "at": [NOON, NOON], "born": beyond}))
    project.drain()
    project.sync()
    assert project.parts.histories.events().read("births")["user_id"].to_pylist() == [2, 2]
    assert [("years 1 to 9999" in reason) for reason in project.dead_letters("births")["reason"].to_pylist()] == [
        True
    ] * 2
    found = project.features("born", [{"user_id": 1}, {"user_id": 2}])["born__born"].cast(pa.int64()).to_pylist()
    assert found == [None, NOON]
    for given in (2**62, beyond[:1]):
        rows = {"user_id": [3], "born": given} if isinstance(given, pa.Array) else [{"user_id": 3, "born": given}]
        with pytest.raises(RequestError, match="expected an instant of the years 1 to 9999"):
            project.write("born", pa.table(rows) if isinstance(rows, dict) else rows)
    with pytest.raises(RequestError, match="looks like seconds"):
        project.write("born", [{"user_id": 3, "born": NOON // 1_000_000}])
    assert project.write("born", []) == project.write("born", pa.table(rows).slice(1)) == 0


def test_training_assumes_the_delay_that_ingestion_measured(project: ms.Project) -> None:
    clock = project.clock
    assert isinstance(clock, FileClock)
    project.apply(view)
    project.load(clicks, [click(1, f"2026-01-01T0{hour}:00:00Z") for hour in range(9)])
    project.drain()
    version = project.parts.registry.group("pace")
    assert project.parts.served.delay(version) == 0  # what was loaded says nothing of the pipeline
    for seconds in (2, 40, 3):
        project.send(clicks, [click(1, "2026-01-01T11:59:00Z")])
        project.parts.layers.computer().step()
        clock.advance(seconds * 1_000_000)
        project.parts.layers.ingester().step()
    assert project.parts.served.delay(version) == 3_000_000


def test_a_group_added_later_is_backfilled_from_history(project: ms.Project) -> None:
    project.apply(clicks)
    project.send("clicks", [click(1, f"2026-01-01T11:{minute}:00Z") for minute in range(10, 30)])
    project.apply(view)
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z")])
    assert project.backfill() == ["pace@1"]
    assert counts(project, 1) == [21, 21]
    assert project.parts.registry.group("pace").state == "live"
    assert project.backfill() == []


def test_a_group_is_built_anew_beside_what_is_read_and_cut_over_to_at_once(project: ms.Project) -> None:
    project.apply(view)
    project.load("clicks", [click(1, f"2026-01-01T{hour:02}:30:00Z") for hour in range(10)])
    project.backfill()
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z")])
    project.drain()
    seen = []

    def read(done: int, total: int | None) -> None:
        seen.append(counts(project, 1))
        project.send("clicks", [click(2, "2026-01-01T11:41:00Z")])

    assert counts(project, 1) == [1, 11]
    assert project.backfill("pace", progress=read) == ["pace@1"]
    assert seen and all(one == [1, 11] for one in seen)
    assert (counts(project, 1), counts(project, 2)) == ([1, 11], [len(seen)] * 2)
    version = project.parts.registry.group("pace")
    assert (version.build, version.building, version.states) == (2, None, "pace@1.2")


def test_a_first_backfill_is_never_read_in_part(project: ms.Project) -> None:
    project.apply(clicks)
    project.load("clicks", [click(1, f"2026-01-01T{hour:02}:30:00Z") for hour in range(10)])
    project.apply(view)
    seen = []
    project.backfill(progress=lambda done, total: seen.append(counts(project, 1)))
    assert seen and all(one == [None, None] for one in seen)
    assert counts(project, 1) == [0, 10]


def test_a_group_is_computed_anew_by_its_definition_as_by_its_name(project: ms.Project) -> None:
    project.apply(view)
    assert project.backfill(pace) == project.backfill("pace") == ["pace@1"]


def test_a_build_that_died_goes_on_at_the_next_backfill(project: ms.Project) -> None:
    project.apply(view)
    project.load("clicks", [click(1, f"2026-01-01T{hour:02}:30:00Z") for hour in range(10)])
    project.backfill()

    def die(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.backfill("pace", progress=die)
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z")])
    project.drain()
    assert counts(project, 1) == [1, 11]
    assert project.parts.registry.group("pace").building == 2
    assert project.backfill() == ["pace@1"]
    assert counts(project, 1) == [1, 11]
    assert (project.parts.registry.group("pace").build, project.backfill()) == (2, [])


def test_a_backfill_anew_gives_the_same(project: ms.Project) -> None:
    project.apply(view)
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z"), click(1, "2026-01-01T11:41:00Z")])
    project.backfill()
    project.sync()
    assert project.backfill("pace") == ["pace@1"]
    assert counts(project, 1) == [2, 2]


def test_sync_writes_what_history_reads(project: ms.Project) -> None:
    project.apply(view)
    with pytest.raises(NotFound, match="'pace' has not been synced yet") as told:
        project.history("pace")
    assert told.value.hint == "wait for the next sync, or call `project.sync()`."
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z")])
    project.drain()
    done = project.sync()
    assert (done["archived"], done["synced"]) == (1, 1)
    (row,) = project.history(pace).to_pylist()
    assert (row["user_id"], row["count_1h"], row["version"]) == (1, 1, 1)
    assert project.history("pace", start="2026-01-02T00:00:00Z").num_rows == 0


def test_the_history_of_a_group_not_synced_names_those_that_are(project: ms.Project) -> None:
    project.apply(view)
    project.send("clicks", [click(1, "2026-01-01T11:40:00Z")])
    project.drain()
    project.sync()
    later = ms.StreamFeatureGroup("later", entity=user, source=clicks, features=[ms.Count(over="1h")])
    project.apply(ms.FeatureView("both", features=[later, level]))
    with pytest.raises(NotFound, match="'later' has not been synced") as told:
        project.history("later")
    assert told.value.hint == "wait for the next sync, or call `project.sync()`; synced are pace."
    with pytest.raises(NotFound, match="'level' is not synced") as told:
        project.history("level")
    assert "batch.level@1" in str(told.value.hint)


def test_a_table_that_is_missing_stops_nothing_else(project: ms.Project) -> None:
    project.apply(view, level)
    other = ms.Table("names", path="names.parquet", schema={"user_id": "int64", "name": "string"})
    query = "select user_id, name from names"
    named = ms.BatchFeatureGroup("named", entity=user, sources=[other], every="1d", query=query)
    project.apply(ms.FeatureView("named", features=[named]))
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": [1], "name": ["Ada"]}), project.settings.folder / "names.parquet")
    for minute in (40, 41):
        project.send("clicks", [click(1, f"2026-01-01T11:{minute}:00Z")])
        with pytest.raises(MillstreamError, match="tiers"):
            project.drain()
    assert counts(project, 1) == [2, 2]
    assert project.features("named", [{"user_id": 1}])["named__name"].to_pylist() == ["Ada"]
    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), project.settings.folder / "tiers.parquet")
    assert project.drain()["runs"] == 1


def test_tables_are_read_when_planned_and_when_due(project: ms.Project) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user_id": [1], "tier": ["gold"]}), project.settings.folder / "tiers.parquet")
    project.apply(ms.FeatureView("level", features=[level]))
    project.drain()
    assert project.features("level", [{"user_id": 1}, {"user_id": 2}])["level__tier"].to_pylist() == ["gold", None]


def test_rows_written_to_a_batch_group_are_read(project: ms.Project) -> None:
    project.apply(ms.FeatureView("level", features=[level]))
    assert project.write(level, [{"user_id": 7, "tier": "silver"}]) == 1
    project.parts.layers.batch_ingester().step()
    assert project.features("level", [{"user_id": 7}])["level__tier"].to_pylist() == ["silver"]


TIMES = ["2026-01-01T10:00:00Z", "2026-01-01 10:00:00", "2026-01-01T12:00:00+02:00", NOON - 7_200_000_000]


@pytest.mark.parametrize("form", ["dicts", "mixed", "arrow", "pandas", "polars"])
def test_instants_written_to_a_batch_group_may_be_text(project: ms.Project, form: str) -> None:
    known = {"user_id": "int64", "since": "timestamp", "seen": "timestamp"}
    visits = ms.Table("visits", path="visits.parquet", time="seen", schema=known)
    query = "select user_id, seen, since from visits"
    group = ms.BatchFeatureGroup("seen", entity=user, sources=[visits], every="1d", query=query, time="seen")
    project.apply(ms.FeatureView("seen", features=[group]))
    times = TIMES if form in ("dicts", "mixed") else TIMES[:3]
    rows = [{"user_id": n, "seen": time, "since": time} for n, time in enumerate(times)]
    rows.append({"user_id": 9, "seen": times[0], "since": None})
    if form == "mixed":
        rows[0]["since"] = datetime(2026, 1, 1, 10, tzinfo=UTC)
    given: object = rows
    if form in ("arrow", "pandas", "polars"):
        table = pa.Table.from_pylist(rows)
        given = {"arrow": table, "pandas": table.to_pandas()}.get(form)
        if form == "polars":
            import polars

            given = polars.from_arrow(table)
    assert project.write("seen", given) == len(rows)
    project.parts.layers.batch_ingester().step()
    found = project.features("seen", [{"user_id": n} for n in [*range(len(times)), 9]])["seen__since"].to_pylist()
    assert found == [datetime(2026, 1, 1, 10, tzinfo=UTC)] * len(times) + [None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([{"user_id": 1, "seen": "yesterday", "since": None}], "column 'seen': 'yesterday' is given"),
        ([{"user_id": 1, "seen": NOON, "since": 1.5}], "column 'since': 1.5 is given"),
        ([{"user_id": 1, "seen": NOON}, {"user_id": "x", "seen": NOON}], "column 'user_id': 'x' is given"),
        ([7], "7 is given; expected dicts"),
    ],
)
def test_a_row_written_wrongly_is_one_sentence(project: ms.Project, wrong: list[object], said: str) -> None:
    known = {"user_id": "int64", "since": "timestamp", "seen": "timestamp"}
    visits = ms.Table("visits", path="visits.parquet", time="seen", schema=known)
    query = "select user_id, seen, since from visits"
    group = ms.BatchFeatureGroup("seen", entity=user, sources=[visits], every="1d", query=query, time="seen")
    project.apply(ms.FeatureView("seen", features=[group]))
    with pytest.raises(RequestError) as told:
        project.write("seen", wrong)
    assert said in told.value.message


def test_a_folded_group_cannot_be_written(project: ms.Project) -> None:
    project.apply(view)
    with pytest.raises(RequestError, match="folded from events"):
        project.write("pace", [{"user_id": 7, "count_1h": 3}])


def test_names_that_are_not_there_are_named(project: ms.Project) -> None:
    project.apply(view)
    with pytest.raises(NotFound, match="No stream is named 'click'") as told:
        project.send("click", [])
    assert told.value.hint == "did you mean 'clicks'?"
    with pytest.raises(NotFound, match="No view is named"):
        project.features("pases", [])
    with pytest.raises(NotFound, match="No model is named"):
        project.train("pace")


def test_a_wrong_definition_names_its_line(project: ms.Project) -> None:
    (project.settings.folder / "features.py").write_text("import millstream as ms\n\nms.Entity('user', keys={})\n")
    with pytest.raises(DefinitionError, match=r"features\.py', line 3"):
        project.plan()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[ms.Project, LiveEvents]:
    """The fraud project with fifty days of a hundred users, and what comes after."""
    folder = tmp_path_factory.mktemp("shop")
    write_project(folder)
    start = to_micros(START)
    (folder / ".millstream").mkdir()
    FileClock(folder / ".millstream" / "clock.json").set(start, rate=0.0)
    project = ms.Project(folder)
    project.apply()
    live = LiveEvents(FraudSimulator(seed=3, users=100), start - 50 * DAY)
    for name, table in live.due(start).items():
        project.load(name, table)
    project.backfill()
    return project, live


def test_a_model_goes_from_training_to_rollback(shop: tuple[ms.Project, LiveEvents]) -> None:
    project, _ = shop
    with pytest.raises(NotFound, match="has no version yet"):
        project.deploy("fraud")
    first, second = project.train("fraud"), project.train("fraud")
    assert (first.version, second.version) == (1, 2)
    assert project.deploy("fraud") == 2
    with pytest.raises(NotFound, match="no champion before"):
        project.rollback("fraud")
    assert project.deploy("fraud", 1) == 1
    assert project.rollback("fraud") == 2
    facts = {"name": "fraud", "versions": 2, "champion": 2, "challenger": None, "state": "serving", "why": None}
    assert project.status()["models"] == [facts]


def test_what_a_model_learnt_from_outlives_expiry_by_another_engine(shop: tuple[ms.Project, LiveEvents]) -> None:
    project, _ = shop
    examples = project.training_set("fraud")
    version = project.train("fraud", examples)
    pinned = version.facts["pins"]["snapshots"]
    store = project.parts.offline
    before = {table: store.scan(table, snapshot=snapshot).num_rows for table, snapshot in pinned.items()}
    assert before and pinned == examples.pins.snapshots
    for table in pinned:
        rewrite_and_expire(other_engine(project.settings.data, table))
    assert {table: store.scan(table, snapshot=snapshot).num_rows for table, snapshot in pinned.items()} == before
    for table in pinned:
        names = set(other_engine(project.settings.data, table).refs())
        assert f"millstream.pin.{version.id}" in names
        assert any(name.startswith("millstream.until.") for name in names)
    store.unpin(version.id)  # as an earlier version of Millstream left it
    assert not any(version.id in store.pinned(table) for table in pinned)
    ms.Project(project.settings.folder).sync()
    assert all(version.id in store.pinned(table) for table in pinned)


def test_what_is_scored_can_be_verified_compared_and_explained(shop: tuple[ms.Project, LiveEvents]) -> None:
    project, live = shop
    if not project.parts.model_versions.aliases("fraud"):
        project.train("fraud")
        project.deploy("fraud")
    clock = project.clock
    assert isinstance(clock, FileClock)
    ids = []
    for _ in range(4):
        clock.advance(DAY // 12)
        due = live.due(clock.now())
        asked = [{**payment, "at": payment["paid_at"]} for payment in rows(due["payments"])]
        ids += project.score("fraud", asked)["request_id"].to_pylist()
        for name, table in due.items():
            project.send(name, table)
        project.drain()
    assert len(ids) > 20
    found = project.verify()
    assert (found.requests, found.mismatches) == (len(ids), 0)
    compared = project.parity("fraud")
    assert (compared.requests, compared.unexplained) == (len(ids), 0)
    project.sync()
    assert project.verify("fraud", sample=10).requests == 10
    told = project.explain(ids[-1], "habits__amount_mean_30d")
    assert told.events is not None
    amounts = told.events["amount"].to_pylist()
    assert told.vector["habits__amount_mean_30d"] == pytest.approx(sum(amounts) / len(amounts))
    with pytest.raises(NotFound, match="was captured"):
        project.explain("nothing")
    project.close()
