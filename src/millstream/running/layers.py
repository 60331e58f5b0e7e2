"""The loop of each layer, as production runs it: step, say how it went, look for new definitions, stop when told."""

from __future__ import annotations

import math
import os
import resource
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from millstream.errors import DiskFull, Fenced, MillstreamError, ProjectError, StoreError, nearest
from millstream.project.clocks import refuse_skew
from millstream.project.parts import Parts
from millstream.running.stopping import stop_on_signals
from millstream.settings import Settings

if TYPE_CHECKING:
    from millstream.running.meter import Meter

LOOK = 1.0
"""Seconds between two looks for new definitions."""
BEAT = 1.0
"""Seconds between two signs of life."""
FILES = 65_536
"""Files that a layer wants to be allowed to have open."""
LAST_CALL = 15.0
"""Seconds that a layer has to stop once whoever supervises it is gone."""


class Work(Protocol):
    """What one layer does, made anew when definitions change."""

    facts: dict[str, Any]

    def step(self) -> int:
        """Do what there is to do now, at most a second or so of it; returns how many records were handled."""
        ...

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait until there may be something to do, for about so many seconds at most; called after a step without.

        It ends early once `stop` is set, or soon after.
        """
        ...

    def close(self) -> None:
        """Let go of what is open; called before the work is made anew and at the end."""
        ...


def run_layer(settings: Settings, layer: str, stop: threading.Event, probes: str | None = None) -> None:
    """Run one layer of a project until told to stop.

    An error that waiting may mend (a full disk, a damaged shard, a registry out of reach) is reported and the step tried
    again a second later; anything else ends the process, for its supervisor to start again.

    Args:
        settings: the project.
        layer: "intake", "compute", "ingest", "batch", "sync", "serve", "monitor" or "generator".
        stop: set it to stop.
        probes: where to answer a supervisor's probes, "host:port"; None: nowhere.

    Raises:
        ProjectError: when there is no such layer.
        ServeError: when a port is taken.
    """
    from millstream.running.meter import Meter
    from millstream.running.probes import probed

    refuse_unknown(layer)
    _take_descriptors()
    meter = Meter(settings, layer)
    with probed(meter, probes):
        if layer == "serve":
            _serve(settings, meter, stop)
        elif layer == "generator":
            _generate(settings, meter, stop)
        else:
            _loop(settings, meter, _made(layer), stop)


def refuse_unknown(layer: str) -> None:
    """Refuse a name that is no layer's; asked before anything is said to have started.

    Raises:
        ProjectError: when there is no such layer.
    """
    from millstream.running.work import WORKS

    layers = ["serve", "generator", *WORKS]
    if layer not in layers:
        guess = nearest(layer, layers)
        raise ProjectError(
            f"There is no layer '{layer}'.",
            f"did you mean '{guess}'?" if guess else f"the layers are {', '.join(layers)}.",
        )


def _take_descriptors() -> None:
    """Allow this process the open files that it may allow itself: each shard of the online store takes three."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if allowed not in (resource.RLIM_INFINITY, wanted) and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def stop_asked(*, standard_input_closes: bool = False) -> threading.Event:
    """An event that is set by SIGTERM, by Ctrl-C and, for a supervised process, by the death of its supervisor.

    Args:
        standard_input_closes: whether the end of standard input means that the supervisor is gone. If the process has
            not stopped some seconds later, it ends at once: what it acknowledged is durable.
    """
    stop = threading.Event()
    stop_on_signals(stop)

    def watch() -> None:
        with suppress(OSError):
            os.read(0, 1)  # nothing is ever written; not `sys.stdin`, whose lock would be held at exit
        stop.set()
        threading.Event().wait(LAST_CALL)
        os._exit(1)

    if standard_input_closes:
        threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
        threading.Thread(target=_beat, args=(stop,), name="signs-of-life", daemon=True).start()
    return stop


def _beat(stop: threading.Event) -> None:
    """Give the supervisor signs of life, where standard input is a socket of it, until there is nobody to take them."""
    with suppress(OSError), socket.socket(fileno=os.dup(0)) as mouth:
        while not stop.is_set():
            with suppress(BlockingIOError):
                mouth.send(b".", socket.MSG_DONTWAIT)
            stop.wait(BEAT)


