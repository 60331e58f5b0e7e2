"""Models of LightGBM: kept as text, scored one row at a time through its C interface.

LightGBM's Python call spends most of its time preparing one row for a matrix interface; its C library has a call for
exactly one row, three to four times quicker and equal to the bit, which is checked when a model is loaded.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.errors import TrainingError
from millstream.forks import forks
from millstream.train.encoding import Encoder
from millstream.train.metrics import check_binary
from millstream.train.trainers.trainer import Artefact, Floats, kind_of, sample

if TYPE_CHECKING:
    from lightgbm import Booster

    from millstream.definitions.model import LightGBM

_NORMAL, _FLOAT64, _ALL_ROUNDS = 0, 1, -1  # of LightGBM's C interface
_HINT = "register what Booster.model_to_string() gave, whole and unchanged."


class LightGBMTrainer:
    """Gradient-boosted trees by LightGBM, as a `LightGBM` definition asks for them."""

    def fit(self, definition: LightGBM, table: pa.Table, labels: Floats, dtypes: Mapping[str, str]) -> Artefact:
        """Return the trees fitted to those rows; a binary model needs labels of both classes; see `Trainer.fit`."""
        import lightgbm

        _check(labels, definition.objective)
        encoder = Encoder.learn(table, dtypes)
        data = lightgbm.Dataset(
            encoder.matrix(table),
            labels,
            feature_name=list(encoder.columns),
            categorical_feature=list(encoder.categorical),
            params={"verbosity": -1, "num_threads": _threads()},
        )
        booster = lightgbm.train(_parameters(definition), data, num_boost_round=definition.rounds)
        return Artefact(kind_of(definition), booster.model_to_string(), encoder)

    def text(self, fitted: object) -> str:
        """Return the text of a booster, or the text that was given."""
        if isinstance(fitted, str):
            return fitted
        if not hasattr(fitted, "model_to_string"):
            raise TrainingError(
                f"A {type(fitted).__name__} was given; expected a LightGBM booster, or its text.",
                "pass the booster, such as LGBMClassifier(...).fit(...).booster_.",
            )
        return str(fitted.model_to_string())

    def check(self, text: str) -> None:
        """Refuse trees that point at columns, leaves or categories that there are not."""
        check_text(text)

    def load(self, text: str) -> LightGBMPredictor:
        """Return the model ready to score."""
        return LightGBMPredictor(text)


def _parameters(definition: LightGBM) -> dict[str, Any]:
    return {
        "objective": definition.objective,
        "num_leaves": definition.leaves,
        "learning_rate": definition.learning_rate,
        "min_data_in_leaf": definition.min_rows,
        "seed": definition.seed,
        "deterministic": True,
        "force_col_wise": True,  # else LightGBM times both ways and takes the quicker, which is not repeatable
        "num_threads": _threads(),
        "verbosity": -1,
    }


def _threads() -> int:
    """How many threads fit a model; the model is the same by any number of them.

    They wait for each other actively: on a core that is busy with something else, all of them wait. A forked process
    fits on one, for it would wait for ever for those that its parent has had.
    """
    return 1 if forks() else max(1, (os.cpu_count() or 1) - 1)


class LightGBMPredictor:
    """A LightGBM model that scores single rows through the C interface, each thread with a handle of its own.

    Attributes:
        columns: number of columns of a row.
        fast: whether single rows take the C call; False where this build of LightGBM does not have it or, on a
            sample of rows, it does not give the very bits of the ordinary call.

    Raises:
        TrainingError: the text is not a LightGBM model.
    """

    def __init__(self, text: str) -> None:
        import lightgbm

        try:
            self._booster: Booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise TrainingError(
                f"The text of {len(text)} characters is not a LightGBM model: {error}.",
                hint="pass what Booster.model_to_string() or Booster.save_model() wrote.",
            ) from error
        self.columns: int = self._booster.num_feature()
        self._threads = threading.local()
        self.fast = hasattr(lightgbm.basic._LIB, "LGBM_BoosterPredictForMatSingleRowFast")
        self.fast = self.fast and self._equal_on(sample(self.columns))

    def predict(self, matrix: Floats) -> Floats:
        """Return one score per row, on one thread: more only pay for themselves on very large matrices."""
        if not len(matrix):
            return np.empty(0)
        return np.asarray(self._booster.predict(matrix, num_threads=1), dtype=np.float64)

    def predict_one(self, row: Floats) -> float:
        """Return the score of one contiguous float64 row."""
        if not self.fast:
            return float(self.predict(row.reshape(1, -1))[0])
        try:
            call: _SingleRow = self._threads.call
        except AttributeError:
            call = self._threads.call = _SingleRow(self._booster, self.columns)
        return call(row)

    def _equal_on(self, rows: Floats) -> bool:
        call = _SingleRow(self._booster, self.columns)
        return bool(np.array_equal([call(row) for row in rows], self.predict(rows)))


class _SingleRow:
    """LightGBM's prepared call for one row. It holds buffers, so no two threads may share one."""

    def __init__(self, booster: Booster, columns: int) -> None:
        from lightgbm.basic import _LIB, _safe_call

        self._booster = booster  # the prepared call points into it
        self._row = np.zeros(columns)
        self._score = ctypes.c_double()
        self._config = ctypes.c_void_p()
        self._free = _LIB.LGBM_FastConfigFree
        self._check = _safe_call
        _safe_call(
            _LIB.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle,
                ctypes.c_int(_NORMAL),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_ROUNDS),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(columns),
                ctypes.c_char_p(b"num_threads=1"),
                ctypes.byref(self._config),
            )
        )
        self._predict = _LIB.LGBM_BoosterPredictForMatSingleRowFast
        written = ctypes.c_int64()
        self._arguments = (
            self._config,
            ctypes.c_void_p(self._row.ctypes.data),
            ctypes.byref(written),
            ctypes.byref(self._score),
        )

    def __call__(self, row: Floats) -> float:
        self._row[:] = row
        self._check(self._predict(*self._arguments))
        return float(self._score.value)

    def __del__(self) -> None:
        if self._config:
            self._free(self._config)


