"""A model that was fitted elsewhere, tried before it is registered: its trees read as text, then loaded by a process apart.

LightGBM trusts its model files: one that was cut off or changed can end the process that loads it, or make it read
beyond its memory. So the text is checked first, and then loaded and asked for scores by a child process.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping

import numpy as np

from millstream.errors import MillstreamError, TrainingError

_SECONDS = 120
_MEMORY = 16 << 30  # bytes of address space: a file may ask for any number of leaves
_TRIED: set[tuple[str, str]] = set()  # what has passed in this process: kinds and digests of texts
_HINT = "register what Booster.model_to_string() gave, whole and unchanged."


def try_out(kind: str, text: str) -> None:
    """Raise `TrainingError` unless a process that loads the model and scores rows with it lives, and says it is one.

    Args:
        kind: which library reads the text; "lightgbm".
        text: the model.

    Raises:
        TrainingError: the text is no such model, is not whole, or makes its library crash or hang.
    """
    if (kind, _digest(text)) in _TRIED:
        return
    _try_apart(kind, text)
    trust(kind, text)


def trust(kind: str, text: str) -> None:
    """Try a model out no more in this process: it has passed, or it was fitted here a moment ago."""
    _TRIED.add((kind, _digest(text)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _try_apart(kind: str, text: str) -> None:
    if kind == "lightgbm":
        _check_text(text)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "millstream.train.trial", kind],
            input=text.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingError(f"The model was not loaded within {_SECONDS} s in a process apart.", _HINT) from error
    if done.returncode < 0:
        raise TrainingError(f"The model makes its library crash (signal {-done.returncode}).", _HINT)
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise TrainingError(f"The model cannot be loaded in a process apart: {''.join(last)}.", _HINT) from None
    if said:
        raise TrainingError(said["message"], said["hint"])


def _check_text(text: str) -> None:
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


def _main() -> None:
    """What the child process does: load the model from its standard input, and score with it."""
    import resource

    from millstream.train.trainers import PREDICTORS, sample

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        predictor = PREDICTORS[sys.argv[1]](sys.stdin.buffer.read().decode())
        scores = predictor.predict(sample(predictor.columns))
        if not np.isfinite(scores).all():
            raise TrainingError("The model gives scores that are no finite numbers.", _HINT)
    except MillstreamError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
    except Exception as error:  # whatever its library raises
        print(json.dumps({"message": f"The model cannot be used: {type(error).__name__}: {error}.", "hint": _HINT}))
    else:
        print("{}")


if __name__ == "__main__":
    _main()
