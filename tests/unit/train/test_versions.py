"""Versions are numbered, kept whole, aliased with a record, and checked when loaded."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from millstream.clock import SimulatedClock
from millstream.errors import CorruptState, NotFound, StoreError
from millstream.train.metrics import Interval
from millstream.train.versions import ModelVersions


@pytest.fixture
def pinned():
    return []


@pytest.fixture
def versions(url, tmp_path, pinned):
    clock = SimulatedClock(1_000_000)
    pin = lambda connection, version, groups: pinned.append((version, list(groups)))  # noqa: E731
    return ModelVersions(url, tmp_path / "models", clock, pin=pin)


def test_a_registered_model_loads_as_it_was(versions, fitted, pinned, rows):
    metrics = {"auc": Interval(0.8, 0.7, 0.9)}
    made = versions.register(
        "fraud",
        fitted,
        sample=rows()[0],
        metrics=metrics,
        pins=["habits@2"],
        facts={"rows": 2000, "snapshots": {"t": 5}},
    )
    assert (made.id, made.registered) == ("fraud@1", 1_000_000)
    assert pinned == [("fraud@1", ["habits@2"])]
    loaded = versions.load("fraud", 1)
    assert loaded.about == made
    assert loaded.columns == ("amount", "country")
    assert loaded.pins == ("habits@2",)
    assert set(loaded.dictionaries["country"]) == {"de", "fr", "jp"}
    assert versions.version("fraud", 1).facts["snapshots"] == {"t": 5}


def test_one_row_scores_as_in_a_batch(versions, fitted):
    versions.register("fraud", fitted)
    loaded = versions.load("fraud", "1")
    columns = {"amount": np.array([1.0, np.nan, 7.0]), "country": np.array(["jp", None, "unseen"], dtype=object)}
    batch = loaded.score(columns)
    singles = [loaded.score({name: values[i : i + 1] for name, values in columns.items()})[0] for i in range(3)]
    assert singles == batch.tolist()


def test_aliases_move_and_every_move_is_recorded(versions, fitted, pinned):
    for _ in range(2):
        versions.register("fraud", fitted, pins=["habits@1"])
    versions.alias("fraud", "champion", 1, reason="first")
    versions.alias("fraud", "champion", 2, reason="better")
    assert versions.aliases("fraud") == {"champion": 2}
    assert versions.load("fraud").version == 2
    moves = [(move["version"], move["previous"], move["reason"]) for move in versions.moves("fraud")]
    assert moves == [(1, None, "first"), (2, 1, "better")]
    assert pinned[-1] == ("fraud@2", ["habits@1"])


def test_models_are_numbered_apart(versions, fitted):
    assert [versions.register(name, fitted).id for name in ("a", "b", "a")] == ["a@1", "b@1", "a@2"]
    assert [version.id for version in versions.versions("a")] == ["a@1", "a@2"]


def test_two_processes_never_take_the_same_number(url, tmp_path, fitted):
    def register(_):
        mine = ModelVersions(url, tmp_path / "models", SimulatedClock(0))
        return [mine.register("fraud", fitted).version for _ in range(4)]

    ModelVersions(url, tmp_path / "models", SimulatedClock(0))
    with ThreadPoolExecutor(4) as pool:
        taken = [number for numbers in pool.map(register, range(4)) for number in numbers]
    assert sorted(taken) == list(range(1, 17))


def test_moves_at_once_follow_one_another(url, tmp_path, fitted):
    def move(number):
        mine = ModelVersions(url, tmp_path / "models", SimulatedClock(0))
        for _ in range(3):
            mine.alias("fraud", "champion", number)

    versions = ModelVersions(url, tmp_path / "models", SimulatedClock(0))
    numbers = [versions.register("fraud", fitted).version for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(move, numbers))
    moves = versions.moves("fraud")
    assert len(moves) == 12
    assert [move["previous"] for move in moves] == [None, *(move["version"] for move in moves[:-1])]
    assert versions.aliases("fraud") == {"champion": moves[-1]["version"]}


def test_a_server_that_is_down_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match=r"Registry 'postgresql://u:\*\*\*@127\.0\.0\.1:1/r' cannot be used"):
        ModelVersions("postgresql://u:secret@127.0.0.1:1/r", tmp_path, SimulatedClock(0))


def test_what_is_absent_is_named(versions, fitted):
    with pytest.raises(NotFound, match="no version yet"):
        versions.load("fraud")
    versions.register("fraud", fitted)
    versions.alias("fraud", "champion", 1)
    with pytest.raises(NotFound, match="did you mean 'champion'"):
        versions.load("fraud", "champoin")
    with pytest.raises(NotFound):
        versions.alias("fraud", "champion", 7)


def test_what_cannot_be_pinned_is_not_registered(url, tmp_path, fitted):
    def refuse(connection, version, groups):
        raise NotFound.named("group version", groups[0], ["habits@2"])

    versions = ModelVersions(url, tmp_path / "models", SimulatedClock(0), pin=refuse)
    with pytest.raises(NotFound, match="habits@1"):
        versions.register("fraud", fitted, pins=["habits@1"])
    assert versions.versions("fraud") == []


def test_many_processes_may_begin_at_once(url, tmp_path):
    def begin(_):
        return ModelVersions(url, tmp_path / "models", SimulatedClock(0)).aliases("fraud")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begin, range(8))) == [{}] * 8


def test_a_changed_or_lost_file_is_found(versions, fitted, tmp_path, rows):
    made = versions.register("fraud", fitted, sample=rows()[0])
    model = tmp_path / "models" / "fraud" / made.digest / "model.txt"
    model.write_text(model.read_text().replace("num_leaves", "num_leafs", 1))
    with pytest.raises(CorruptState, match=r"fraud@1.*are not those that were written"):
        versions.load("fraud", 1)
    model.unlink()
    with pytest.raises(CorruptState, match=r"model\.txt cannot be read"):
        versions.load("fraud", 1)
    assert versions.register("other", fitted).version == 1


def test_a_write_cut_short_leaves_no_version(versions, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        versions.register("fraud", fitted)
    monkeypatch.undo()
    assert versions.versions("fraud") == []
    assert versions.register("fraud", fitted).version == 1
    assert versions.load("fraud", 1).version == 1
