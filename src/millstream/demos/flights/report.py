"""What the demo shows: a line for each step, a table that grows month by month, and what to try next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

if TYPE_CHECKING:
    from millstream.demos.flights.season import Tally

_ROW = "{:<9} {:>9} {:>10} {:>8} {:>7} {:>7} {:>10} {:>10}   {}"
_PART = "{:<22} {:>9} {:>9}"
_SERVER = "{:<12} {:>9} {:>12}"
_HEAD = _ROW.format("month", "events", "requests", "late", "AUC", "AP", "score p50", "events/s", "model")


class Report:
    """Prints to the terminal; with `quiet`, to standard error, so that standard output holds only the JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=quiet, highlight=False, soft_wrap=True)
        self._status: Any = None

    def opening(self, folder: Path, months: int) -> None:
        """The first line."""
        self.console.print(
            "[bold]Flights out of New York, 2013.[/bold] Thirty minutes before each scheduled departure:"
        )
        self.console.print(
            f"will it arrive 15 minutes late or more, or not at all? {months} month(s) live; project: {folder}"
        )

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """One step, with its seconds when it is done."""
        began = time.perf_counter()
        with self.console.status(text):
            yield
        self.console.print(f"  {text} [dim]({time.perf_counter() - began:.1f} s)[/dim]")

    def table(self) -> None:
        """The head of the table."""
        self.console.print(f"\n[bold]{_HEAD}[/bold]")
        self._status = self.console.status("")
        self._status.start()

    def day(self, tally: Tally) -> None:
        """A day went by."""
        self._status.update(f"{tally.events:,} events, {tally.requests:,} requests answered")

    def month(self, name: str, tally: Tally, labels: np.ndarray, decision: str) -> None:
        """A row of the table.

        Args:
            name: the month.
            tally: what the month came to.
            labels: the label of each flight that was scored, in the order of the scores.
            decision: what retraining said at its start; "" for the first month.
        """
        from millstream.train.metrics import auc, average_precision

        scores = np.array(list(tally.scores.values()))
        p50 = f"{np.median(tally.latencies) * 1e6:.0f} us"
        rate = f"{tally.events / tally.pipeline_seconds:,.0f}"
        numbers = f"{auc(labels, scores):.3f}", f"{average_precision(labels, scores):.3f}"
        self.console.print(
            _ROW.format(
                name,
                f"{tally.events:,}",
                f"{tally.requests:,}",
                f"{labels.mean():.1%}",
                *numbers,
                p50,
                rate,
                decision or "v1",
            )
        )

    def closing(self, folder: Path, found: dict[str, Any]) -> None:
        """What was found, and what to try next."""
        if self._status is not None:
            self._status.stop()
        verify, parity, leak = found["verify"], found["parity"], found["leak"]
        say = self.console.print
        say(
            f"\n[bold]AUC {found['auc']:.3f}, AP {found['ap']:.3f}[/bold] online; "
            f"static inputs alone reach {found['auc_static']:.3f}."
        )
        say(
            f"verify: {verify['requests']:,} requests, {verify['values']:,} values, "
            f"[bold]{verify['mismatches']} mismatches[/bold]."
        )
        say(
            f"parity: of {parity['values']:,} values {parity['latency']:,} differ by latency, {parity['overflow']:,} by "
            f"overflow, [bold]{parity['unexplained']} unexplained[/bold]. Lost {found['lost']}, doubled {found['doubled']}."
        )
        say(f"leak: a naive join promises AUC {leak['offline']:.3f} offline and delivers {leak['online']:.3f} online.")
        if "servers" in found:
            self._on_servers(found)
            return
        say(f"{found['seconds']} s in all.\n\n[bold]Next[/bold] (the clock stands at {found['until']}):")
        where = f"--project {folder}"
        say(f"  .venv/bin/millstream status {where}")
        say(f"  .venv/bin/millstream verify {where}")
        say(f"  .venv/bin/millstream up {where}      resumes the clock; then")
        say(
            '  curl -s localhost:8787/v1/models/late/score -d \'{"carrier": "UA", "origin": "EWR", "dest": "ORD", '
            '"tailnum": "N14228", "distance": 719, "hour": 18.5, "weekday": 4, "flight_id": "mine"}\'',
            markup=False,
        )

    def _on_servers(self, found: dict[str, Any]) -> None:
        """Where the time went; the servers, and what they held, are gone by now."""
        say = self.console.print
        say(f"\n[bold]{_PART.format('where the time went', 'seconds', 'waited')}[/bold]")
        for name, part in found["parts"].items():
            say(_PART.format(name, f"{part['seconds']:.1f}", f"{part['waited']:.1f}"))
        say(f"\n[bold]{_SERVER.format('server', 'version', 'processor s')}[/bold]")
        for name, version in found["servers"].items():
            say(_SERVER.format(name, version, f"{found['processor_seconds'][name]:.1f}"))
        say(f"\n{found['seconds']} s in all, {found['events_per_second']:,} events/s. The servers have ended.")
