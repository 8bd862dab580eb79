"""The one-time token: what it carries, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import textwrap
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.subject import Role, Subject
from fednot.identity.token import MAX_CHARACTERS, PREFIX, Token, secret_digest

TRUST = certificates.pem_of(
    [certificates.self_signed_authority("fednot authority", certificates.new_key(), 1, "fednot")]
)
TOKEN = Token.fresh("c1", "fednot", TRUST)
VALUES = {"secret": TOKEN.secret, "client": "c1", "domain": "fednot", "trust": TRUST.decode()}


def encoded(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def refusal(text: str) -> str:
    with pytest.raises(FednotError) as caught:
        Token.parse(text)
    assert caught.value.reason is Reason.INVALID_TOKEN
    return caught.value.message


def token_or_refusal(text: str) -> None:
    """Any other exception fails the test."""
    with suppress(FednotError):
        found = Token.parse(text)
        assert Token.parse(found.text()) == found


def test_a_token_survives_its_text() -> None:
    assert Token.parse(TOKEN.text()) == TOKEN
    assert Token.parse(f"\n {TOKEN.text()} \r\n") == TOKEN
    assert TOKEN.text().isascii()
    assert len(TOKEN.text().split()) == 1


def test_a_token_that_was_folded_or_saved_by_an_editor_is_read() -> None:
    folded = textwrap.fill(TOKEN.text(), 72, initial_indent="  ").replace("\n", "\r\n")
    assert len(folded.split()) > 3
    assert Token.parse(folded) == TOKEN
    assert Token.parse("\ufeff" + TOKEN.text() + "\n") == TOKEN


def test_it_names_who_may_enrol_and_hides_its_secret() -> None:
    assert TOKEN.subject == Subject(Role.CLIENT, "c1", "fednot")
    assert TOKEN.secret not in repr(TOKEN)


def test_secrets_differ_and_have_256_bits() -> None:
    other = Token.fresh("c1", "fednot", TRUST)
    assert other.secret != TOKEN.secret
    assert len(base64.urlsafe_b64decode(other.secret + "=")) == 32


def test_the_server_keeps_the_digest_only() -> None:
    expected = hashlib.sha256(TOKEN.secret.encode()).hexdigest()
    assert TOKEN.secret_digest == secret_digest(TOKEN.secret) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no token"),
        ("\ufeff\r\n", "there is no token"),
        ("token", "does not begin with fednot-token-v1."),
        ("fednot-token-v2." + TOKEN.text().removeprefix(PREFIX), "does not begin with"),
        (PREFIX, "cut off or changed"),
        (TOKEN.text()[:-40], "cut off or changed"),
        (TOKEN.text() + "=", "cut off or changed"),
        (PREFIX + "+/+/", "cut off or changed"),
        (encoded("[" * 11_000), "cut off or changed"),
        (encoded('{"secret": ' + "1" * 5000 + "}"), "cut off or changed"),
        (encoded([]), "cut off or changed"),
        (encoded(VALUES | {"more": 1}), "cut off or changed"),
        (encoded({"secret": TOKEN.secret}), "cut off or changed"),
        (encoded(VALUES | {"secret": "short"}), "cut off or changed"),
        (encoded(VALUES | {"secret": 5}), "cut off or changed"),
        (encoded(VALUES | {"trust": "no PEM"}), "cut off or changed"),
        (encoded(VALUES | {"trust": None}), "cut off or changed"),
        (encoded(VALUES | {"trust": TRUST.decode() + "\u00e4"}), "cut off or changed"),
        (encoded(VALUES | {"client": "../c1"}), "'../c1' is no name"),
        (encoded(VALUES | {"client": 7}), "cut off or changed"),
        (encoded(VALUES | {"domain": ""}), "is no trust domain"),
        (PREFIX + "A" * MAX_CHARACTERS, "more than 16384 characters"),
    ],
    ids=itertools.count(1),
)
def test_what_is_no_token_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


@given(st.text() | st.text(st.characters(codec="ascii")).map(PREFIX.__add__))
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    refusal(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(VALUES)), JSON)
def test_no_value_does_anything_but_be_refused(name: str, value: Any) -> None:
    token_or_refusal(encoded(VALUES | {name: value}))


@given(st.integers(0, len(TOKEN.text()) - 1), st.sampled_from("aZ09-_.=+ "))
def test_a_changed_character_makes_another_token_or_none(index: int, letter: str) -> None:
    token_or_refusal(TOKEN.text()[:index] + letter + TOKEN.text()[index + 1 :])


@pytest.mark.parametrize(
    ("client", "domain", "trust", "said"),
    [
        ("C1", "fednot", TRUST, "is no name"),
        ("c1", "Fed Not", TRUST, "is no trust domain"),
        ("c1", "fednot", b"", "PEM"),
    ],
)
def test_no_token_is_made_for_what_none_may_hold(
    client: str, domain: str, trust: bytes, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Token.fresh(client, domain, trust)
