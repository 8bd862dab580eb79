"""What may be asked for in one request, by whom, and what is refused with the field."""

from __future__ import annotations

from typing import Any

import pytest

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.v1.deletion_pb2 import SampleDigest, SampleScope, Scope, UnlearnRequest
from server.records import NOBODY, Assurance, Caller, ScopeKind
from server.records import Scope as Wanted
from server.services.scopes import assurance_of, scope_message, scopes_of

C1, DORA = Caller(Role.CLIENT, "c1"), Caller(Role.OFFICER, "dora")
DIGEST = SampleDigest(count=3, sha256="a" * 64)
WHOLE = Scope(client="c1")
CLASS = Scope(class_label=7)


def person(client: str = "c1", subject: str = "person-1") -> Scope:
    return Scope(samples=SampleScope(client=client, subject=subject))


def barred(client: str = "c1", **values: Any) -> Scope:
    digest = SampleDigest(**({"count": 3, "sha256": "a" * 64} | values))
    return Scope(samples=SampleScope(client=client, barred=digest))


def request(*scopes: Scope) -> UnlearnRequest:
    return UnlearnRequest(scope=scopes[0] if scopes else None, more_scopes=scopes[1:])


def refusal(caller: Caller, *scopes: Scope) -> tuple[Reason, str]:
    with pytest.raises(FednotError) as refused:
        scopes_of(request(*scopes), caller)
    return refused.value.reason, refused.value.message


def test_one_request_may_name_several_scopes_of_several_clients() -> None:
    found = scopes_of(request(Scope(client="c2"), person(), person("c3"), CLASS), DORA)
    assert found == (
        Wanted(ScopeKind.CLIENT, client="c2"),
        Wanted(ScopeKind.SAMPLES, client="c1", subject="person-1"),
        Wanted(ScopeKind.SAMPLES, client="c3", subject="person-1"),
        Wanted(ScopeKind.CLASS, label=7),
    )
    assert [scope_message(scope) for scope in found] == [
        Scope(client="c2"),
        person(),
        person("c3"),
        CLASS,
    ]


@pytest.mark.parametrize("name", ["", "c1"])
def test_a_client_asks_for_what_it_has_barred_itself(name: str) -> None:
    (found,) = scopes_of(request(barred(name)), C1)
    assert found == Wanted(ScopeKind.SAMPLES, client="c1", count=3, sha256="a" * 64)
    assert scope_message(found) == barred("c1")


def test_over_plaintext_a_client_names_itself() -> None:
    assert scopes_of(request(barred()), NOBODY)[0].client == "c1"
    assert refusal(NOBODY, barred(""))[0] is Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    "scope", [Scope(client="c2"), person("c2"), barred("c2"), CLASS], ids=lambda s: str(s)[:20]
)
@pytest.mark.parametrize("before", [(), (WHOLE,)])
def test_a_client_asks_for_nobody_else(scope: Scope, before: tuple[Scope, ...]) -> None:
    assert refusal(C1, *before, scope)[0] is Reason.NOT_YOUR_DELETION


def test_nobody_but_the_client_says_what_it_has_barred() -> None:
    assert refusal(DORA, barred())[0] is Reason.WRONG_ROLE


@pytest.mark.parametrize(
    ("scopes", "field"),
    [
        ((), "scope.client"),
        ((Scope(client=""),), "scope.client"),
        ((WHOLE, Scope()), "more_scopes[0].client"),
        ((Scope(class_label=-1),), "scope.class_label"),
        ((Scope(samples=SampleScope(client="c1")),), "scope.samples"),
        ((person(subject=""),), "scope.samples"),
        ((person(subject="a" * 257),), "scope.samples.subject"),
        ((person(subject="a\nb"),), "scope.samples.subject"),
        ((barred(count=0),), "scope.samples.barred.count"),
        ((barred(count=1 << 49),), "scope.samples.barred.count"),
        ((barred(sha256="A" * 64),), "scope.samples.barred.sha256"),
        ((barred(sha256="a" * 63),), "scope.samples.barred.sha256"),
        ((CLASS, CLASS), "more_scopes[0]"),
        ((person(), CLASS, person()), "more_scopes[1]"),
        ((WHOLE, person()), "more_scopes[0]"),
        ((person(), CLASS, WHOLE), "more_scopes[1]"),
        (tuple(Scope(class_label=n) for n in range(101)), "more_scopes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(scopes: tuple[Scope, ...], field: str) -> None:
    reason, message = refusal(NOBODY, *scopes)
    assert reason is Reason.INVALID_REQUEST
    assert message.startswith(f"{field}:")


def test_assurance_is_behaviour_unless_more_is_asked_for() -> None:
    found = [assurance_of(UnlearnRequest(assurance=value)) for value in (0, 1, 2)]  # type: ignore[arg-type]
    assert found == [Assurance.BEHAVIOUR, Assurance.BEHAVIOUR, Assurance.DEEP]
    with pytest.raises(FednotError, match="assurance: must be"):
        assurance_of(UnlearnRequest(assurance=9))  # type: ignore[arg-type]