def _check(labels: Floats, objective: str) -> None:
    if not len(labels):
        raise TrainingError(
            "LightGBM was given no rows to learn from.",
            hint="load history, or wait until labels have matured: print(training_set(...)) counts them.",
        )
    if not np.isfinite(labels).all():
        raise TrainingError("Some labels are null or infinite.", "train on matured rows: training_set(...).matured().")
    if objective == "binary" and labels.min() == labels.max():
        raise TrainingError(
            f"All {len(labels)} labels are {labels[0]:g}; a binary model needs both classes.",
            hint="train on a longer time, or check the label's column and `on`.",
        )
    if objective == "binary":
        check_binary(labels, "A binary model")


def check_text(text: str) -> None:
    """Refuse trees that point at columns, leaves or categories that there are not."""
    _, _, after = text.partition("max_feature_idx=")
    try:
        columns = int(after.split("\n", 1)[0]) + 1
    except ValueError:
        raise TrainingError(f"The text of {len(text)} characters is not a LightGBM model.", _HINT) from None
    if "\nend of trees" not in text:
        raise TrainingError("The LightGBM model ends before the end of its trees.", _HINT)
    for number, tree in enumerate(_trees(text)):
        try:
            sound = _is_sound(tree, columns)
        except (KeyError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise TrainingError(f"Tree {number} of the LightGBM model is damaged.", _HINT)


def _trees(text: str) -> Iterator[Mapping[str, str]]:
    body = text.partition("\nend of trees")[0]
    for block in body.split("\nTree=")[1:]:
        yield dict(line.split("=", 1) for line in block.splitlines()[1:] if "=" in line)


def _is_sound(tree: Mapping[str, str], columns: int) -> bool:
    leaves = int(tree["num_leaves"])
    if leaves < 1 or len(_numbers(tree, "leaf_value", float)) != leaves:
        return False
    if leaves == 1:
        return True
    names = ("split_feature", "left_child", "right_child", "decision_type")
    features, left, right, kinds = (_numbers(tree, name, int) for name in names)
    thresholds = _numbers(tree, "threshold", float)
    nodes = np.arange(leaves - 1)
    if any(len(one) != leaves - 1 for one in (features, left, right, kinds, thresholds)):
        return False
    for child in (left, right):  # a node's children come after it, so that every way ends in a leaf
        if not np.where(child < 0, ~child < leaves, (child > nodes) & (child < leaves - 1)).all():
            return False
    return bool(((features >= 0) & (features < columns)).all()) and _has_categories(tree, thresholds[(kinds & 1) == 1])


def _has_categories(tree: Mapping[str, str], wanted: np.ndarray) -> bool:
    if not len(wanted):
        return True
    bounds, bits = _numbers(tree, "cat_boundaries", int), _numbers(tree, "cat_threshold", int)
    inside = (wanted >= 0) & (wanted < len(bounds) - 1)
    return bool(inside.all() and bounds[0] == 0 and (np.diff(bounds) >= 0).all() and bounds[-1] <= len(bits))


def _numbers(tree: Mapping[str, str], name: str, kind: type) -> np.ndarray:
    return np.array([kind(word) for word in tree[name].split()], np.float64 if kind is float else np.int64)
