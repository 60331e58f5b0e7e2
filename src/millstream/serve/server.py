"""A serving process: the parts wired to the application, the application to a socket, and the work beside requests."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from millstream.buffer.log import OwnLog
from millstream.errors import MillstreamError, ServeError
from millstream.serve.app import Application
from millstream.serve.callers import Callers
from millstream.serve.capture import CaptureJournal, CaptureShipper
from millstream.serve.catalogue import Deployments
from millstream.serve.connection import Connection
from millstream.serve.receiver import Receiver
from millstream.serve.status import Status
from millstream.usage.blocks import Block
from millstream.usage.layers import metrics_folder

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.registry.definitions import Registry
    from millstream.store.online import OnlineStore
    from millstream.train.versions import ModelVersions

EVERY = 1.0
"""Seconds between two looks at the registry, and between two shipments of captures."""
SWITCH = 0.0005
"""Seconds after which a thread that computes in Python gives way to another."""
_logger = logging.getLogger("millstream.serve")


class Service:
    """Everything one serving process has: use it as a context; `application` answers requests meanwhile.

    `name` and `data` are the project's; `sample` is the share of requests that is captured; `hosts` are the names by which
    callers reach it, beside addresses and localhost; `bound` are the streams to which nothing can be sent, as a foreign
    source feeds them. While it is open, one thread keeps what is served in step with the registry and ships captures to
    the log once a second.
    """

    def __init__(
        self,
        name: str,
        data: Path,
        *,
        log: OwnLog,
        online: OnlineStore,
        registry: Registry,
        versions: ModelVersions,
        clock: Clock,
        sample: float = 1.0,
        hosts: Iterable[str] = (),
        bound: Collection[str] = (),
    ) -> None:
        self.deployments = Deployments(name, registry, versions, online, clock)
        self._journal = CaptureJournal(data / "journal", sample=sample)
        self._shipper = CaptureShipper(self._journal, log)
        self._block = Block(metrics_folder(data))
        current = self.deployments.current
        unfinished = registry.operations.unfinished
        status = Status(name, data, clock, log, online, current, registry.groups, unfinished, registry)
        self.application = Application(
            current, Receiver(log, bound), self._journal, status, self._block, clock, Callers(hosts)
        )
        self._stop = threading.Event()
        self._beside = threading.Thread(target=self._work_beside, name="serve-beside", daemon=True)

    def __enter__(self) -> Service:
        self.deployments.refresh()
        self._beside.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beside.join()
        self.application.close()
        self.ship()
        self._journal.close()
        self._block.close()

    def ship(self) -> None:
        """Bring what has been captured to the log now."""
        try:
            self._shipper.step()
        except (MillstreamError, OSError) as error:
            _logger.warning("Captures wait in the journal: %s", error)

    def _work_beside(self) -> None:
        while not self._stop.wait(EVERY):
            for work in (self.deployments.refresh, self.ship):
                try:
                    work()
                except (
                    Exception
                ):  # said aloud, and tried again: a thread that ended would stop deployments and captures
                    _logger.exception("Work beside requests failed; it is tried again.")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 takes a free one. Raises `ServeError` when it is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"Port {port} on {host} cannot be served: {(error.strerror or str(error)).lower()}.",
            "choose another port, or stop the program that listens there.",
        ) from error
    return listener


def run(
    service: Service, listener: socket.socket, stop: threading.Event, tick: Callable[[], None] | None = None
) -> None:
    """Answer requests until told to stop; what is being answered then is finished, within ten seconds.

    Args:
        service: the parts, wired; it is entered, and left at the end.
        listener: the socket to answer at, which is bound.
        stop: is set when it is to end.
        tick: called about ten times a second, to publish what the process does; None: nothing is published.
    """
    config = uvicorn.Config(
        service.application,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        backlog=2048,
    )
    # A thread that parses a large body gives way to requests this often.
    sys.setswitchinterval(SWITCH)
    with service:
        gc.collect()
        gc.freeze()  # what is loaded by now stays: looking through it again and again would only delay requests
        _Server(config, stop, tick).run([listener])


class _Server(uvicorn.Server):
    """A server that stops when an event is set, and leaves signals to the process that runs it."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event, tick: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._stop, self._tick = stop, tick

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._tick:
            self._tick()
        return self._stop.is_set() or await super().on_tick(counter)
