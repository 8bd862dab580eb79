"""Protobuf messages as JSON documents that do not change their shape.

Names are as in protos/fednot/v1. Every field is there: one that is not set is null, except that of
the alternatives of a oneof only the set one is there. 64-bit integers are numbers, enums their
names, timestamps RFC 3339 text, durations text such as "1.5s".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Document = dict[str, Any]

_INTEGERS: Final = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_WELL_KNOWN: Final = "google.protobuf."


def document(message: Message) -> Document:
    """A message as a JSON document."""
    found = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    descriptor: Descriptor = message.DESCRIPTOR  # type: ignore[assignment]
    return _completed(found, descriptor)


def documents(messages: Iterable[Message]) -> list[Document]:
    """A list of messages as JSON documents."""
    return [document(message) for message in messages]


def _completed(found: Document, descriptor: Descriptor) -> Document:
    return {
        field.name: _value(found.get(field.name), field)
        for field in descriptor.fields
        if field.name in found or not _alternative(field)
    }


def _alternative(field: FieldDescriptor) -> bool:
    oneof = field.containing_oneof
    return oneof is not None and oneof.name != f"_{field.name}"


def _value(value: Any, field: FieldDescriptor) -> Any:
    if value is None:
        return None
    kind = field.message_type
    if field.cpp_type in _INTEGERS:
        return [int(item) for item in value] if isinstance(value, list) else int(value)
    if kind is None or kind.full_name.startswith(_WELL_KNOWN) or kind.GetOptions().map_entry:
        return value
    if isinstance(value, list):
        return [_completed(item, kind) for item in value]
    return _completed(value, kind)
