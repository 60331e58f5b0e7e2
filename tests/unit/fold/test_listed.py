"""Values and lists from lanes: one of them, which Python makes, is what Arrow makes of many."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from millstream.definitions.data_types import arrow_type
from millstream.fold.lanes import EMPTY_GREATEST, EMPTY_LEAST
from millstream.fold.listed import lists_of, only_list_of, reference
from millstream.fold.ordered import arrow_of, coded, only_value_of, value_of, values_of

BYTES = 300
VALUES: dict[str, list[Any]] = {
    "float64": [0.0, 1.5, -2.25, 5e-324, -1.7976931348623157e308],
    "int64": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63)],
    "timestamp": [0, -1, 1_700_000_000_000_001],
    "bool": [True, False],
    "string": ["", "a", "approved", "approved!", "a\0", "é", "\U0001f600", "x" * 255, "y" * 256, "z" * BYTES],
    "bytes": [b"", b"\0", b"\xff" * 8, b"\x80" * 9, b"q" * BYTES],
    "date": [date(1969, 12, 31), date(1970, 1, 1), date(2026, 11, 28), date(1, 1, 1), date(9999, 12, 31)],
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")],
    "decimal(10, 2)": [Decimal("0.00"), Decimal("-0.01"), Decimal("99999999.99"), Decimal("-99999999.99")],
}
TIMES = pa.timestamp("us", "UTC")


def lanes_of(kind: str, values: list[Any], max_bytes: int = BYTES) -> np.ndarray:
    column = pa.array(values, pa.int64()).cast(TIMES) if kind == "timestamp" else pa.array(values, arrow_type(kind))
    found = coded("x", pa.chunked_array([column]), kind, max_bytes, None)
    assert found.valid.all()
    return found.lanes


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same to the last bit, and of one type."""
    return type(left) is type(right) and repr(left) == repr(right)


@pytest.mark.parametrize("kind", VALUES)
def test_one_value_is_what_arrow_makes_of_it(kind: str) -> None:
    lanes = lanes_of(kind, VALUES[kind])
    found = [value_of(kind, one) for one in lanes.tolist()]
    assert len(found) == len(VALUES[kind])
    assert all(map(same, found, arrow_of(kind, lanes).to_pylist()))
    assert all(map(same, found, VALUES[kind]))


@pytest.mark.parametrize("max_bytes", [7, 8, 39, 255])
def test_one_text_of_any_width_is_what_was_kept(max_bytes: int) -> None:
    texts = ["", "a", "b" * (max_bytes - 1), "c" * max_bytes]
    assert [value_of("string", one) for one in lanes_of("string", texts, max_bytes).tolist()] == texts


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_the_column_of_one_row_is_that_row_of_the_column_of_many(kind: str, inverted: bool) -> None:
    kept = lanes_of(kind, VALUES[kind])
    lanes = np.column_stack([np.zeros(len(kept), np.int64), ~kept if inverted else kept])
    for nothing in (EMPTY_LEAST, EMPTY_GREATEST):
        lanes = np.vstack([lanes, np.full((1, lanes.shape[1]), nothing)])
    beyond = kind == "int64"  # a column that holds a whole number which float64 has not is objects; others need not be
    many = values_of(kind, lanes, inverted)
    for row, one in enumerate(lanes):
        only = only_value_of(kind, one.tolist(), inverted)
        assert len(only) == 1
        assert only.dtype == many.dtype or beyond
        expected = many.tolist()[row]
        if beyond and only.dtype != many.dtype:
            expected = np.nan if expected is None else float(expected)
        assert same(only.tolist()[0], expected)


def heap_of(lists: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
    """A heap with some lists, and what refers to each."""
    heap, refs = [1], []
    for one in lists:
        if one is None or not len(one):
            refs.append(-1 if one is None else 0)
            continue
        refs.append(int(reference.py_func(np.int64(len(heap)), np.int64(len(one)))))
        heap += one.ravel().tolist()
    heap[0] = len(heap)
    return np.array(heap, np.int64), np.array(refs, np.int64)


def both_ways(kind: str, widths: tuple[int, ...], lists: list[np.ndarray | None]) -> list[Any]:
    """Lists from a heap, which are the same whether they are made one by one or together."""
    heap, refs = heap_of(lists)
    many = lists_of(kind, widths, heap, refs)
    found = many.tolist()
    for row, ref in enumerate(refs.tolist()):
        only = only_list_of(kind, widths, heap, ref)
        assert len(only) == 1
        for read in (only.item(0), only.tolist()[0], only[0], only.copy().tolist()[0], many[row]):
            assert repr(read) == repr(found[row])
        assert repr(only[np.array([0, 0])].tolist()) == repr([found[row]] * 2)  # by way of Arrow
    return found


@pytest.mark.parametrize("kind", VALUES)
def test_one_list_is_what_it_is_among_many(kind: str) -> None:
    kept = lanes_of(kind, VALUES[kind])
    found = both_ways(f"list<{kind}>", (kept.shape[1],), [kept, None, kept[:0], kept[::-1], kept[:1]])
    assert found == [VALUES[kind], None, [], VALUES[kind][::-1], VALUES[kind][:1]]


def test_a_list_of_many_elements_is_made_by_arrow_to_the_same_values() -> None:
    numbers = [float(n) / 7 for n in range(1_000)]
    assert both_ways("list<float64>", (1,), [lanes_of("float64", numbers), None]) == [numbers, None]


def test_a_field_that_is_not_there_is_null_whatever_its_lanes_are() -> None:
    keys, days = lanes_of("string", ["a", "b"], 39), lanes_of("date", [date(2026, 1, 31)])
    nowhere = np.full(1, 2**62)  # no date
    entries = np.stack([np.concatenate([[1], keys[0], [1], days[0]]), np.concatenate([[1], keys[1], [0], nowhere])])
    found = both_ways("map<string, date>", (keys.shape[1], 1), [entries, entries[:0], None, entries[1:]])
    assert found == [{"a": date(2026, 1, 31), "b": None}, {}, None, {"b": None}]


def test_a_list_made_null_stays_so() -> None:
    heap, refs = heap_of([lanes_of("int64", [1, 2])])
    only = only_list_of("list<int64>", (1,), heap, int(refs[0]))
    other = only.copy()
    other[[0]] = None
    assert (only.tolist(), other.tolist(), other.item(0)) == ([[1, 2]], [None], None)
    only[np.array([0])] = other
    assert only.tolist() == [None]
