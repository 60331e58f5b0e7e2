"""Which rows are guilty where a query fails on some."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from millstream.engines.embedded import EMBEDDED
from millstream.engines.engine import Fault

Result = TypeVar("Result")


def halved(
    rows: int, run: Callable[[int, int], Result], fault: Callable[[BaseException], Fault] = EMBEDDED.fault
) -> tuple[list[tuple[int, int, Result]], dict[int, Exception]]:
    """What a query gives for ranges of rows without those on which it fails, and which these are.

    Each range on which it fails is halved, until each guilty row stands alone. Where rows run out of memory and none of
    the others can be run either, it is the machine that has too little.

    Args:
        rows: how many rows there are.
        run: runs the query on some of the rows, by the first of them and how many they are.
        fault: says whose fault an error of the engine is; that of the engine within the process unless given.

    Returns:
        The first row of each range, how many it has and what `run` gave for it; and by each guilty row its error.

    Raises:
        Exception: what `run` raised that is no row's fault.

    >>> found, guilty = halved(5, lambda first, size: [1 // (row - 3) for row in range(first, first + size)])
    >>> [(first, size) for first, size, _ in found], guilty
    ([(0, 2), (2, 1), (4, 1)], {3: ZeroDivisionError('integer division or modulo by zero')})
    """
    found: list[tuple[int, int, Result]] = []
    guilty: dict[int, Exception] = {}
    waiting = [(0, rows)] if rows else []
    while waiting:
        first, size = waiting.pop()
        try:
            found.append((first, size, run(first, size)))
        except Exception as error:
            if fault(error) == "machine":
                raise
            if size == 1:
                guilty[first] = error
            else:
                waiting += [(first + size // 2, size - size // 2), (first, size // 2)]
    short = next((error for error in guilty.values() if fault(error) == "memory"), None)
    if short is not None and not found:
        raise short
    return found, guilty
