"""A model file that was cut off or changed is refused; whatever it does to its library, this process lives."""

import random
import re

import lightgbm
import numpy as np
import pytest

from millstream.errors import TrainingError
from millstream.train.trainers import lightgbm as trees
from millstream.train.trial import try_out


@pytest.fixture(scope="module")
def text():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((400, 3))
    rows[:, 2] = generator.integers(0, 9, 400)
    labels = (rows[:, 0] + (rows[:, 2] > 4) > 0.5).astype(float)
    data = lightgbm.Dataset(rows, labels, categorical_feature=[2], params={"verbosity": -1})
    parameters = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1}
    return lightgbm.train(parameters, data, num_boost_round=5).model_to_string()


def test_a_model_that_is_whole_passes(text):
    try_out("lightgbm", text)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7])
def test_a_model_that_was_cut_off_is_refused(text, share):
    with pytest.raises(TrainingError):
        try_out("lightgbm", text[: int(share * len(text))])


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"split_feature=\d+", "split_feature=1000000"),
        (r"split_feature=\d+", "split_feature=-5"),
        (r"left_child=\S+", "left_child=0"),
        (r"left_child=\S+", "left_child=500000"),
        (r"right_child=\S+", "right_child=-500000"),
        (r"num_leaves=\d+", "num_leaves=2000000000"),
        (r"num_leaves=\d+", "num_leaves=-1"),
        (r"leaf_value=\S+", "leaf_value=x"),
        (r"cat_boundaries=.*", "cat_boundaries=0 900000"),
        (r"max_feature_idx=\d+", "max_feature_idx=x"),
    ],
)
def test_a_tree_that_points_elsewhere_is_refused(text, pattern, written):
    with pytest.raises(TrainingError):
        try_out("lightgbm", re.sub(pattern, written, text))


def test_whatever_is_changed_this_process_lives(text, monkeypatch):
    """Random changes, with the child process alone to judge them too, for what the reading of the text lets pass."""
    dice = random.Random(1)
    for number in range(4):
        mutated = list(text)
        for _ in range(dice.choice([1, 5, 40])):
            mutated[dice.randrange(len(mutated))] = dice.choice("0123456789-= \n\x00xe")
        if number == 2:
            monkeypatch.setattr(trees, "check_text", lambda text: None)
        try:
            try_out("lightgbm", "".join(mutated))
        except TrainingError as error:
            assert error.hint


def test_a_library_that_crashes_is_said(text, monkeypatch):
    monkeypatch.setattr(trees, "check_text", lambda text: None)
    crashing = re.sub(
        r"left_child=\S+", "left_child=500000000", re.sub(r"split_feature=\d+", "split_feature=99999999", text)
    )
    with pytest.raises(TrainingError, match=r"crash|cannot be|not a LightGBM"):
        try_out("lightgbm", crashing)


def test_a_project_refuses_it_and_registers_nothing(tmp_path, text):
    import millstream as ms

    user = ms.Entity("user", keys={"user_id": "int64"})
    events = ms.EventStream(
        "e", time="at", schema={"id": "string", "user_id": "int64", "x": "float64", "y": "bool", "at": "timestamp"}
    )
    group = ms.StreamFeatureGroup("g", entity=user, source=events, features=[ms.Count(), ms.Sum("x")])
    view = ms.FeatureView("v", request={"x": "float64"}, features=[group])
    model = ms.Model("m", view=view, examples=events, label=ms.Label(events, "y", on="id", after="1h"))
    project = ms.Project(tmp_path / "p", create=True)
    project.apply(model)
    project.backfill()
    for wrong in (text[:900], text.replace("split_feature=", "split_feature=77"), "", 5, None):
        with pytest.raises(ms.MillstreamError):
            project.register("m", wrong)
    assert project.register("m", text).version == 1
    project.close()
