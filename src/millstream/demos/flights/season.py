"""July to December through the real pipeline in simulated time: events in, requests answered, labels back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from millstream.buffer.codec.write import encode
from millstream.clock import to_micros
from millstream.serve.capture import CaptureJournal, CaptureShipper

if TYPE_CHECKING:
    from millstream.demos.flights.data import Flights
    from millstream.demos.flights.spending import Spending
    from millstream.project import Project

MINUTE = 60 * 1_000_000
DAY = 24 * 60 * MINUTE
#: Events reach the log, and requests are answered, in steps of this length of simulated time.
TICK = 30 * MINUTE
#: The first day that runs live; what came before is history.
OPENING = to_micros("2013-07-01T04:00:00Z")
STREAMS = ("departures", "arrivals", "requests", "outcomes")
_TIMES = {"departures": "departed_at", "arrivals": "landed_at", "requests": "asked_at", "outcomes": "known_at"}


@dataclass
class Track:
    """One stream's events in order of time, those that count beginning at `begun`, and how many were sent or passed."""

    table: pa.Table
    times: np.ndarray
    sent: int = 0
    begun: int = 0

    def until(self, instant: int) -> pa.Table:
        """The next events, up to and including `instant`; they count as sent."""
        first, self.sent = self.sent, int(np.searchsorted(self.times, instant, side="right"))
        return self.table.slice(first, self.sent - first)


def tracks(flights: Flights) -> dict[str, Track]:
    """The four streams, nothing sent yet."""
    found = {}
    for name in STREAMS:
        table = getattr(flights, name)
        found[name] = Track(table, table[_TIMES[name]].cast(pa.int64()).to_numpy())
    return found


