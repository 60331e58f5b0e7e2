"""Whose fault it is that a query failed: a row's, the query's own, or the machine's; and which rows are guilty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def is_row_error(error: BaseException) -> bool:
    """Whether a query that can be run at all may have failed because of a value in some row.

    Engines raise errors of every class for what they find in a row, internal ones and those of other libraries among
    them; so all count but those of the machine: memory, disks, interruptions.
    """
    import duckdb
    import pyarrow as pa

    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return True  # a row may ask for more than there is; `halved` finds out
    if isinstance(error, duckdb.OperationalError | duckdb.InterruptException | duckdb.PermissionException | OSError):
        return False
    kinds = (duckdb.Error, pa.ArrowException, UnicodeError, ArithmeticError, ValueError, TypeError, RuntimeError)
    return isinstance(error, kinds)


def is_query_error(error: BaseException) -> bool:
    """Whether a query that failed without any row does not fit what it reads, or the engine."""
    import duckdb

    kinds = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.SyntaxException)
    return isinstance(error, kinds)


def halved(rows: int, run: Callable[[int, int], Result]) -> tuple[list[tuple[int, int, Result]], dict[int, Exception]]:
    """What `run(first, size)` gives for ranges that together hold each row on which it does not fail, and the others.

    Each range on which it fails is halved, until each guilty row stands alone. Where rows run out of memory and none of
    the others can be run either, it is the machine that has too little.

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
            if not is_row_error(error):
                raise
            if size == 1:
                guilty[first] = error
            else:
                waiting += [(first + size // 2, size - size // 2), (first, size // 2)]
    short = next((error for error in guilty.values() if _is_memory(error)), None)
    if short is not None and not found:
        raise short
    return found, guilty


def first_line(error: BaseException) -> str:
    """The first line of what an engine said.

    >>> first_line(ValueError("Invalid Input Error: no number.\\nLINE 1: ..."))
    'Invalid Input Error: no number'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _is_memory(error: BaseException) -> bool:
    import duckdb

    return isinstance(error, duckdb.OutOfMemoryException | MemoryError)
