"""Messages that are written by schemas of a registry: a byte, the schema's id, and what only the schema can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from millstream.errors import SourceError, first_line
from millstream.sources.formats import HEAD, MAGIC, Json, Message, Read, unreadable
from millstream.sources.kafka.registry import Schema, SchemaRegistry

_ENCODER = msgspec.json.Encoder(enc_hook=str, decimal_format="number")


class Unreadable(Exception):
    """That bytes are not what their schema says."""


Decode = Callable[[bytes], Any]
"""Makes of the bytes behind the head what JSON can say; raises `Unreadable`."""


class Language(Protocol):
    """A language of schemas: its name in a registry, and what makes of a schema that which reads its bytes."""

    kind: str

    def decoder(self, schema: Schema, registry: SchemaRegistry) -> Decode:
        """Return what reads the bytes of a schema.

        Args:
            schema: the schema.
            registry: where the schemas are that it refers to.

        Raises:
            SourceError: when the schema, or what it refers to, cannot be had.
        """
        ...


class Registered:
    """One record a message, written by the schema whose id stands before it.

    Args:
        registry: where schemas are.
        language: which language they are in.
        beside: puts what stands beside a message into its object.
    """

    def __init__(self, registry: SchemaRegistry, language: Language, beside: Json) -> None:
        self._registry, self._language, self._beside = registry, language, beside
        self._decoders: dict[bytes, Decode] = {}

    def read(self, messages: Sequence[Message]) -> Read:
        """Return each message as the JSON that its record is, up to the first whose schema cannot be had now."""
        lines: list[bytes | None] = []
        for message in messages:
            try:
                lines.append(self._line(message.value()))
            except SourceError:
                if not lines:
                    raise
                break
        return Read.lines(self._beside.named(messages[: len(lines)], lines))

    def _line(self, payload: bytes | None) -> bytes | None:
        if payload is None:
            return None
        if len(payload) < HEAD or payload[0] != MAGIC:
            return unreadable(payload, "no id of a schema stands before them")
        head = payload[:HEAD]
        decode = self._decoders.get(head)
        if decode is None:
            decode = self._decoders[head] = self._decoder(int.from_bytes(head[1:], "big"))
        try:
            return _ENCODER.encode(decode(payload[HEAD:]))
        except Unreadable as error:
            return unreadable(payload, first_line(error))

    def _decoder(self, number: int) -> Decode:
        schema = self._registry.schema(number)
        if schema.kind != self._language.kind:
            raise SourceError(
                f"Schema {number} of the registry is {schema.kind}, and the topic's format is {self._language.kind}.",
                "set `format` to what the topic holds.",
            )
        return self._language.decoder(schema, self._registry)