@dataclass
class Tally:
    """What a stretch of the season came to."""

    events: int = 0
    requests: int = 0
    pipeline_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Take another stretch in."""
        self.events += other.events
        self.requests += other.requests
        self.pipeline_seconds += other.pipeline_seconds
        self.latencies += other.latencies
        self.scores |= other.scores


class Season:
    """The live part of the demo: it owns the clock, the sources' side and the callers' side.

    Everything between is the pipeline itself: the log, stream and batch computing, ingestion, the online store, the
    scorer with its captures, the archive and sync.
    """

    def __init__(self, project: Project, flights: Flights, spending: Spending) -> None:
        self.spending = spending
        self.project, self.parts, self.tracks = project, project.parts, tracks(flights)
        self.clock: Any = project.parts.clock
        self.streams = {stream.name: stream for stream in self.parts.registry.streams()}
        self._due = 0
        self._late: dict[str, bool] = {}
        self._journal = CaptureJournal(self.parts.settings.data / "journal")
        self._shipper = CaptureShipper(self._journal, self.parts.log)

    def load_history(self, until: int, since: int = 0) -> int:
        """Send what happened before `until` as history; returns how many events that was."""
        count = 0
        for name, track in self.tracks.items():
            if since:
                track.until(since)
                track.begun = track.sent
            count += self.project.load(name, track.until(until))
        return count

    def open(self) -> None:
        """Start the workers of the pipeline in this process."""
        self.computer, self.ingester = self.parts.layers.computer(), self.parts.layers.ingester()
        self.batches, self.batch_ingester = (
            self.parts.layers.batch_computer(),
            self.parts.layers.batch_ingester(bite=10_000),
        )

    def deploy(self) -> None:
        """Score with the champion from now on."""
        self.scorer = self.parts.served.scorer("late")

    def close(self) -> None:
        """Stop the workers; what they have done is durable."""
        self._shipper.step()
        self._journal.close()
        self.computer.close()

    def run(self, start: int, end: int) -> Iterator[Tally]:
        """Live from `start` to `end`, a day at a time."""
        for day in range(start, end, DAY):
            tally = Tally()
            for instant in range(day, min(day + DAY, end), TICK):
                self._tick(instant, tally)
            yield tally

    def _tick(self, instant: int, tally: Tally) -> None:
        """What happened up to `instant` goes through the pipeline; then the requests until the next tick are scored."""
        began = time.perf_counter()
        self.clock.set(instant)
        first, last = np.searchsorted(self.tracks["requests"].times, [instant, instant + TICK]).tolist()
        with self.spending.on("sending"):
            sent = self._send(instant)
        if sent:
            self._drain()
        with self.spending.on("batch groups"):
            self._batch(instant)
        tally.pipeline_seconds += time.perf_counter() - began
        tally.events += sent
        with self.spending.on("scoring"):
            self._answer(first, last, tally)

    def _send(self, instant: int) -> int:
        """Append what has happened by `instant`, all streams in one transaction."""
        found, largest = {name: track.until(instant) for name, track in self.tracks.items()}, self.parts.log.largest
        with self.parts.log.transaction() as work:
            for name, rows in found.items():
                for batch in encode(self.streams[name], rows, largest) if rows.num_rows else ():
                    work.append(name, 0, batch)
        return sum(rows.num_rows for rows in found.values())

    def _drain(self) -> None:
        with self.spending.on("computing"):
            while self.computer.step().lag:
                pass
        with self.spending.on("ingestion"):
            while self.ingester.step().lag:
                pass

    def _batch(self, instant: int) -> None:
        if instant >= self._due:
            self._due = instant // (60 * MINUTE) * 60 * MINUTE + 60 * MINUTE
            if self.batches.step():
                self.batch_ingester.step()

    def _answer(self, first: int, last: int, tally: Tally) -> None:
        """Score the requests `first` to `last`, one by one, each at its own moment, and capture them."""
        rows = self.tracks["requests"]
        moments = rows.times[first:last].tolist()
        scorer, journal, columns = self.scorer, self._journal, rows.table.column_names[:-1]
        for row, at in zip(rows.table.slice(first, last - first).select(columns).to_pylist(), moments, strict=True):
            self.clock.set(at)
            began = time.perf_counter()
            (scored,) = scorer.score([{**row, "at": at}])
            journal.append(scorer.shape, [scorer.capture(row["flight_id"], scored)])
            tally.latencies.append(time.perf_counter() - began)
            tally.scores[row["flight_id"]] = scored.score
        tally.requests += len(moments)

    def archive(self) -> None:
        """Bring what the log holds, and what changed in the online store, to the offline store."""
        with self.spending.on("archive and sync"):
            self._shipper.step()
            self.batch_ingester.flush()
            self.project.sync()

    def labels_of(self, flights: list[str]) -> np.ndarray:
        """Whether each flight was late (or never landed)."""
        if not self._late:
            table = self.tracks["outcomes"].table
            self._late.update(zip(table["flight_id"].to_pylist(), table["late"].to_pylist(), strict=True))
        return np.array([self._late[one] for one in flights], np.float64)

    def labels(self, tally: Tally) -> np.ndarray:
        """The labels of what was scored, in order."""
        return self.labels_of(list(tally.scores))

    def account(self) -> tuple[int, int]:
        """Events that history lacks, and events that it or a state holds twice, by what was sent."""
        lost = doubled = 0
        history = self.parts.histories.events()
        for name, track in self.tracks.items():
            found = history.read(name)["flight_id"]
            kept = len(found.unique())
            lost += track.sent - track.begun - kept
            doubled += len(found) - kept
        for gap in self._state_gaps():
            lost, doubled = lost + max(gap, 0), doubled + max(-gap, 0)
        return lost, doubled

    def _state_gaps(self) -> Iterator[int]:
        """For every key of every stream group, how many events of the last window its state lacks (or has too many)."""
        from millstream.demos.flights.counting import state_gaps

        sent = {name: t.table.slice(t.begun, t.sent - t.begun) for name, t in self.tracks.items()}
        yield from state_gaps(self.parts, sent, self.clock.now())
