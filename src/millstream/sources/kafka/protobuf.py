"""Schemas in Protobuf."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from millstream.errors import SourceError, first_line
from millstream.sources.kafka.proto_text import ProtoError, file_of
from millstream.sources.kafka.registered import Decode, Unreadable
from millstream.sources.kafka.registry import Schema, SchemaRegistry

_GOOGLE = "google/protobuf/"
Plain = Callable[[Any], Any]
"""Makes of a value of Protobuf's what JSON can say."""


class Protobuf:
    """Reads records of Protobuf.

    Fields have the names of the schema. One without presence that is not written has its default; any other is null. An
    instant of Google's is text as ISO 8601 has it, an enum the name of its value, bytes base64, numbers are numbers.
    """

    kind = "PROTOBUF"

    def decoder(self, schema: Schema, registry: SchemaRegistry) -> Decode:
        """Return what reads the records of a schema, whichever message of it each of them is."""
        pool = DescriptorPool()
        try:
            _add(pool, "the schema", schema, registry, set())
            file = pool.FindFileByName("the schema")
        except (ProtoError, TypeError, KeyError) as error:
            raise SourceError(
                f"A schema of the registry cannot be read: {first_line(error).rstrip('.')}.",
                "mend it in the registry, under its id.",
            ) from None
        known: dict[bytes, tuple[type[Any], Plain]] = {}

        def decode(payload: bytes) -> Any:
            """Return the record that bytes are."""
            end, path = _path(payload)
            found = known.get(payload[:end])
            if found is None:
                descriptor = _message(file, path)
                found = known[payload[:end]] = GetMessageClass(descriptor), _plain_message(descriptor, {})
            try:
                return found[1](found[0].FromString(payload[end:]))
            except DecodeError:
                raise Unreadable("no Protobuf of their schema") from None

        return decode


def _add(pool: DescriptorPool, name: str, schema: Schema, registry: SchemaRegistry, there: set[str]) -> None:
    """Add a file to a pool, after all that it imports."""
    for reference in schema.references:
        if reference.name not in there:
            there.add(reference.name)
            _add(pool, reference.name, registry.referred(reference), registry, there)
    file = file_of(name, schema.schema)
    for imported in file.dependency:
        if imported.startswith(_GOOGLE) and imported not in there:
            there.add(imported)
            module = imported.removeprefix(_GOOGLE).removesuffix(".proto").replace("/", ".")
            pool.AddSerializedFile(import_module(f"google.protobuf.{module}_pb2").DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())


def _path(payload: bytes) -> tuple[int, list[int]]:
    """Which message of its file a record is, and where it begins; the first one is said by a single zero."""
    at, numbers = 0, list[int]()
    while not numbers or len(numbers) <= numbers[0]:
        number = shift = 0
        while True:
            if at >= len(payload):
                raise Unreadable("it does not say which message of its schema it is")
            byte = payload[at]
            number |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        numbers.append((number >> 1) ^ -(number & 1))
    return at, numbers[1:] or [0]


def _message(file: FileDescriptor, path: list[int]) -> Descriptor:
    found: Any = None
    for step in path:
        among = list(file.message_types_by_name.values()) if found is None else found.nested_types
        if not 0 <= step < len(among):
            raise Unreadable("its schema has no such message")
        found = among[step]
    return found


def _plain_message(descriptor: Descriptor, known: dict[str, Plain]) -> Plain:
    """What makes an object of a message."""
    if descriptor.full_name in known:
        return lambda message: known[descriptor.full_name](message)
    if descriptor.full_name == "google.protobuf.Timestamp":
        return lambda message: message.ToJsonString()
    if descriptor.file.name.startswith(_GOOGLE):
        return lambda message: json_format.MessageToDict(message)
    known[descriptor.full_name] = lambda message: plain(message)  # it may be in itself
    fields = [(one.name, one.has_presence, _plain_field(one, known)) for one in descriptor.fields]

    def plain(message: Any) -> dict[str, Any]:
        return {
            name: None if optional and not message.HasField(name) else convert(getattr(message, name))
            for name, optional, convert in fields
        }

    return plain


def _plain_field(field: FieldDescriptor, known: dict[str, Plain]) -> Plain:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        value = _plain_value(inner.fields_by_name["value"], known)
        return lambda pairs: {str(key): value(pairs[key]) for key in pairs}
    one = _plain_value(field, known)
    return (lambda many: [one(each) for each in many]) if field.is_repeated else one


def _plain_value(field: FieldDescriptor, known: dict[str, Plain]) -> Plain:
    if field.message_type is not None:
        return _plain_message(field.message_type, known)
    if field.enum_type is not None:
        names = {value.number: value.name for value in reversed(field.enum_type.values)}  # of aliases the first
        return lambda number: names.get(number, number)
    return _same


def _same(value: Any) -> Any:
    return value
