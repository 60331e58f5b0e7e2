"""What libraries of models load beside what they need: other libraries, where they are installed, to take what those make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_EXTRAS = ("dask", "joblib", "matplotlib", "pandas", "pyarrow", "sklearn")


@contextmanager
def without_extras() -> Iterator[None]:
    """Let no library load what it only offers others; we hand models matrices. LightGBM is loaded in a third of the time.

    Use it in a process that nobody else uses, and before it has a second thread: no import of those finds anything meanwhile.
    """
    hidden = {name: sys.modules.get(name) for name in _EXTRAS}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: it cannot be imported
    try:
        yield
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
