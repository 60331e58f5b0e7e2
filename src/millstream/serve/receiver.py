"""The way in for events and labels: what callers send goes to the log as it is, durably, before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from millstream.buffer.codec.events import encode, encode_lines, partition_of
from millstream.buffer.codec.frames import check_columns
from millstream.buffer.log import Batch, OwnLog
from millstream.definitions import EventStream
from millstream.errors import DiskFull, LogError, MillstreamError, RequestError
from millstream.serve.http import LARGE, decode, decode_in_pieces

Placed = list[tuple[str, int, Batch]]


@dataclass
class _Waiting:
    """Batches of one request and the future that its positions go to."""

    placed: Placed
    done: asyncio.Future[list[int]]


class Receiver:
    """Appends what requests bring; requests that wait at the same time share one transaction, so one sync to disk.

    Use it from one event loop. What is sent to one of the streams that are `bound` to a foreign source is refused.
    """

    def __init__(self, log: OwnLog, bound: Collection[str] = ()) -> None:
        self._log, self._bound = log, bound
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="receive")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="receive-read")

    async def take(
        self, stream: EventStream, body: bytes, *, lines: bool, needed: Iterable[str] = ()
    ) -> list[dict[str, int]]:
        """Append the events of a body and return where they are.

        Events are checked when they are computed: a wrong one becomes a dead letter there.

        Args:
            stream: the stream that they are sent to.
            body: one JSON object, an array, or JSON lines.
            lines: whether it must be read as JSON lines.
            needed: the columns without which an event counts for nothing.

        Returns:
            list[dict[str, int]]: for each partition that got any, the first position and the count of its part.

        Raises:
            RequestError: when the body is neither of these, or none of its events has one of the `needed` columns and
                another looks like it misspelt, or the stream is bound to a foreign source.
            DiskFull: when nothing was appended for want of room.
        """
        if stream.name in self._bound:
            raise RequestError.of_bound_stream(stream.name)
        if len(body) > LARGE:
            work = partial(self._placed, stream, body, decode_in_pieces, lines=lines, needed=needed)
            placed = await asyncio.get_running_loop().run_in_executor(self._reader, work)
        else:
            placed = self._placed(stream, body, decode, lines=lines, needed=needed)
        if not placed:
            return []
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(placed, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all())
        positions = await future
        return [
            {"partition": partition, "position": position, "count": batch.count}
            for (_, partition, batch), position in zip(placed, positions, strict=True)
        ]

    def close(self) -> None:
        """Finish what is being written."""
        self._reader.shutdown(wait=True)
        self._thread.shutdown(wait=True)

    def _placed(
        self,
        stream: EventStream,
        body: bytes,
        decode: Callable[[bytes], Any],
        *,
        lines: bool,
        needed: Iterable[str],
    ) -> Placed:
        partitions = self._log.topics().get(stream.name, 1)
        rows = None if lines else _rows(body, decode)
        _refuse_misspelt(stream, body, rows, set(needed))
        given = rows if rows is not None else [_keyed(stream, ln) for ln in body.split(b"\n") if ln.strip()]
        try:
            return [
                (stream.name, at, batch)
                for at, part in partition_of(stream, given, partitions)
                for batch in self._encoded(stream, part, lines=rows is None)
            ]
        except LogError as error:
            expected = f"events of at most {self._log.largest:,} bytes each"
            raise RequestError(
                error.message, field="body", given=None, expected=expected, hint=error.hint, status=413
            ) from None

    def _encoded(self, stream: EventStream, part: Any, *, lines: bool) -> list[Batch]:
        """Rows of one partition as batches that the log takes."""
        if lines:
            return encode_lines(b"\n".join(row["line of the body"] for row in part), self._log.largest)
        return encode(stream, part, self._log.largest)

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                results = await loop.run_in_executor(self._thread, self._write, [one.placed for one in together])
            except Exception as error:
                results = [error] * len(together)
            for one, result in zip(together, results, strict=True):
                if one.done.cancelled():
                    continue
                if isinstance(result, BaseException):
                    one.done.set_exception(result)
                else:
                    one.done.set_result(result)

    def _write(self, requests: list[Placed]) -> list[list[int] | Exception]:
        try:
            with self._log.transaction() as work:
                return [[work.append(*batch) for batch in placed] for placed in requests]
        except DiskFull:
            raise
        except MillstreamError as error:
            # One of them cannot be appended; the others are not to suffer for it.
            if len(requests) == 1:
                return [error]
            return [self._write([placed])[0] for placed in requests]


def _rows(body: bytes, decode: Callable[[bytes], Any]) -> Sequence[Any] | None:
    """The events of one JSON document, or None when the body is JSON lines."""
    try:
        found = decode(body)
    except RequestError:
        if body.strip().count(b"\n"):
            return None
        raise
    if isinstance(found, dict):
        return [found]
    if isinstance(found, list):
        return found
    raise RequestError(
        "The body holds no event.",
        field="body",
        given=body[:200].decode("utf-8", "replace"),
        expected="an object, an array of objects, or JSON lines",
        hint='send one event like {"user_id": 42, "amount": 9.5}.',
    )


def _refuse_misspelt(stream: EventStream, body: bytes, rows: Sequence[Any] | None, needed: set[str]) -> None:
    """Raise `RequestError` where `send` would refuse the rows; as a rule the first one shows that it would not."""
    given = iter(rows) if rows is not None else (_line(line) for line in body.split(b"\n") if line.strip())
    first = next(given, None)
    if first is None or (isinstance(first, Mapping) and needed <= first.keys()):
        return
    try:
        check_columns(f"Stream '{stream.name}'", [first, *given], stream.schema, lambda: needed, warn=False)
    except LogError as error:
        expected = f"events with the columns {', '.join(sorted(needed))}"
        shown = first if isinstance(first, Mapping) else None
        raise RequestError(error.message, field="body", given=shown, expected=expected, hint=error.hint) from None


def _line(line: bytes) -> Any:
    """What a line holds; None when it is no JSON."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _keyed(stream: EventStream, line: bytes) -> Mapping[str, Any]:
    """A line beside the field that decides its partition, as far as the line can be read."""
    if stream.partition_by is None:
        return {"line of the body": line}
    found = _line(line)
    value = found.get(stream.partition_by) if isinstance(found, dict) else None
    return {stream.partition_by: value, "line of the body": line}
