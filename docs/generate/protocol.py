"""The page of the protocol: services, messages and enums, from the protos and their comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from docs.generate.markdown import cell, code, join, table
from docs.generate.protos import PACKAGE, Comments, read
from server.services.permissions import ENROLMENT, PERMISSIONS

_MESSAGE: Final = 4
_ENUM: Final = 5
_SERVICE: Final = 6
_MEMBER: Final = 2
_NESTED: Final = 3
_NESTED_ENUM: Final = 4
_FIELD: Final = FieldDescriptorProto
_HEAD: Final = (
    "# Protocol reference",
    "Generated from `protos/fednot/v1/*.proto` and the server's table of permissions. "
    "[protocol.md](../protocol.md) explains how the calls go together, "
    "[reasons.md](reasons.md) lists why one may be refused.",
)


def page() -> str:
    """The whole page."""
    found = list(read())
    services = [_services(file, comments) for file, comments in found]
    messages = [_types(file, comments) for file, comments in found]
    return join(*_HEAD, *services, *messages)


def _services(file: FileDescriptorProto, comments: Comments) -> str:
    blocks = []
    for at, service in enumerate(file.service):
        path = (_SERVICE, at)
        rows = [
            _call(service.name, method, comments.get((*path, _MEMBER, number), ""))
            for number, method in enumerate(service.method)
        ]
        head = ("call", "request", "response", "roles", "meaning")
        blocks += [f"## {service.name}", cell(comments.get(path, "")), table(head, rows)]
    return join(*blocks)


def _call(service: str, method: MethodDescriptorProto, comment: str) -> tuple[str, ...]:
    asked = _stream(method.client_streaming, method.input_type)
    given = _stream(method.server_streaming, method.output_type)
    name = f"/{PACKAGE}.{service}/{method.name}"
    return code(method.name), asked, given, _roles(name), cell(comment)


def _stream(streaming: bool, type_: str) -> str:
    return f"{'stream of ' * streaming}{_link(type_)}"


def _roles(name: str) -> str:
    if name in ENROLMENT:
        return "everybody, on the enrolment port"
    return ", ".join(sorted(str(role) for role in PERMISSIONS.get(name, ()))) or "nobody"


def _types(file: FileDescriptorProto, comments: Comments) -> str:
    rows = [
        *_messages(file.message_type, (_MESSAGE,), "", comments),
        *_enums(file.enum_type, (_ENUM,), "", comments),
    ]
    return join(f"## Messages of `{file.name}`", *rows) if rows else ""


def _messages(
    messages: Iterable[DescriptorProto], above: tuple[int, ...], outer: str, comments: Comments
) -> Iterator[str]:
    for at, message in enumerate(messages):
        path, name = (*above, at), f"{outer}{message.name}"
        if message.options.map_entry:
            continue
        rows = [_field(message, number, path, comments) for number in range(len(message.field))]
        yield f"### {name}"
        yield cell(comments.get(path, "")) + ("" if rows else " It has no fields.")
        yield table(("no.", "field", "type", "meaning"), rows)
        yield from _messages(message.nested_type, (*path, _NESTED), f"{name}.", comments)
        yield from _enums(message.enum_type, (*path, _NESTED_ENUM), f"{name}.", comments)


def _field(
    message: DescriptorProto, at: int, path: tuple[int, ...], comments: Comments
) -> tuple[str, ...]:
    field = message.field[at]
    meaning = comments.get((*path, _MEMBER, at), "")
    return str(field.number), code(field.name), _type(message, field), cell(meaning)


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entry = next((kind for kind in message.nested_type if _is_entry(kind, field)), None)
    if entry is not None:
        key, value = (_type(entry, part) for part in entry.field)
        return f"map from {key} to {value}"
    named = field.type in (_FIELD.TYPE_MESSAGE, _FIELD.TYPE_ENUM)
    shown = _link(field.type_name) if named else _scalar(field)
    if field.label == _FIELD.LABEL_REPEATED:
        return f"repeated {shown}"
    if field.proto3_optional:
        return f"optional {shown}"
    if field.HasField("oneof_index"):
        return f"{shown}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return shown


def _is_entry(kind: DescriptorProto, field: FieldDescriptorProto) -> bool:
    return kind.options.map_entry and field.type_name.endswith(f".{kind.name}")


def _scalar(field: FieldDescriptorProto) -> str:
    return _FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()


def _enums(
    enums: Iterable[EnumDescriptorProto], above: tuple[int, ...], outer: str, comments: Comments
) -> Iterator[str]:
    for at, enum in enumerate(enums):
        path = (*above, at)
        yield f"### {outer}{enum.name}"
        yield cell(comments.get(path, ""))
        yield table(("no.", "value", "meaning"), _values(enum, path, comments))


def _values(
    enum: EnumDescriptorProto, path: tuple[int, ...], comments: Comments
) -> Iterator[tuple[str, ...]]:
    for at, value in enumerate(enum.value):
        meaning = comments.get((*path, _MEMBER, at), "")
        yield str(value.number), code(value.name), cell(meaning)


def _link(type_: str) -> str:
    name = type_.removeprefix(f".{PACKAGE}.")
    if name == type_:
        return code(type_.removeprefix("."))
    return f"[{name}](#{name.lower().replace('.', '')})"
