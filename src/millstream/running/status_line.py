"""What `millstream up` says while it runs: sentences, and a line of figures that renews itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from millstream.clock import project_clock, to_datetime
from millstream.settings import Settings


class StatusLine:
    """Prints sentences and, every so often, how the layers are.

    Args:
        settings: the project.
        as_json: one JSON object a line instead.
    """

    def __init__(self, settings: Settings, as_json: bool) -> None:
        self._settings = settings
        self._as_json = as_json
        self._renews = not as_json and sys.stdout.isatty()
        self._every = 1.0 if self._renews else 5.0
        self._last = time.monotonic()
        self._drawn = False

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        if self._as_json:
            _print(json.dumps({"said": sentence}))
            return
        _print(("\r\x1b[K" if self._drawn else "") + sentence)
        self._drawn = False

    def refresh(self, restarts: Mapping[str, int]) -> None:
        """Print the figures again if it is time."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        facts = self._facts(restarts)
        if self._as_json:
            _print(json.dumps(facts))
        elif self._renews:
            _print(f"\r\x1b[K{_sentence(facts)}", end="")
            self._drawn = True
        else:
            _print(_sentence(facts))

    def _facts(self, restarts: Mapping[str, int]) -> dict[str, Any]:
        from millstream.usage.layers import snapshot

        seen = snapshot(self._settings.data)
        layers = {name: one["facts"] for name, one in seen["layers"].items()}
        recent = seen["recent"][-2:]
        seconds = sum(tick["seconds"] for tick in recent) or 1
        return {
            "now": to_datetime(project_clock(self._settings.data).now()).isoformat(timespec="seconds"),
            "computed_per_s": layers.get("compute", {}).get("rate", 0.0),
            "lag": layers.get("compute", {}).get("lag", 0),
            "lag_s": layers.get("compute", {}).get("lag_s", 0.0),
            "scored_per_s": round(sum(tick["count"] for tick in recent) / seconds, 1),
            "p99_ms": recent[-1]["p99_ms"] if recent else None,
            "restarts": sum(restarts.values()),
            "latest": layers.get("generator", {}).get("latest"),
        }


def _print(text: str, end: str = "\n") -> None:
    """Print and go on where it goes to a file on a full disk, or to a reader that has gone."""
    with suppress(OSError):
        print(text, end=end, flush=True)


def _sentence(facts: Mapping[str, Any]) -> str:
    parts = [
        facts["now"][:19].replace("T", " "),
        f"{facts['computed_per_s']:,.1f} events/s",
        f"{facts['lag']:,} behind ({facts['lag_s']:,.0f} s)" if facts["lag"] else "0 behind",
        f"{facts['scored_per_s']:,.1f} scores/s",
    ]
    if facts["p99_ms"] is not None:
        parts.append(f"p99 {facts['p99_ms']:.1f} ms")
    if facts["restarts"]:
        parts.append(f"{facts['restarts']} restarts")
    if facts["latest"]:
        parts.append(facts["latest"])
    return "  ".join(parts)
