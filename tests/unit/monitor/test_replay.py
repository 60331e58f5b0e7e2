"""Captures outlive definitions: each is recomputed by the view, the functions and the group versions that served it."""

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

import millstream as ms
from millstream.clock import FileClock, to_micros
from millstream.definitions.on_demand import OnDemandFeature
from millstream.errors import NotFound, TrainingError

user = ms.Entity("user", keys={"user_id": "int64"})
orders = ms.EventStream(
    "orders", time="at", schema={"user_id": "int64", "payee_id": "int64", "amount": "float64", "at": "timestamp"}
)
paid = ms.EventStream("paid", time="at", schema={"payee_id": "int64", "late": "bool", "at": "timestamp"})
NOON = to_micros("2026-01-01T12:00:00Z")
SECOND = 1_000_000


def declared(*features: Any, share: str = "amount / spend__amount_sum_1h") -> ms.Model:
    """A model whose view reads one group by two keys, without a prefix, and a function."""
    spend = ms.StreamFeatureGroup(
        "spend", entity=user, source=orders, features=[ms.Count(over="1h"), ms.Sum("amount", over="1h"), *features]
    )
    text = f"def share(amount, spend__amount_sum_1h):\n    return {share}"
    more = [spend[name] for name in spend.feature_names[2:]]
    read = [spend["amount_sum_1h"], spend["count_1h"].on(user_id="payee_id"), *more]
    view = ms.FeatureView(
        "risk",
        request={"amount": "float64"},
        features=[*read, OnDemandFeature("share", source_text=text, returns="float64")],
    )
    return ms.Model("risk", view=view, examples=orders, label=ms.Label(paid, "late", on="payee_id", after="1h"))


def fitted(columns: tuple[str, ...]) -> lightgbm.Booster:
    rng = np.random.default_rng(3)
    drawn = lightgbm.Dataset(rng.random((200, len(columns))), rng.integers(0, 2, 200), feature_name=list(columns))
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, drawn, num_boost_round=2)


class Shop:
    """A project whose clock stands still, except between two rounds of orders and scores."""

    def __init__(self, folder: Path) -> None:
        data = folder / ".millstream"
        data.mkdir()
        self.clock = FileClock(data / "clock.json")
        self.clock.set(NOON, rate=0.0)
        self.project = ms.Project(folder, create=True)

    def round(self) -> list[str]:
        """Some orders, then a score for each user; the ids of the answers."""
        self.clock.advance(60 * SECOND)
        now = self.clock.now()
        sent = [
            {"user_id": i % 5, "payee_id": i % 3, "amount": 0.1 * i, "at": now - i * 7 * SECOND} for i in range(1, 60)
        ]
        self.project.send("orders", sent)
        self.project.drain()
        asked = [{"user_id": i, "payee_id": i + 1, "amount": 3.0, "at": now + SECOND} for i in range(6)]
        return list(self.project.score("risk", asked)["request_id"].to_pylist())

    def deploy(self, model: ms.Model) -> None:
        self.project.register("risk", fitted(self.project.parts.registry.model("risk").view.columns))
        self.project.deploy(model)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def holds(project: ms.Project, requests: int) -> None:
    verified, compared = project.verify(), project.parity("risk")
    assert (verified.requests, verified.mismatches, verified.shown) == (requests, 0, ())
    assert (compared.requests, compared.unexplained, compared.shown) == (requests, 0, ())


def test_a_view_that_moved_on_still_recomputes_what_it_served(shop: Shop) -> None:
    first = declared()
    shop.project.apply(first)
    shop.deploy(first)
    ids = shop.round()
    holds(shop.project, 6)
    second = declared(ms.Max("amount", over="1h"), share="spend__amount_sum_1h - amount")
    shop.project.apply(second, allow_breaking=True)
    ids += shop.round()  # the champion still reads the version that has no maximum
    holds(shop.project, 12)
    shop.project.backfill()
    shop.deploy(second)
    ids += shop.round()
    shop.project.sync()
    holds(shop.project, 18)
    told = [shop.project.explain(one).vector for one in (ids[0], ids[6], ids[12])]
    assert [one["share"] * one["spend__amount_sum_1h"] == pytest.approx(3.0) for one in told] == [True, False, False]
    assert ["spend__amount_max_1h" in one for one in told] == [False, True, True]
    assert told[1]["spend__amount_max_1h"] is None
    assert told[2]["spend__amount_max_1h"] > 0


def test_training_waits_for_the_version_that_has_what_the_view_reads(shop: Shop) -> None:
    shop.project.apply(declared())
    shop.deploy(declared())
    shop.round()
    shop.project.apply(declared(ms.Max("amount", over="1h")))
    with pytest.raises(TrainingError, match="reads 'spend__amount_max_1h', which 'spend@1' does not have") as told:
        shop.project.training_set("risk")
    assert told.value.hint is not None
    assert "live" in told.value.hint
    shop.project.backfill()
    assert "spend__amount_max_1h" in shop.project.training_set("risk").table.column_names


def test_a_default_holds_where_the_version_lacks_a_string(shop: Shop) -> None:
    shop.project.apply(declared())
    shop.deploy(declared())
    shop.round()
    named = ms.Last("case when amount > 3 then 'much' else 'little' end", name="size")
    changed = declared(named)
    view = changed.view
    defaulted = ms.FeatureView(
        "risk",
        request=view.request,
        features=[one.default("none") if getattr(one, "feature", "") == "size" else one for one in view.features],
    )
    shop.project.apply(ms.Model("risk", view=defaulted, examples=orders, label=changed.label))
    (request_id, *_) = shop.round()
    holds(shop.project, 12)
    assert shop.project.explain(request_id).vector["spend__size"] == "none"


def test_a_revision_that_the_registry_does_not_have_is_named(shop: Shop) -> None:
    shop.project.apply(declared())
    with pytest.raises(NotFound, match="No revision of view 'risk' is named 'abc'"):
        shop.project.parts.registry.view("risk", "abc")
