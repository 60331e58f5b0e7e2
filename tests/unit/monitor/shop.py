"""A project whose clock stands still between two rounds, for the tests of what looks back at what was served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

import millstream as ms
from millstream.clock import FileClock, to_micros

user = ms.Entity("user", keys={"user_id": "int64"})
orders = ms.EventStream(
    "orders", time="at", schema={"user_id": "int64", "payee_id": "int64", "amount": "float64", "at": "timestamp"}
)
paid = ms.EventStream("paid", time="at", schema={"payee_id": "int64", "late": "bool", "at": "timestamp"})
NOON = to_micros("2026-01-01T12:00:00Z")
SECOND, MINUTE = 1_000_000, 60_000_000


def fitted(columns: tuple[str, ...]) -> lightgbm.Booster:
    rng = np.random.default_rng(3)
    drawn = lightgbm.Dataset(rng.random((200, len(columns))), rng.integers(0, 2, 200), feature_name=list(columns))
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, drawn, num_boost_round=2)


class Shop:
    """A project whose clock stands still, except between two rounds of orders and scores."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
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
        view = self.project.parts.registry.model("risk").view
        words = {name: ["gold"] for name, kind in view.dtypes.items() if kind == "string"}
        self.project.register("risk", fitted(view.columns), dictionaries=words)
        self.project.deploy(model)

    def begin(self, *features: Any, request: dict[str, str] | None = None) -> None:
        """Declare a model of these features and deploy a version of it."""
        self.declare(*features, request=request)
        self.project.drain()
        self.project.backfill()
        self.deploy(self.model)

    def declare(self, *features: Any, request: dict[str, str] | None = None, breaking: bool = False) -> None:
        """Declare a model that learns from captures, of these features."""
        view = ms.FeatureView("risk", request=request or {}, features=features)
        label = ms.Label(paid, "late", on="payee_id", after="1h")
        self.model = ms.Model("risk", view=view, examples="captures", label=label)
        self.project.apply(self.model, allow_breaking=breaking)

    def score(self, at: int | None = None, **row: Any) -> dict[str, Any]:
        """Score a row of user 1; the answer."""
        asked = {"user_id": 1, **row, **({} if at is None else {"at": at})}
        (answer,) = self.project.score("risk", [asked]).to_pylist()
        self.asked.append(answer["request_id"])
        return dict(answer)

    def served(self, column: str) -> list[Any]:
        """A column of what was served to the rows scored one by one, oldest first."""
        self.project.verify(sample=1)  # ships what was captured
        captures = self.project.parts.histories.captures("risk").to_pylist()
        values = {capture["_request_id"]: capture[column] for capture in captures}
        return [values[request] for request in self.asked]


def holds(project: ms.Project, requests: int) -> None:
    """Every served value verifies, and no difference from training is unexplained."""
    verified, compared = project.verify(), project.parity("risk")
    assert (verified.requests, verified.mismatches, verified.shown) == (requests, 0, ())
    assert (compared.requests, compared.unexplained, compared.shown) == (requests, 0, ())
