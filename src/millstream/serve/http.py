"""The little of HTTP that the service needs, directly on ASGI: bodies with a limit, answers, and errors as JSON."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import msgspec

from millstream.errors import DiskFull, MillstreamError, RequestError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON, TEXT, HTML = b"application/json", b"text/plain; version=0.0.4; charset=utf-8", b"text/html; charset=utf-8"
FIELDS_LIMIT = 200
LARGE = 256 * 2**10
"""Bytes beyond which a body is read beside the event loop, so that it keeps no score waiting."""
_PIECE = 500
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
encode = msgspec.json.Encoder(enc_hook=repr).encode
_logger = logging.getLogger("millstream.serve")


@dataclass(slots=True)
class Answer:
    """What goes back to the caller."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Disconnected(Exception):
    """The caller went away before the request was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the request's body.

    Args:
        scope: what the server says of the request.
        receive: gives the next message of the caller.
        limit: the most bytes that it may have.

    Raises:
        RequestError: (413) as soon as it is longer, or (415) when it is compressed.
        Disconnected: when the caller leaves.
    """
    _check_plain(scope)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large("body", f"{len(body)} bytes", f"at most {limit} bytes")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large("body", f"more than {limit} bytes", f"at most {limit} bytes")
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


def _check_plain(scope: Scope) -> None:
    """Refuse a compressed body, whose bytes would be taken for events."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError(
                "The body is compressed.",
                field="content-encoding",
                given=value.decode("latin-1"),
                expected="no content-encoding",
                hint="send the body as it is.",
                status=415,
            )


def query_of(scope: Scope) -> dict[str, list[str]]:
    """Return the values of each field of the query string; raises `RequestError` (413) when there are too many."""
    try:
        text = scope["query_string"].decode("latin-1")
        return parse_qs(text, keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError:
        raise too_large("query", f"more than {FIELDS_LIMIT} fields", f"at most {FIELDS_LIMIT} fields") from None


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer."""
    headers = [(b"content-type", answer.kind), (b"content-length", str(len(answer.body)).encode()), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def decode(body: bytes) -> Any:
    """Return what a JSON body holds; raises `RequestError` (400) when it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise RequestError(
            f"The body is not JSON that can be read: {reason}.",
            field="body",
            given=body[:200].decode("utf-8", "replace"),
            expected="JSON",
            hint="NaN and Infinity are not JSON: send null for a number that is not known.",
        ) from None


def decode_in_pieces(body: bytes | msgspec.Raw) -> Any:
    """Return what `decode` does, piece by piece, so that a thread that reads a large body lets requests go on.

    Raises `RequestError` (400) when it is not JSON.
    """
    text = bytes(body)
    opening = text.lstrip()[:1]
    try:
        if opening == b"[":
            parts = _ELEMENTS.decode(text)
            pieces = (parts[at : at + _PIECE] for at in range(0, len(parts), _PIECE))
            return [one for piece in pieces for one in msgspec.json.decode(b"[" + b",".join(map(bytes, piece)) + b"]")]
        if opening == b"{":
            return {name: decode_in_pieces(value) for name, value in _FIELDS.decode(text).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # the whole says where
    return decode(text)


def too_large(field: str, given: str, expected: str) -> RequestError:
    """Return the error (413) of a request that is larger than it may be.

    Args:
        field: the part of the request that is, such as "body".
        given: how large it is.
        expected: how large it may be.
    """
    return RequestError(
        f"The request is too large: its {field} has {given}.",
        field=field,
        given=given,
        expected=expected,
        hint="split it into several requests.",
        status=413,
    )


def error_answer(error: Exception, request_id: str) -> Answer:
    """Return the answer for an error: what the caller can mend is told; anything else is logged and only named."""
    if isinstance(error, RequestError):
        facts = {"field": error.field, "given": error.given, "expected": error.expected}
        answer = _error(error.status, error, request_id, facts)
        if error.status == 405:
            answer.headers = ((b"allow", error.expected.encode()),)
        return answer
    if isinstance(error, MillstreamError):
        _logger.warning("Request %s: %s", request_id, error.message)
        status = 507 if isinstance(error, DiskFull) else 503
        return _error(status, error, request_id, {})
    _logger.error("Request %s failed.", request_id, exc_info=error)
    hint = f"look for '{request_id}' in the log of the serving process."
    return _error(500, MillstreamError("The request failed inside the service.", hint), request_id, {})


def _error(status: int, error: MillstreamError, request_id: str, facts: Mapping[str, Any]) -> Answer:
    about = {"message": error.message, "field": None, "given": None, "expected": None, **facts, "hint": error.hint}
    return Answer(status, encode({"error": about, "code": error.code, "request_id": request_id}))
