"""One release as an actor: a process that stays open, and does to a project what it is told on its standard input.

It is run with the code of any release, so it uses what all of them have.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import millstream as ms

USERS = 3
VIEW = "pace_view"


class Actor:
    """The project that is open, and what may be asked of it."""

    def __init__(self) -> None:
        self.project: ms.Project | None = None

    def open(self, folder: str) -> None:
        """Open a project."""
        self.project = ms.Project(folder)

    def close(self) -> None:
        """Let go of the project that is open."""
        if self.project is not None:
            self.project.close()
            self.project = None

    def append(self, first: int, count: int) -> None:
        """Send events with the numbers from `first` on."""
        at = self._open.parts.clock.now()
        events = [{"user_id": n % USERS, "ms": float(n), "at": at} for n in range(first, first + count)]
        self._open.send("clicks", events)

    def compute(self) -> None:
        """Compute what there is."""
        computer = self._layers.computer()
        while computer.step().records:
            pass
        computer.close()

    def ingest(self) -> None:
        """Ingest what is computed."""
        ingester = self._layers.ingester()
        while ingester.step().records:
            pass

    def archive(self) -> None:
        """Archive what there is, and sync."""
        self._open.sync()

    def backfill(self) -> None:
        """Fold all of history anew."""
        self._open.backfill("pace")

    def score(self, user: int) -> None:
        """Score a request, which is captured."""
        self._open.score("slow", [{"user_id": user}])

    def verify(self) -> dict[str, Any]:
        """Bring all to where it belongs; what is served then, and what verification finds of what was served before."""
        self._open.drain()
        self._open.sync()
        found = self._open.verify(VIEW)
        served = self._open.features(VIEW, [{"user_id": user} for user in range(USERS)]).to_pylist()
        parts = self._open.parts
        history = parts.histories.events() if hasattr(parts, "histories") else parts.history()
        events = history.read("clicks")["ms"].to_pylist()
        return {
            "requests": found.requests,
            "mismatches": found.mismatches,
            "degraded": found.degraded,
            "served": [[row["pace__count_30d"], row["pace__ms_sum_30d"]] for row in served],
            "events": sorted(events),
        }

    @property
    def _layers(self) -> Any:
        """What makes the layers: the parts themselves in releases that have nothing else for it."""
        return getattr(self._open.parts, "layers", self._open.parts)

    @property
    def _open(self) -> ms.Project:
        assert self.project is not None
        return self.project


def main() -> None:
    """Do what each line of standard input says, and answer each with a line; the first says whose code this is."""
    actor, answers = Actor(), sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(str(Path(ms.__file__).parents[1])), file=answers, flush=True)
    for line in sys.stdin:
        name, *given = json.loads(line)
        try:
            answer = getattr(actor, name)(*given)
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{name}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
