"""What the intake layer does in its loop: it takes in the foreign sources that streams are bound to."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from millstream.buffer.topics import INTAKE, intake_topic
from millstream.errors import MillstreamError, ProjectError, SourceBusy, SteppedBack
from millstream.project.parts import Parts
from millstream.running.layers import complain, owner_name
from millstream.running.repeating import Every, tried

THREATS_EVERY = 15.0
"""Seconds between two looks whether a source may soon not keep any more what is unread."""
LOOK_AGAIN = 0.2
"""Seconds between two looks at sources of which all there is has been read."""


class Intake:
    """Takes in a share of the foreign sources that streams are bound to; any number of processes have the others."""

    def __init__(self, parts: Parts) -> None:
        if not parts.settings.streams:
            raise ProjectError(
                f"Project '{parts.settings.folder}': no stream is bound to a foreign source, so there is nothing to take in.",
                'bind one in millstream.toml: [streams.NAME], with kind = "files" and path = "incoming/*.jsonl".',
            )
        for found in parts.identity.stepped_back():
            raise SteppedBack.found("Intake waits", found.rstrip("."))
        self._clock = parts.clock
        owner, topics = owner_name(), [intake_topic(stream) for stream in sorted(parts.settings.streams)]
        self._worker = parts.log.worker(INTAKE, topics, owner)
        self._takings = parts.layers.takings(self._worker)
        self._behind = Every(1.0, self._lag)
        self._threats = Every(THREATS_EVERY, self._look_for_threats)
        waiting = sorted(parts.settings.streams.keys() - {one.stream.name for one in self._takings})
        lost = sum(one.losses[0] for one in self._takings)
        self.facts: dict[str, Any] = {
            "owner": owner,
            "lag": 0,
            "lag_s": 0.0,
            "busy": 0,
            "lost": lost,
            "threatened": 0,
            "waiting": waiting,
        }

    def step(self) -> int:
        """Take in what each source has.

        Raises:
            MillstreamError: the first failure, after all sources had their turn.
        """
        failed: list[MillstreamError] = []
        done = [tried(failed, one.step) for one in self._takings]
        taken = [one for one in done if one is not None]
        for loss in (loss for one in taken for loss in one.losses):
            complain(loss.what)
        self.facts["lost"] += sum(len(one.losses) for one in taken)
        self.facts["busy"] = sum(one.busy for one in taken)
        tried(failed, self._behind.step)
        tried(failed, self._threats.step)
        for error in failed:
            raise error
        return sum(one.records for one in taken)

    def _lag(self) -> None:
        """How much the sources have that is not taken in; as it was while one of them is throttled."""
        now, lags = self._clock.now(), []
        for one in self._takings:
            if not one.owned:
                continue
            try:
                lags.append(one.lag())
            except SourceBusy:
                return
        since = [at for _, at in lags if at is not None]
        self.facts["lag"] = sum(records for records, _ in lags)
        self.facts["lag_s"] = round(max(0, now - min(since, default=now)) / 1e6, 1)

    def _look_for_threats(self) -> None:
        """Say of which sources what is unread may soon not be kept any more."""
        found = []
        for one in self._takings:
            with suppress(SourceBusy):
                found.append(one.threat() if one.owned else None)
        threats = [threat for threat in found if threat is not None]
        for threat in threats:
            complain(f"{threat} Let it keep them for longer, or find out why intake is behind.")
        self.facts["threatened"] = len(threats)

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait a moment: a source does not say when something comes."""
        stop.wait(max(seconds, LOOK_AGAIN))

    def close(self) -> None:
        """Give up the sources, and let go of them."""
        self._worker.close()
        for one in self._takings:
            one.close()
