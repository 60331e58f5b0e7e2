"""A model that was fitted elsewhere, tried before it is registered: its text read, then loaded by a process apart.

Libraries trust their model files: one that was cut off or changed can end the process that loads it, or make it read
beyond its memory. So the text is checked first, and then loaded and asked for scores by a child process.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np

from millstream.errors import MillstreamError, TrainingError
from millstream.train.trainers.extras import without_extras
from millstream.train.trainers.trainer import sample, trainer

_SECONDS = 120
_MEMORY = 16 << 30  # bytes of address space: a file may ask for any number of leaves
_TRIED: set[tuple[str, str]] = set()  # what has passed in this process: kinds and digests of texts
_HINT = "register the model as its library writes it, whole and unchanged."


def try_out(kind: str, text: str) -> None:
    """Raise `TrainingError` unless a process that loads the model and scores rows with it lives, and says it is one.

    Args:
        kind: which trainer reads the text, such as "lightgbm".
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
    trainer(kind).check(text)
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


def _main() -> None:
    """What the child process does: load the model from its standard input, and score with it."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        library = trainer(sys.argv[1])
        with without_extras():
            predictor = library.load(sys.stdin.buffer.read().decode())
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
