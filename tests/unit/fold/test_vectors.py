"""Sums and means of vectors, held to NumPy, and what becomes of vectors that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import millstream as ms
from millstream.errors import DefinitionError, MillstreamError

USER = ms.Entity("user", keys={"user_id": "int64"})
VIEWS = ms.EventStream(
    "views",
    time="at",
    schema={
        "user_id": "int64",
        "item": "list<float64>",
        "small": "list<float32>",
        "counts": "list<int64>",
        "ok": "bool",
        "at": "timestamp",
    },
)
AT = "2026-01-01T12:00:00Z"


def group(*features: Any) -> ms.StreamFeatureGroup:
    return ms.StreamFeatureGroup("g", entity=USER, source=VIEWS, features=list(features))


def row(minute: int, item: Any, ok: bool | None = True) -> dict[str, Any]:
    at = f"2026-01-01T11:{minute:02}:00Z"
    return {"user_id": 1, "item": item, "small": item, "ok": ok, "at": at}


def computed(features: list[Any], rows: list[dict[str, Any]], user: int = 1) -> dict[str, Any]:
    (found,) = ms.compute(group(*features), {VIEWS: rows}, [{"user_id": user, "at": AT}]).to_pylist()
    return {name.removeprefix("g__"): value for name, value in found.items() if name.startswith("g__")}


def test_vectors_are_added_and_averaged_as_numpy_does() -> None:
    vectors = np.random.default_rng(3).normal(0, 100, (40, 64))
    rows = [row(n, vector, ok=n % 3 == 0) for n, vector in enumerate(vectors)]
    found = computed(
        [
            ms.VectorSum("item", dim=64), ms.VectorMean("item", dim=64, over="1h"), ms.VectorMean("small", dim=64),
            ms.VectorSum("item", dim=64, where="ok", name="some"), ms.VectorMean("item", dim=64, over="7 events"),
        ],
        rows,
    )  # fmt: skip
    assert found["item_vector_sum"] == pytest.approx(vectors.sum(0), rel=1e-12, abs=1e-12)
    assert found["item_vector_mean_1h"] == pytest.approx(vectors.mean(0), rel=1e-12, abs=1e-12)
    rounded = vectors.astype(np.float32).astype(np.float64)
    assert found["small_vector_mean"] == pytest.approx(rounded.mean(0), rel=1e-12, abs=1e-12)
    assert found["some"] == pytest.approx(vectors[::3].sum(0), rel=1e-12, abs=1e-12)
    assert found["item_vector_mean_7_events"] == pytest.approx(vectors[-7:].mean(0), rel=1e-12, abs=1e-12)


def test_a_sum_of_no_vector_is_zeros_and_a_mean_null() -> None:
    features = [ms.VectorSum("item", dim=2), ms.VectorMean("item", dim=2)]
    nothing = {"item_vector_sum": [0.0, 0.0], "item_vector_mean": None}
    assert computed(features, [row(1, [1.0, 2.0])], user=2) == nothing
    assert computed(features, [row(1, None)]) == nothing


def test_elements_that_cancel_leave_nothing_of_their_neighbours() -> None:
    """Sums below zero borrow of no other element, whatever the order, also where rows leave a window again."""
    vectors = [[-1e15, 1e-18, -0.0], [1e15, -1e-18, 3.0], [-5e-324, -1.0, -3.0]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        rows = [row(n, vectors[place]) for n, place in enumerate(order)]
        found = computed([ms.VectorSum("item", dim=3), ms.VectorSum("item", dim=3, over="2 events")], rows)
        assert found["item_vector_sum"] == [0.0, -1.0, 0.0]
        last = np.sum([vectors[place] for place in order[-2:]], axis=0)
        assert found["item_vector_sum_2_events"] == pytest.approx(last, abs=2.0**-64)


@pytest.mark.parametrize("wrong", [[1.0], [1.0, 2.0, 3.0], [], [1.0, None], [1.0, float("inf")], [1.0, 2.0**50]])
def test_what_is_no_vector_of_that_length_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(MillstreamError, match=r"row 1 cannot be computed: `item` is no vector of 2 finite numbers"):
        computed([ms.VectorSum("item", dim=2)], [row(1, [1.0, 2.0]), row(2, wrong)])
    assert computed([ms.VectorSum("item", dim=2, where="ok")], [row(1, [1.0, 2.0]), row(2, wrong, ok=False)])


def test_a_model_reads_the_elements_and_a_function_the_whole() -> None:
    @ms.on_demand(returns="float64")
    def length(g__item_vector_mean):
        total = 0.0
        for one in g__item_vector_mean:
            total += one * one
        return np.sqrt(total)

    habits = group(ms.VectorMean("item", dim=2))
    view = ms.FeatureView("v", request={}, features=[habits["item_vector_mean"].spread(), habits, length])
    rows = [row(1, [3.0, 4.0]), row(2, [3.0, 4.0])]
    (found,) = ms.compute(view, {VIEWS: rows}, [{"user_id": 1, "at": AT}]).to_pylist()
    assert (found["g__item_vector_mean_1"], found["g__item_vector_mean_2"], found["length"]) == (3.0, 4.0, 5.0)
    (none,) = ms.compute(view, {VIEWS: rows}, [{"user_id": 2, "at": AT}]).to_pylist()
    assert none["g__item_vector_mean_1"] is None and none["length"] is None


def test_a_request_adds_no_vector() -> None:
    habits = group(ms.VectorSum("item", dim=2), ms.Count())
    view = ms.FeatureView("v", request={"ok": "bool"}, features=[habits.with_request()])
    asked = [{"user_id": 1, "ok": True, "at": AT}]
    (found,) = ms.compute(view, {VIEWS: [row(1, [3.0, 4.0])]}, asked).to_pylist()
    assert (found["g__item_vector_sum"], found["g__count"]) == ([3.0, 4.0], 2)


def test_wrong_definitions_are_refused() -> None:
    with pytest.raises(DefinitionError, match="a whole number from 1 to 4096"):
        ms.VectorSum("item", dim=5_000)
    with pytest.raises(DefinitionError, match=r"vector_sum of `user_id` has type int64; expected list<float64>"):
        group(ms.VectorSum("user_id", dim=2))
    with pytest.raises(DefinitionError, match=r"`counts` has type list<int64>(?s:.*)declare 'counts' as list<float64>"):
        group(ms.VectorSum("counts", dim=1))
