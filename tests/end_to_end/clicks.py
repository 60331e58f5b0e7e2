"""Clicks that producers send until they are acknowledged, and what a project serves of them."""

from __future__ import annotations

import time

import millstream as ms
from millstream.errors import LogError

USERS = 40
user = ms.Entity("user", keys={"user_id": "int64"})
clicks = ms.EventStream("clicks", time="at", deduplicate="id", schema={
    "id": "string", "user_id": "int64", "amount": "float64", "at": "timestamp"})  # fmt: skip
pace = ms.StreamFeatureGroup("pace", entity=user, source=clicks, features=[ms.Count(), ms.Sum("amount")])
view = ms.FeatureView("pace", features=[pace])


class Clicks:
    """The clicks of a project.

    Args:
        project: the project, which serves `view`.
    """

    def __init__(self, project: ms.Project) -> None:
        self._project = project
        self._amounts: dict[int, list[float]] = {n: [] for n in range(USERS)}
        self._sent = 0

    def send(self, by: ms.Project, count: int, pause: float) -> None:
        """Send clicks, again under the same ids until they are acknowledged.

        Args:
            by: the project, opened in another way maybe.
            count: how many.
            pause: seconds between two attempts.
        """
        now, numbers = time.time_ns() // 1_000, range(self._sent, self._sent + count)
        rows = [{"id": str(n), "user_id": n % USERS, "amount": n / 8, "at": now} for n in numbers]
        while True:
            try:
                by.send(clicks, rows)
                break
            except LogError:
                time.sleep(pause)
        for row in rows:
            self._amounts[row["user_id"]].append(row["amount"])
        self._sent += count

    def served(self) -> list[tuple[int, float | None]]:
        """By user, how many clicks and what sum are served."""
        rows = self._project.features(view, [{"user_id": n} for n in range(USERS)]).to_pylist()
        return [(row["pace__count"], row["pace__amount_sum"]) for row in rows]

    def acknowledged(self) -> list[tuple[int, float]]:
        """By user, how many clicks and what sum were acknowledged."""
        return [(len(some), sum(some)) for some in self._amounts.values()]

    def check(self) -> None:
        """Take in what is left: what is served is what was acknowledged, and the fold of history."""
        self._project.drain()
        assert self.served() == self.acknowledged()
        reports = self._project.parts.layers.syncer().step()
        assert sum(one.compared for one in reports) > 0
        assert not any(one.disagreeing for one in reports)
