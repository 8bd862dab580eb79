"""Scopes from and to messages; what nobody may ask for is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2
from server.records import Assurance, Caller, Scope, ScopeKind

MOST_SCOPES: Final = 100
MOST_SAMPLES: Final = 1 << 48
LONGEST_SUBJECT: Final = 256
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def scopes_of(request: deletion_pb2.UnlearnRequest, caller: Caller) -> tuple[Scope, ...]:
    """What a request forgets.

    Raises FednotError: INVALID_REQUEST with the field, and NOT_YOUR_DELETION for a client that
    asks for more than itself or its own samples.
    """
    if 1 + len(request.more_scopes) > MOST_SCOPES:
        raise _invalid("more_scopes", f"at most {MOST_SCOPES - 1}")
    found: list[Scope] = []
    for field, message in _fields(request):
        scope = _scope(message, field, caller)
        _check_new(scope, found, field)
        found.append(scope)
    return tuple(found)


def assurance_of(request: deletion_pb2.UnlearnRequest) -> Assurance:
    """How far a request is to be verified. Raises FednotError (INVALID_REQUEST)."""
    if not request.assurance:
        return Assurance.BEHAVIOUR
    try:
        name = deletion_pb2.Assurance.Name(request.assurance)
    except ValueError:
        raise _invalid("assurance", "behaviour or deep") from None
    return Assurance[name.removeprefix("ASSURANCE_")]


def first_client(request: deletion_pb2.UnlearnRequest) -> str:
    """The first client that a request names; "" if it names none."""
    for _, message in _fields(request):
        if name := message.client or message.samples.client:
            return name
    return ""


def scope_message(scope: Scope) -> deletion_pb2.Scope:
    """A scope; the key of a person is told as long as it is kept."""
    if scope.kind is ScopeKind.CLIENT:
        return deletion_pb2.Scope(client=scope.client)
    if scope.kind is ScopeKind.CLASS:
        return deletion_pb2.Scope(class_label=scope.label or 0)
    samples = deletion_pb2.SampleScope(client=scope.client)
    if scope.sha256:
        samples.barred.count = scope.count or 0
        samples.barred.sha256 = scope.sha256
    else:
        samples.subject = scope.subject
    return deletion_pb2.Scope(samples=samples)


def _fields(request: deletion_pb2.UnlearnRequest) -> Iterator[tuple[str, deletion_pb2.Scope]]:
    yield "scope", request.scope
    for index, message in enumerate(request.more_scopes):
        yield f"more_scopes[{index}]", message


def _scope(message: deletion_pb2.Scope, field: str, caller: Caller) -> Scope:
    target = message.WhichOneof("target")
    if target == "class_label":
        return _class(message.class_label, field, caller)
    if target == "samples":
        return _samples(message.samples, f"{field}.samples", caller)
    if target != "client" or not message.client:
        raise FednotError(Reason.INVALID_REQUEST, f"{field}.client: name the client to forget")
    _check_own(message.client, caller)
    return Scope(ScopeKind.CLIENT, client=message.client)


def _class(label: int, field: str, caller: Caller) -> Scope:
    if caller.role is Role.CLIENT:
        raise FednotError(
            Reason.NOT_YOUR_DELETION,
            f"{caller.key} may ask for its own deletion, not for that of a class, which is "
            "everybody's",
        )
    if label < 0:
        raise _invalid(f"{field}.class_label", "at least 0")
    return Scope(ScopeKind.CLASS, label=label)


def _samples(message: deletion_pb2.SampleScope, field: str, caller: Caller) -> Scope:
    own = caller.name if caller.role is Role.CLIENT else ""
    client = message.client or own
    if not client:
        raise FednotError(Reason.INVALID_REQUEST, f"{field}.client: name the client that has them")
    _check_own(client, caller)
    chosen = message.WhichOneof("chosen")
    if chosen == "barred":
        _check_barred(message.barred, f"{field}.barred", caller)
        barred = message.barred
        return Scope(ScopeKind.SAMPLES, client=client, count=barred.count, sha256=barred.sha256)
    if chosen is None or not message.subject:
        raise FednotError(
            Reason.INVALID_REQUEST, f"{field}: say which, by the client's digest or by a subject"
        )
    if len(message.subject) > LONGEST_SUBJECT or not message.subject.isprintable():
        raise _invalid(f"{field}.subject", f"at most {LONGEST_SUBJECT} printable characters")
    return Scope(ScopeKind.SAMPLES, client=client, subject=message.subject)


def _check_barred(barred: deletion_pb2.SampleDigest, field: str, caller: Caller) -> None:
    if caller.role not in (Role.CLIENT, None):
        raise FednotError(
            Reason.WRONG_ROLE,
            f"{field}: only the client itself can say what it has barred; name a subject instead",
        )
    if not 1 <= barred.count <= MOST_SAMPLES:
        raise _invalid(f"{field}.count", f"from 1 to {MOST_SAMPLES}")
    if not _SHA256.fullmatch(barred.sha256):
        raise _invalid(f"{field}.sha256", "a sha256 in small hexadecimal letters")


def _check_own(client: str, caller: Caller) -> None:
    if caller.role is Role.CLIENT and client != caller.name:
        raise FednotError(
            Reason.NOT_YOUR_DELETION,
            f"{caller.key} may ask for its own deletion, not for that of {client!r}",
        )


def _check_new(scope: Scope, before: list[Scope], field: str) -> None:
    for each in before:
        if each == scope:
            raise FednotError(Reason.INVALID_REQUEST, f"{field}: is named twice")
        whole = ScopeKind.CLIENT in (each.kind, scope.kind)
        if whole and scope.client and each.client == scope.client:
            raise FednotError(
                Reason.INVALID_REQUEST,
                f"{field}: client {scope.client} is forgotten as a whole, its samples with it",
            )


def _invalid(field: str, rule: str) -> FednotError:
    return FednotError(Reason.INVALID_REQUEST, f"{field}: must be {rule}")