def owner_name() -> str:
    """A new name under which this process shares partitions with others; it begins with the process's number."""
    return f"{os.getpid()}-{secrets.token_hex(2)}"


def complain(message: str) -> None:
    """Say on standard error what went wrong; where that goes to a file on a full disk, nothing more comes of it."""
    with suppress(OSError):
        print(f"Error: {message}", file=sys.stderr, flush=True)


class _Renewed:
    """The work of a layer, made anew when definitions have changed.

    What is made goes on while the registry cannot be asked; the failure is raised after it has had its turn.
    """

    def __init__(self, parts: Parts, made: Callable[[Parts], Work]) -> None:
        self._parts, self._made = parts, made
        self._work: Work | None = None
        self._seen: int | None = None
        self._looked = -math.inf
        self.facts: dict[str, Any] = {}

    def step(self) -> int:
        """One step of the work, after a look at the definitions when it is time for one."""
        from millstream.running.repeating import tried

        failed: list[MillstreamError] = []
        if time.monotonic() - self._looked >= LOOK:
            tried(failed, self.look)
        handled = 0 if self._work is None else tried(failed, self._work.step)
        for error in failed:
            raise error
        assert handled is not None
        return handled

    def look(self) -> None:
        """Make the work, the first time and whenever definitions have changed since."""
        now = self._parts.identity.revision()
        if now != self._seen or self._work is None:
            self.close()
            self._work = self._made(self._parts)
            self.facts, self._seen = self._work.facts, now
        self._looked = time.monotonic()

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait as the work does; until there is any, and after a failure, for so many seconds."""
        if self._work is None or "error" in self.facts:
            stop.wait(seconds)
        else:
            self._work.rest(stop, seconds)

    def close(self) -> None:
        """Let go of what is open; the next look makes it anew."""
        work, self._work = self._work, None
        if work is not None:
            work.close()


def _made(layer: str) -> Callable[[Parts], Work]:
    """How the work of a layer is made, here and now or when it is this process's turn."""
    from millstream.running.standby import Standby
    from millstream.running.work import ONE_AT_A_TIME, WORKS

    return partial(Standby, layer=layer, made=WORKS[layer]) if layer in ONE_AT_A_TIME else WORKS[layer]


def _loop(settings: Settings, meter: Meter, made: Callable[[Parts], Work], stop: threading.Event) -> None:
    from millstream.running.meter import telling

    # The parts are closed with the process: a backfill that is under way may still be at work on them.
    parts = Parts(settings)
    refuse_skew(parts)
    with telling(meter, parts.registry.presence, settings), closing(_Renewed(parts, made)) as work:
        work.look()  # what keeps a layer from starting is said at once, and ends it
        meter.publish(work.facts)
        while not stop.is_set():
            handled, wait = _step(work, settings.poll_ms / 1_000)
            meter.add(handled, work.facts)
            if not handled:
                work.rest(stop, wait)


def _step(work: Work, poll: float) -> tuple[int, float]:
    """One step: how many records it handled, and how long to wait if none."""
    try:
        handled = work.step()
    except Fenced:
        return 1, 0.0  # another worker was first; read again at once
    except (DiskFull, StoreError, MillstreamError) as error:
        if work.facts.get("error") != error.message:
            complain(error.message)
        work.facts["error"] = error.message
        return 0, LOOK
    work.facts.pop("error", None)
    return handled, poll


def _serve(settings: Settings, meter: Meter, stop: threading.Event) -> None:
    from millstream.running.meter import telling
    from millstream.serve.server import Service, listen, run

    listener = listen(settings.host, settings.port)
    with Parts(settings) as parts, telling(meter, parts.registry.presence, settings):
        refuse_skew(parts)
        service = Service(
            settings.name,
            settings.data,
            log=parts.log,
            online=parts.served.store,
            registry=parts.registry,
            versions=parts.model_versions,
            clock=parts.clock,
            sample=settings.capture_sample,
            hosts=settings.hosts,
            bound=settings.streams.keys(),
        )
        facts = {"address": f"{settings.host}:{settings.port}"}
        run(service, listener, stop, lambda: meter.add(service.application.answered(), facts))


def _generate(settings: Settings, meter: Meter, stop: threading.Event) -> None:
    from millstream.running.simulation import produce

    produce(settings, stop, meter.publish)
