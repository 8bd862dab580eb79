"""Roles, names and trust domains as SPIFFE ids."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednot.identity.subject import Role, Subject, SubjectError

START = string.ascii_lowercase + string.digits
NAMES = st.builds(str.__add__, st.sampled_from(START), st.text(START + "-_.", max_size=62))
SUBJECTS = st.builds(Subject, st.sampled_from(Role), NAMES, NAMES)


@given(SUBJECTS)
def test_a_subject_survives_its_uri(subject: Subject) -> None:
    assert Subject.of_uri(subject.uri) == subject


@given(st.text() | st.text().map("spiffe://fednot/client/".__add__) | SUBJECTS.map(str))
def test_a_text_is_a_subject_or_refused(text: str) -> None:
    with suppress(SubjectError):
        assert Subject.of_uri(text).uri == text


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://fednot/client/c1", "is not spiffe://DOMAIN/ROLE/NAME"),
        ("spiffe://fednot/client", "is not spiffe://DOMAIN/ROLE/NAME"),
        ("spiffe://fednot/client/c1/x", "is not spiffe://DOMAIN/ROLE/NAME"),
        ("spiffe://fednot/client/c1\n", "is no name"),
        ("spiffe://fednot/client/C1", "is no name"),
        ("spiffe://fednot/client/", "is no name"),
        ("spiffe://fednot/boss/c1", "known are client, officer, operator, auditor, server"),
        ("spiffe:///client/c1", "is no trust domain"),
        ("spiffe://Fed/client/c1", "is no trust domain"),
    ],
)
def test_what_is_no_subject_is_refused_with_the_reason(uri: str, said: str) -> None:
    with pytest.raises(SubjectError, match=said):
        Subject.of_uri(uri)


def test_how_a_subject_reads() -> None:
    dora = Subject(Role.OFFICER, "dora", "clinics")
    assert (str(dora), dora.caller) == ("officer dora", "officer/dora")
    assert dora.uri == "spiffe://clinics/officer/dora"
