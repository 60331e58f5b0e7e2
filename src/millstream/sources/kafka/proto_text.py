"""The text of a `.proto` file as a descriptor: what a registry keeps of a schema in Protobuf is text.

What says nothing of how records are written (comments, options, services, extensions) is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

_TOKEN = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[A-Za-z_][\w.]*|\.[A-Za-z_][\w.]*|-?[\d.][\w.+-]*|.)""",
    re.DOTALL,
)
_SCALARS = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in (
        "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32",
        "sfixed64", "bool", "string", "bytes",
    )
}  # fmt: skip
_LABELS = {
    "optional": FieldDescriptorProto.LABEL_OPTIONAL,
    "required": FieldDescriptorProto.LABEL_REQUIRED,
    "repeated": FieldDescriptorProto.LABEL_REPEATED,
}


class ProtoError(ValueError):
    """That a text is none of a `.proto` file."""


def file_of(name: str, text: str) -> FileDescriptorProto:
    """Return what a `.proto` file says.

    Args:
        name: the file's name.
        text: what stands in it.

    Raises:
        ProtoError: when it cannot be read.

    Example:
        >>> file_of("a.proto", 'syntax = "proto3"; message Click { int64 user_id = 1; }').message_type[0].field[0].name
        'user_id'
    """
    file = FileDescriptorProto(name=name)
    words = _Words(text)
    try:
        while (word := words.next()) is not None:
            _top(file, words, word)
    except (StopIteration, ValueError, IndexError) as error:
        raise ProtoError(f"line {words.line}: {error or 'it ends too early'}") from None
    return file


class _Words:
    """The words of a text, one after the other."""

    def __init__(self, text: str) -> None:
        self._words = [(found[1], found.start()) for found in _TOKEN.finditer(text) if found[1] is not None]
        self._text, self._at = text, 0

    @property
    def line(self) -> int:
        """The line of the word that was read last."""
        begin = self._words[max(0, self._at - 1)][1] if self._words else 0
        return self._text.count("\n", 0, begin) + 1

    def next(self) -> str | None:
        """The next word; None at the end."""
        if self._at == len(self._words):
            return None
        self._at += 1
        return self._words[self._at - 1][0]

    def take(self, expected: str | None = None) -> str:
        """The next word, which must be there, and be the one that is expected."""
        word = self.next()
        if word is None or (expected is not None and word != expected):
            raise ValueError(f"'{expected or 'a word'}' is expected, not '{word or 'the end'}'")
        return word

    def pass_over(self, ends: str = ";}") -> None:
        """Pass over a statement: up to its `;`, or what is in its braces where these may end it."""
        depth = 0
        while True:
            word = self.take()
            depth += (word == "{") - (word == "}")
            if depth == 0 and word in ends:
                return

    def inside(self) -> Iterator[str]:
        """The first words of the statements in braces, up to the closing one."""
        self.take("{")
        while (word := self.take()) != "}":
            if word != ";":
                yield word


def _top(file: FileDescriptorProto, words: _Words, word: str) -> None:
    if word == "syntax":
        words.take("=")
        file.syntax = words.take()[1:-1]
        words.take(";")
    elif word == "package":
        file.package = words.take()
        words.take(";")
    elif word == "import":
        name = words.take()
        file.dependency.append((words.take() if name in ("public", "weak") else name)[1:-1])
        words.take(";")
    elif word == "message":
        _message(file.message_type.add(name=words.take()), words, file.syntax == "proto3")
    elif word == "enum":
        _enum(file.enum_type.add(name=words.take()), words)
    elif word != ";":
        words.pass_over()


def _message(message: DescriptorProto, words: _Words, proto3: bool) -> None:
    alone: list[FieldDescriptorProto] = []
    for word in words.inside():
        if word == "message":
            _message(message.nested_type.add(name=words.take()), words, proto3)
        elif word == "enum":
            _enum(message.enum_type.add(name=words.take()), words)
        elif word == "oneof":
            at = len(message.oneof_decl)
            message.oneof_decl.add(name=words.take())
            for inner in words.inside():
                if inner == "option":
                    words.pass_over()
                else:
                    _field(message, words, inner).oneof_index = at
        elif word in ("option", "reserved", "extensions", "extend"):
            words.pass_over()
        elif word == "map":
            _map(message, words)
        else:
            field = _field(message, words, word)
            if proto3 and word == "optional":
                alone.append(field)
    for field in alone:  # each has a oneof of its own, behind all others
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


def _field(message: DescriptorProto, words: _Words, word: str) -> FieldDescriptorProto:
    label = _LABELS.get(word, FieldDescriptorProto.LABEL_OPTIONAL)
    kind = words.take() if word in _LABELS else word
    field = message.field.add(name=words.take(), label=label)
    _typed(field, kind)
    _numbered(field, words)
    return field


def _typed(field: FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind


def _numbered(field: FieldDescriptorProto, words: _Words) -> None:
    words.take("=")
    field.number = int(words.take(), 0)
    if words.take() != ";":
        words.pass_over(";")  # its options


def _map(message: DescriptorProto, words: _Words) -> None:
    """A map, which is written as repeated pairs."""
    words.take("<")
    key = words.take()
    words.take(",")
    value = words.take()
    words.take(">")
    name = words.take()
    entry = message.nested_type.add(name="".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
        _typed(entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL), kind)
    field = message.field.add(name=name, label=FieldDescriptorProto.LABEL_REPEATED, type_name=entry.name)
    field.type = FieldDescriptorProto.TYPE_MESSAGE
    _numbered(field, words)


def _enum(enum: EnumDescriptorProto, words: _Words) -> None:
    for word in words.inside():
        if word in ("option", "reserved"):
            words.pass_over()
            continue
        words.take("=")
        enum.value.add(name=word, number=int(words.take(), 0))
        if words.take() != ";":
            words.pass_over(";")
