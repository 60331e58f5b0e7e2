"""Schemas in Avro."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro
import msgspec
from fastavro.schema import SchemaParseException, UnknownType

from millstream.errors import SourceError, first_line
from millstream.sources.kafka.registered import Decode, Unreadable
from millstream.sources.kafka.registry import Schema, SchemaRegistry


class Avro:
    """Reads records of Avro.

    Logical types are what they stand for: instants and dates are text as ISO 8601 has it, decimals numbers, bytes base64.
    """

    kind = "AVRO"

    def decoder(self, schema: Schema, registry: SchemaRegistry) -> Decode:
        """Return what reads the records of a schema, by which they were written."""
        named: dict[str, Any] = {}
        try:
            parsed = _parsed(schema, registry, named)
        except (SchemaParseException, UnknownType, msgspec.DecodeError) as error:
            raise SourceError(
                f"A schema of the registry cannot be read: {first_line(error).rstrip('.')}.",
                "mend it in the registry, under its id.",
            ) from None

        def decode(payload: bytes) -> Any:
            """Return the record that bytes are."""
            bytes_ = BytesIO(payload)
            try:
                found = fastavro.schemaless_reader(bytes_, parsed, None)
            except Exception as error:  # whatever a decoder makes of bytes that are something else
                raise Unreadable(f"no Avro of their schema: {type(error).__name__}") from None
            if bytes_.tell() != len(payload):
                raise Unreadable("no Avro of their schema: bytes are left over")
            return found

        return decode


def _parsed(schema: Schema, registry: SchemaRegistry, named: dict[str, Any]) -> Any:
    """A schema with all that it refers to, which is parsed before it."""
    for reference in schema.references:
        if reference.name not in named:
            _parsed(registry.referred(reference), registry, named)
    return fastavro.parse_schema(_json(schema.schema), named)


def _json(text: str) -> Any:
    """A schema's text as JSON; the name of a primitive type may stand alone."""
    return msgspec.json.decode(text) if text.lstrip()[:1] in ("{", "[", '"') else text.strip()
