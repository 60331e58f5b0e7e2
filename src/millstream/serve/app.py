"""The service: one small ASGI application, because between a request and its score every microsecond is a cost.

Scoring touches the online store and the journal only. Events and labels go to the log. Nothing here computes features
from events, and nothing here waits for a layer that does. A read of a store that is elsewhere is made in a thread, and
so is every look at the whole pipeline: whoever is slow holds up only those who asked for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from millstream.errors import MillstreamError, RequestError
from millstream.serve.answers import Features, ScoredMany, ages, one_answer, row_answers, written
from millstream.serve.callers import Callers
from millstream.serve.capture import CaptureJournal, damaged_captures
from millstream.serve.catalogue import Catalogue
from millstream.serve.http import (
    HTML,
    LARGE,
    TEXT,
    Answer,
    Disconnected,
    Receive,
    Scope,
    Send,
    decode,
    decode_in_pieces,
    encode,
    error_answer,
    query_of,
    read_body,
    send_answer,
    too_large,
)
from millstream.serve.paths import no_path
from millstream.serve.receiver import Receiver
from millstream.serve.scorer import Scorer
from millstream.train.encoding import typed_value

if TYPE_CHECKING:
    from millstream.clock import Clock
    from millstream.serve.status import Status
    from millstream.usage.blocks import Block

Found = TypeVar("Found")

BODY_LIMIT = 16 * 2**20
ROWS_LIMIT = 10_000
INLINE_ROWS = 50
READS = 32
"""Requests whose reads of a store that is elsewhere are under way at once; others wait for one of them to end."""


@dataclass(slots=True)
class Request:
    """One request on its way to its answer: `name` is the model, view or stream in its path."""

    id: str
    scope: Scope
    receive: Receive
    name: str

    async def body(self) -> bytes:
        """Return the body; raises `RequestError` (413) when it is longer than 16 MiB."""
        return await read_body(self.scope, self.receive, BODY_LIMIT)

    def header(self, name: bytes) -> bytes:
        """Return a header by its lower-case name, b"" when it is not there."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")


@dataclass(frozen=True)
class _Route:
    """Where a path leads. `timed` routes are part of the recent past that the status page draws."""

    label: str
    method: str
    handle: Callable[[Request], Awaitable[Answer]]
    timed: bool = False


