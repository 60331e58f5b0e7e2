"""Events with lists: they are judged, archived and read back as they were, and expressions take them apart."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import DefinitionError

NOW = datetime.now(UTC).replace(microsecond=0)
user = ms.Entity("user", keys={"user_id": "int64"})
SCHEMA = {"user_id": "int64", "face": "list<float32>", "words": "list<string>", "ids": "list<int64>", "at": "timestamp"}
visits = ms.EventStream("visits", time="at", schema=SCHEMA)
group = ms.StreamFeatureGroup(
    "g", entity=user, source=visits, derive={"first": "face[1]", "seen": "ids"}, where="words is null or len(words) < 3",
    features=[
        ms.Count(), ms.Count("face"), ms.Count("seen"), ms.Max("first"), ms.Sum("list_sum(face)", name="total"),
        ms.Last("words[-1]", name="word"), ms.Max("ids[1]", name="most"), ms.Sum("len(face)", name="length"),
    ],
)  # fmt: skip
view = ms.FeatureView("v", features=[group])
ROWS: list[dict[str, Any]] = [
    {"face": [0.5, None, float("nan")], "words": ["a", "b"], "ids": [2**63 - 1]},
    {"face": [], "words": [], "ids": [-(2**63), None]},
    {"face": None, "words": None, "ids": None},
    {"face": [1.25, 2.0], "words": ["a", "b", "c"], "ids": [1]},
]
ROWS = [{"user_id": 1, **row, "at": NOW - timedelta(hours=5 - i)} for i, row in enumerate(ROWS)]
WRONG = {**ROWS[0], "face": [1.0, "x"]}
WANTED = {
    "g__count": 3, "g__face_count": 2, "g__seen_count": 2, "g__first_max": 0.5, "g__total": 0.5, "g__word": "b",
    "g__most": 2**63 - 1, "g__length": 3.0,
}  # fmt: skip


def as_arrow(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = {"face": pa.list_(pa.float64()), "words": pa.large_list(pa.string()), "ids": pa.list_(pa.int64())}
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name)) for name in SCHEMA})


def test_dicts_arrow_and_json_give_the_same_in_the_pure_function() -> None:
    lines = [json.loads(json.dumps(row, default=str).replace("NaN", "null")) for row in ROWS]
    for rows in (ROWS, as_arrow(ROWS), lines):
        found = ms.compute(view, {visits: rows}, [{"user_id": 1, "at": NOW}])
        assert found.select(list(WANTED)).to_pylist() == [WANTED]


def test_a_project_archives_them_and_folds_them_again_from_history(tmp_path: Path) -> None:
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(visits)
    project.load(visits, ROWS[:2])
    project.load(visits, as_arrow(ROWS[2:]))
    project.load(visits, [WRONG])
    project.drain()
    assert project.dead_letters("visits")["reason"].to_pylist() == [
        "Wrong type: column 'face' does not hold a list whose elements are null or a number."
    ]
    project.apply(view)
    project.backfill()
    assert project.features("v", [{"user_id": 1}]).to_pylist() == [WANTED]
    project.parts.layers.archiver().step()
    archived = project.parts.offline.scan("events.visits").sort_by("at").to_pylist()
    assert [row["face"] for row in archived] == [[0.5, None, None], [], None, [1.25, 2.0]]
    assert [row["ids"] for row in archived] == [row["ids"] for row in ROWS]
    again = project.parts.histories.events().read(visits).sort_by("at").to_pylist()
    assert [{name: row[name] for name in SCHEMA if name != "face"} for row in again] == [
        {name: row[name] for name in SCHEMA if name != "face"} for row in ROWS
    ]
    project.close()


@pytest.mark.parametrize(
    "feature", [ms.Last("face"), ms.Sum("ids"), ms.DistinctCount("words"), ms.ArgMax("at", by="ids")]
)
def test_an_aggregate_of_lists_is_refused_with_what_to_write(feature: Any) -> None:
    with pytest.raises(DefinitionError, match=r"expected a single value") as refused:
        ms.StreamFeatureGroup("g", entity=user, source=visits, features=[feature])
    assert "in derive=, as" in str(refused.value)


def test_a_list_is_no_key_no_field_of_a_request_and_decides_no_partition() -> None:
    with pytest.raises(DefinitionError, match="type of column 'k' was given 'list<int64>'"):
        ms.Entity("e", keys={"k": "list<int64>"})
    with pytest.raises(DefinitionError, match="'list<int64>'"):
        ms.FeatureView("v", request={"ids": "list<int64>"}, features=[group])
    with pytest.raises(DefinitionError, match="partition_by"):
        ms.EventStream("s", time="at", schema=SCHEMA, partition_by="ids")
    with pytest.raises(DefinitionError, match="'list<date>'"):
        ms.EventStream("s", time="at", schema={"days": "list<date>", "at": "timestamp"})
