"""Made-up values, on which a compiled function is held to the same text run by Python on NumPy's numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from millstream.definitions.row_function import RowFunction, fits
from millstream.definitions.schema import element_of
from millstream.errors import DefinitionError

_ROWS = 64
_NUMBERS = [0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.0, 0.001, 99.99, 100.0, -7.25, 1e6, -1e6, 12345.678, 1e9]
#: Values of each type that a made-up row may have.
POOLS: dict[str, list[Any]] = {
    "float64": _NUMBERS,
    "int64": [0, 1, -1, 2, 3, 7, 10, -10, 24, 60, 100, 3600, 86_400, 1_000_003],
    "bool": [False, True],
    "timestamp": [0, 1, 1_000_000, 1_700_000_000_000_000, 1_700_000_060_000_001, 1_709_164_800_000_000, -1_000_000],
    "string": [
        "",
        "a",
        "DE",
        "de",
        "A b",
        " x ",
        "user@example.com",
        "é",
        "Ünï",
        "12",
        "a-b_c",
        "0x1F",
        "x" * 40,
        "日本",
    ],
}
#: Relative: NumPy and the compiled form may take a logarithm by different routines.
_CLOSE = 1e-9


def check_made_up(thing: str, function: RowFunction, reference: Callable[..., Any]) -> None:
    """Hold a compiled function to its text in Python on 64 made-up rows.

    Args:
        thing: what the function is, for errors.
        function: the compiled function.
        reference: the function that Python makes of the same text, which takes the arguments in their order.

    Raises:
        DefinitionError: where the two differ.
    """
    import numpy as np

    rows = [[_pick(kind, function.nulls, i, place) for place, kind in enumerate(function.types)] for i in range(_ROWS)]
    columns = {
        name: _column([row[place] for row in rows], kind)
        for place, (name, kind) in enumerate(zip(function.arguments, function.types, strict=True))
    }
    compiled = function.call(columns)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for row, got in zip(rows, compiled.tolist(), strict=True):
            expected = _expected(reference, row, function)
            if not _same(None if got != got else got, expected):
                given = ", ".join(f"{name}={value!r}" for name, value in zip(function.arguments, row, strict=True))
                raise DefinitionError.differs_compiled(thing, given, None if got != got else got, expected)


def _pick(kind: str, nulls: str, row: int, place: int) -> Any:
    """A value of an argument's pool, so that the arguments go through theirs at different paces."""
    pool = _lists(element) if (element := element_of(kind)) else POOLS[kind]
    pool = [*pool, None] if nulls == "pass" else pool
    return pool[(row * (2 * place + 1) + row // len(pool) + 5 * place) % len(pool)]


def _lists(kind: str) -> list[Any]:
    """Lists of a type: empty ones, short ones and longer ones."""
    values = POOLS[kind] * 2
    return [values[start : start + size] for start, size in enumerate((0, 1, 2, 0, 3, 5, 8))]


def _column(values: list[Any], kind: str) -> Any:
    import numpy as np

    if element := element_of(kind):
        from millstream.definitions.list_columns import Lists

        return Lists.of_values(values, element)
    if kind == "string":
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _expected(reference: Callable[..., Any], row: list[Any], function: RowFunction) -> Any:
    import numpy as np

    take: dict[str, Callable[[Any], Any]] = {"float64": np.float64, "bool": np.bool_, "string": lambda text: text}
    passed = function.nulls == "pass"
    given = [
        value if kind == "string" or (value is None and element_of(kind))
        else np.array(value, {"float64": np.float64, "bool": np.bool_}.get(element, np.int64)) if (element := element_of(kind))
        else np.float64(math.nan if value is None else value) if passed
        else take.get(kind, np.int64)(value)
        for value, kind in zip(row, function.types, strict=True)
    ]  # fmt: skip
    try:
        value = reference(*given)
        if isinstance(value, np.ndarray | np.generic):
            value = value.item()
        if value is None or isinstance(value, str):
            return value
        number = float(value)
    except Exception:  # whatever the text raises: that row has no value
        return None
    return number if fits(number, function.returns) else None


def _same(got: Any, expected: Any) -> bool:
    if isinstance(got, float | int) and isinstance(expected, float | int):
        return math.isclose(got, expected, rel_tol=_CLOSE, abs_tol=1e-12)
    return bool(got == expected)
