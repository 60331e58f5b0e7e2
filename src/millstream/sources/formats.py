"""What a message's bytes say: JSON, Arrow, or what a schema of a registry tells how to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from millstream.buffer.log import Encoding, Ints

MAGIC = 0
"""The first byte of what is written by a schema of a registry; the four after it are the schema's id."""
HEAD = 5
"""The bytes that stand before it."""
SHOWN = 200
"""Bytes that are shown of a message that cannot be read."""


class Read(NamedTuple):
    """What some messages say, in columns; see `Events`.

    Attributes:
        payloads: the events of each message.
        encodings: how each payload is written.
        counts: how many events each holds.
    """

    payloads: list[bytes | None]
    encodings: list[Encoding]
    counts: Ints

    @classmethod
    def lines(cls, payloads: list[bytes | None]) -> Read:
        """Messages that are one event of JSON each."""
        return cls(payloads, ["json"] * len(payloads), np.ones(len(payloads), np.int64))


class Message(Protocol):
    """What a foreign source keeps in one piece, as Kafka's own client has it."""

    def value(self) -> bytes | None:
        """Return its bytes; None of a tombstone."""
        ...

    def key(self) -> bytes | None:
        """Return the source's own key of it, if there is one."""
        ...

    def headers(self) -> Any:
        """Return what stands beside it by name, where a source has that."""
        ...


class Format(Protocol):
    """How messages are read."""

    def read(self, messages: Sequence[Message]) -> Read:
        """Return what messages say, of the first one at least, maybe of fewer than all; called for each read.

        What cannot be read is text that says so, and becomes a dead letter; the same bytes are always the same.

        Args:
            messages: messages of one shard, at least one, in their order.

        Raises:
            SourceError: when the first message cannot be read now.
        """
        ...


class Json:
    """One object of JSON a message, also where a schema's id stands before it.

    Args:
        key: the column that the message's key is put into, as text; none unless given.
        headers: by column, the header whose value is put into it, as text.
    """

    def __init__(self, key: str = "", headers: Mapping[str, str] | None = None) -> None:
        self._key, self._headers = key, dict(headers or {})

    def read(self, messages: Sequence[Message]) -> Read:
        """Return each message as the JSON that it holds."""
        return Read.lines(self.named(messages, [_without_head(one.value()) for one in messages]))

    def named(self, messages: Sequence[Message], lines: list[bytes | None]) -> list[bytes | None]:
        """Put what stands beside messages into their objects; a field that an object has of itself stays as it is.

        Args:
            messages: the messages.
            lines: of each, the object that it holds.
        """
        if not self._key and not self._headers:
            return lines
        return [
            line if line is None or line.lstrip()[:1] != b"{" else _with(self._beside(message), line.lstrip())
            for message, line in zip(messages, lines, strict=True)
        ]

    def _beside(self, message: Message) -> dict[str, str]:
        """What a message has beside its value, by column."""
        found = {}
        key = message.key()
        if self._key and key is not None:
            found[self._key] = key.decode(errors="replace")
        given = dict(message.headers() or ()) if self._headers else {}
        for column, header in self._headers.items():
            value = given.get(header)
            if value is not None:
                found[column] = value.decode(errors="replace") if isinstance(value, bytes) else value
        return found


class Arrow:
    """Rows of an Arrow IPC stream a message."""

    def read(self, messages: Sequence[Message]) -> Read:
        """Return each message as the rows that it holds."""
        payloads = [one.value() for one in messages]
        encodings: list[Encoding] = ["json" if payload is None else "arrow" for payload in payloads]
        return Read(payloads, encodings, np.array([_rows(payload) for payload in payloads], np.int64))


def unreadable(payload: bytes, why: str) -> bytes:
    """Return the text that stands for bytes which cannot be read, a dead letter.

    >>> unreadable(bytes([1, 2]), "no schema's id")
    b'"2 bytes that cannot be read (no schema\\'s id): 0102"'
    """
    shown = payload[:SHOWN].hex()
    return msgspec.json.encode(f"{len(payload):,} bytes that cannot be read ({why}): {shown}")


def _without_head(payload: bytes | None) -> bytes | None:
    return payload[HEAD:] if payload is not None and payload[:1] == b"\0" else payload


def _with(fields: Mapping[str, str], line: bytes) -> bytes:
    """An object with some fields before its own, which count where a name comes twice."""
    if not fields:
        return line
    rest = line[1:].lstrip()
    return msgspec.json.encode(fields)[:-1] + (b"" if rest[:1] == b"}" else b",") + rest


def _rows(payload: bytes | None) -> int:
    """How many events a message holds; one that is no Arrow is one, which cannot be read."""
    if payload is None:
        return 1
    try:
        return int(pa.ipc.open_stream(payload).read_all().num_rows)
    except (pa.ArrowInvalid, OSError):
        return 1