class Application:
    """The ASGI application of one serving process.

    `catalogue` returns what is served now, and may return something else at the next request. Counters go to `block`,
    captures to `journal`; `callers` says who may call.
    """

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        receiver: Receiver,
        journal: CaptureJournal,
        status: Status,
        block: Block,
        clock: Clock,
        callers: Callers,
    ) -> None:
        self._callers, self._answered = callers, 0
        self._catalogue, self._receiver, self._journal = catalogue, receiver, journal
        self._status, self._block, self._clock = status, block, clock
        self._process, self._requests = secrets.token_hex(6), count(1)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="score")
        self._reads = ThreadPoolExecutor(READS, thread_name_prefix="read")
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._routes = {
            ("models", "score"): _Route("score", "POST", self._score, timed=True),
            ("models", "labels"): _Route("labels", "POST", self._labels),
            ("views", "features"): _Route("features", "GET", self._features),
            ("streams", "events"): _Route("events", "POST", self._events),
            ("/livez",): _Route("livez", "GET", self._livez),
            ("/readyz",): _Route("readyz", "GET", self._readyz),
            ("/metrics",): _Route("metrics", "GET", self._metrics),
            ("/openapi.json",): _Route("openapi", "GET", self._openapi),
            ("/status",): _Route("status", "GET", self._status_facts),
            ("/",): _Route("page", "GET", self._page),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong becomes an answer too."""
        if scope["type"] != "http":
            return
        begun = time.perf_counter_ns()
        request = Request(f"{self._process}-{next(self._requests):x}", scope, receive, "")
        route = None
        try:
            self._callers.check(scope["method"], scope["headers"])
            route = self._resolve(request)
            answer = await route.handle(request)
        except Disconnected:
            return
        except Exception as error:
            answer = error_answer(error, request.id)
        await send_answer(send, answer)
        self._count(route, answer.status, (time.perf_counter_ns() - begun) // 1000)

    def answered(self) -> int:
        """How many requests of the timed routes were answered since this was asked before."""
        found, self._answered = self._answered, 0
        return found

    def close(self) -> None:
        """Finish what is being written."""
        self._receiver.close()
        for pool in (self._pool, self._reads, self._looks):
            pool.shutdown(wait=True)

    def _count(self, route: _Route | None, status: int, microseconds: int) -> None:
        label = route.label if route else "unknown"
        self._block.count(f'requests{{route="{label}",status="{status}"}}')
        self._block.observe(f'latency{{route="{label}"}}', microseconds)
        if route and route.timed:
            self._answered += 1
            self._block.tick(microseconds, failed=status >= 500)

    def _resolve(self, request: Request) -> _Route:
        path, method = request.scope["path"], request.scope["method"]
        parts = path.split("/")
        key: tuple[str, ...] = (path,)
        if len(parts) == 5 and parts[1] == "v1":
            key, request.name = (parts[2], parts[4]), parts[3]
        route = self._routes.get(key)
        if route is None:
            raise no_path(path, self._routes)
        if method != route.method and not (method == "HEAD" and route.method == "GET"):
            raise RequestError(
                f"Path '{path}' does not take {method}.",
                field="method",
                given=method,
                expected=route.method,
                hint=f"send it as {route.method}.",
                status=405,
            )
        return route

    async def _score(self, request: Request) -> Answer:
        body = await request.body()
        scorer = self._catalogue().scorer(request.name)
        large = len(body) > LARGE
        found = await _in(self._pool, decode_in_pieces, body) if large else decode(body)
        rows, many = _rows(scorer, found)
        work = partial(self._scored, request.id, scorer, rows, many)
        if not scorer.reader.local:
            answer, lost = await _in(self._reads, work)
        elif large or len(rows) > INLINE_ROWS:
            answer, lost = await _in(self._pool, work)
        else:
            answer, lost = work()
        if lost:
            self._block.count("captures_lost", lost)
        self._block.count(scorer.counter, len(rows))
        return answer

    def _scored(self, request_id: str, scorer: Scorer, rows: list[Any], many: bool) -> tuple[Answer, int]:
        """The answer, and how many captures of it were lost; in a thread or not, so it counts nothing itself."""
        scored = scorer.score(rows)
        ids = [f"{request_id}.{i}" for i in range(len(scored))] if many else [request_id]
        model, version = scorer.model.name, scorer.loaded.version
        answer: Any
        if many:
            answer = ScoredMany(request_id, model, version, row_answers(ids, scored))
        else:
            answer = one_answer(request_id, model, version, scored[0])
        lost = 0
        try:
            captures = [scorer.capture(*one) for one in zip(ids, scored, strict=True)]
            self._journal.append(scorer.shape, captures)
        except MillstreamError:
            # A score is worth more than its record: it is given, and says that it was not kept.
            answer.captured = False
            lost = len(scored)
        return Answer(200, encode(answer)), lost

    async def _features(self, request: Request) -> Answer:
        lookup = self._catalogue().lookup(request.name)
        given = query_of(request.scope)
        rows = lookup.schema.parse_query(given, self._clock.now())
        work = partial(lookup.reader.read, rows.values, rows.at)
        read = work() if lookup.reader.local else await _in(self._reads, work)
        groups = {name: facts[0] for name, facts in read.facts.items()}
        kinds = lookup.reader.view.dtypes
        features = {name: written(typed_value(column.item(0), kinds[name])) for name, column in read.columns.items()}
        degraded = any(facts.fallback for facts in groups.values())
        at = lookup.at(rows)
        return Answer(200, encode(Features(request.id, request.name, at, degraded, features, ages(groups))))

    async def _events(self, request: Request) -> Answer:
        return await self._take(request, self._catalogue().stream(request.name))

    async def _labels(self, request: Request) -> Answer:
        return await self._take(request, self._catalogue().label_stream(request.name))

    async def _take(self, request: Request, stream: Any) -> Answer:
        body = await request.body()
        lines = b"ndjson" in (kind := request.header(b"content-type")) or b"jsonl" in kind
        needed = self._catalogue().needed.get(stream.name, ())
        positions = await self._receiver.take(stream, body, lines=lines, needed=needed)
        accepted = sum(part["count"] for part in positions)
        self._block.count(f'events{{stream="{stream.name}"}}', accepted)
        facts = {"request_id": request.id, "stream": stream.name, "accepted": accepted, "positions": positions}
        return Answer(202, encode(facts))

    async def _livez(self, request: Request) -> Answer:
        return Answer(200, b'{"alive":true}')

    async def _readyz(self, request: Request) -> Answer:
        catalogue = self._catalogue()
        facts = {"ready": catalogue.ready, "missing": catalogue.missing}
        if damaged := damaged_captures(self._journal.folder):
            facts["damaged_captures"] = damaged  # they hold nobody up
        if stepped_back := await _in(self._looks, self._status.stepped_back):
            facts |= {"ready": False, "stepped_back": stepped_back}  # what is served does not get newer
        return Answer(200 if facts["ready"] else 503, encode(facts))

    async def _metrics(self, request: Request) -> Answer:
        return Answer(200, self._status.metrics().encode(), TEXT)

    async def _openapi(self, request: Request) -> Answer:
        return Answer(200, self._catalogue().openapi)

    async def _status_facts(self, request: Request) -> Answer:
        return Answer(200, encode(await _in(self._looks, self._status.facts)), headers=_FRESH)

    async def _page(self, request: Request) -> Answer:
        return Answer(200, await _in(self._looks, self._status.page), HTML, _FRESH + _STRICT)


_FRESH = ((b"cache-control", b"no-store"),)
_STRICT = (
    (
        b"content-security-policy",
        b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
)


async def _in(pool: ThreadPoolExecutor, work: Callable[..., Found], *arguments: Any) -> Found:
    """What work gives that is done in a thread, while other requests are answered."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _rows(scorer: Scorer, found: Any) -> tuple[list[Any], bool]:
    """The rows of a body, and whether it was written as many; one object is one row unless it holds `rows`."""
    if isinstance(found, dict) and not ("rows" in found and "rows" not in scorer.schema.types):
        return [found], False
    rows = found["rows"] if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows:
        raise RequestError(
            "The request holds no rows.",
            field="rows",
            given=str(rows)[:200],
            expected='one object, or {"rows": [...]} with at least one',
            hint=f"send one like {scorer.schema.example()}.",
        )
    if len(rows) > ROWS_LIMIT:
        raise too_large("rows", f"{len(rows)} rows", f"at most {ROWS_LIMIT} rows")
    return rows, True
