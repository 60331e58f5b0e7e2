"""What one process of a layer has handled, and what it says of itself: to its host, to other hosts, to who probes it."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Any

from millstream.errors import MillstreamError
from millstream.registry.presence import Presence
from millstream.settings import Settings
from millstream.usage.blocks import Totals
from millstream.usage.layers import keep, place_of, said_of

EVERY = 1.0
"""Seconds between two reports to the host."""
ABROAD = 5.0
"""Seconds between two reports to other hosts, while whether this process works or stands by is as it was."""


class Meter:
    """Counts what a layer's process handles, and publishes its rate with whatever else it says, once a second.

    Args:
        settings: the project.
        layer: the layer's name.

    Attributes:
        layer: the layer's name.
        said: what the process has said of itself last; nothing before the layer has begun its work.
        problem: why its newest step failed; None if it did not.
        totals: since the process began, how many records were handled, and how many steps failed.
    """

    def __init__(self, settings: Settings, layer: str) -> None:
        self.layer, self._data = layer, settings.data
        self.said: dict[str, Any] = {}
        self.problem: str | None = None
        self.totals = Totals({f'records{{layer="{layer}"}}': 0, f'failures{{layer="{layer}"}}': 0})
        self._since, self._count = time.monotonic(), 0

    def add(self, records: int, facts: Mapping[str, Any]) -> None:
        """Count records, after each step; publish if a second has passed.

        Args:
            records: how many were handled.
            facts: what the layer says; `error` says why the step has failed.
        """
        self.problem = facts.get("error")
        self.totals.counters[f'records{{layer="{self.layer}"}}'] += records
        self.totals.counters[f'failures{{layer="{self.layer}"}}'] += self.problem is not None
        self._count += records
        passed = time.monotonic() - self._since
        if passed >= EVERY:
            self.publish({**facts, "rate": round(self._count / passed, 1)})
            self._since, self._count = time.monotonic(), 0

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Say now how the layer is; a disk with no room for that does not stop the layer."""
        self.said = said_of(self.layer, facts)
        with suppress(OSError):
            keep(self._data, self.said)


@contextmanager
def telling(meter: Meter, presence: Presence, settings: Settings) -> Iterator[None]:
    """Tell other hosts how a process is, every few seconds from beside its work, and at the end that it has left.

    Where the registry is a file there are no other hosts, and nothing is told. While a registry in a server cannot be asked,
    nothing is told either, and the layer goes on.

    Args:
        meter: what the process says of itself.
        presence: where it is said.
        settings: the project.
    """
    if not presence.shared:
        yield
        return
    over = threading.Event()
    place = place_of(settings.data)
    name = f"{blake2b(place.encode(), digest_size=8).hexdigest()}-{os.getpid()}-{secrets.token_hex(4)}"

    def tell() -> None:
        since, told = -ABROAD, None
        while not over.wait(EVERY):
            said, now = meter.said, time.monotonic()
            if said and (now - since >= ABROAD or _whose_turn(said) != told):
                since, told = now, _whose_turn(said)
                with suppress(MillstreamError):
                    presence.say(name, place, said)

    beside = threading.Thread(target=tell, name="telling", daemon=True)
    beside.start()
    try:
        yield
    finally:
        over.set()
        beside.join(ABROAD)
        with suppress(MillstreamError):
            presence.leave(name)


def _whose_turn(said: Mapping[str, Any]) -> Any:
    return said["facts"].get("standing_by", False)
