"""Requests over HTTP, without a socket: the service's own application, asked in this process and on this thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

from millstream.errors import DiskFull, MillstreamError

if TYPE_CHECKING:
    from millstream.project.parts import Parts
    from millstream.serve.server import Service


class Here(Executor):
    """Does what it is given at once, on the thread that gives it; a process that dies of it ends the event loop."""

    def __init__(self) -> None:
        self.died: BaseException | None = None

    def submit(self, work: Callable[..., Any], /, *given: Any, **options: Any) -> Future[Any]:
        """Do some work."""
        done: Future[Any] = Future()
        try:
            done.set_result(work(*given, **options))
        except Exception as error:
            done.set_exception(error)
        except BaseException as error:
            self.died = error
            asyncio.get_running_loop().stop()
        return done


class Web:
    """The service of a process: what serves scores and takes events.

    Args:
        parts: the parts of the process.
    """

    def __init__(self, parts: Parts) -> None:
        from millstream.serve.server import Service

        self._here = Here()
        self.service: Service = Service(
            "simulated",
            parts.settings.data,
            log=parts.log,
            online=parts.online,
            registry=parts.registry,
            versions=parts.model_versions,
            clock=parts.clock,
        )
        application = self.service.application
        application._pool = application._receiver._thread = application._receiver._reader = self._here  # type: ignore[assignment]

    def ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Send a request, after a look at what is deployed; returns the body of the answer.

        Args:
            method: such as "POST".
            path: with its query, if there is one.
            body: what is sent as JSON.

        Raises:
            MillstreamError: when it was refused; anything but a sentence of the product is an `AssertionError`.
        """
        status, said = self._answered(method, path, body)
        if status < 300:
            return said
        assert status != 500, f"no error leaves the pipeline: {path} answers {said}"
        kind = DiskFull if status == 507 else MillstreamError
        raise kind(said["error"]["message"], said["error"]["hint"])

    def end(self) -> None:
        """The process is dead: what the kernel held for it is let go."""
        self.service._block.close()

    def _answered(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.service.deployments.refresh()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # what a dead process leaves waiting is nobody's concern
        try:
            return loop.run_until_complete(self._asked(method, path, json.dumps(body).encode()))
        except RuntimeError:
            if self._here.died is None:
                raise
            raise self._here.died from None
        finally:
            loop.close()

    async def _asked(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        await self.service.application(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])


def busy() -> bool:
    """Whether a request is being answered just now, in the midst of which no other can be."""
    return asyncio._get_running_loop() is not None
