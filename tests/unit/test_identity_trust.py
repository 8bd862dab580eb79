"""Whom a set of authorities and revocation lists lets in, and with which reason it refuses."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.holders import Holders
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust, check_dates

KEY = certificates.new_key()
OTHER_KEY = certificates.new_key()
HOLDER = certificates.new_key()
ROOT = certificates.self_signed_authority("fednot authority", KEY, 30, "fednot")
NAMESAKE = certificates.self_signed_authority("fednot authority", OTHER_KEY, 30, "fednot")
STRANGER = certificates.self_signed_authority("another", OTHER_KEY, 30)
CLIENT = Subject(Role.CLIENT, "c1")
NOW = certificates.now() + dt.timedelta(hours=1)
"""Later than every certificate of these tests begins, however long the whole run takes."""
ROOT_PEM = certificates.pem_of([ROOT])
NONE_REVOKED = certificates.revocation_list([], ROOT, KEY)


def leaf(days: float = 1, begins: dt.datetime | None = None) -> x509.Certificate:
    return certificates.leaf(CLIENT, HOLDER.public_key(), ROOT, KEY, days=days, begins=begins)


def refusal(trust: Trust, certificate: x509.Certificate, at: dt.datetime = NOW) -> FednotError:
    with pytest.raises(FednotError) as caught:
        trust.check(certificate, at)
    return caught.value


def test_who_was_issued_a_certificate_is_let_in() -> None:
    assert Trust.of_pem(ROOT_PEM, NONE_REVOKED).check(leaf(), NOW) == CLIENT
    assert Trust.of_pem(certificates.pem_of([STRANGER, ROOT])).check(leaf(), NOW) == CLIENT


@pytest.mark.parametrize("other", [STRANGER, NAMESAKE])
def test_another_authority_lets_nobody_in(other: x509.Certificate) -> None:
    error = refusal(Trust([other]), leaf())
    assert error.reason is Reason.UNTRUSTED_CERTIFICATE
    assert "client c1" in error.message
    assert "CN=fednot authority" in error.message


def test_dates_are_named() -> None:
    trust = Trust([ROOT])
    ended = refusal(trust, leaf(days=1), NOW + dt.timedelta(days=2))
    assert ended.reason is Reason.CERTIFICATE_EXPIRED
    assert f"{leaf().not_valid_after_utc:%Y-%m-%d}" in ended.message
    early = refusal(trust, leaf(begins=NOW + dt.timedelta(days=3)))
    assert early.reason is Reason.CERTIFICATE_NOT_YET_VALID
    assert f"{NOW + dt.timedelta(days=3):%Y-%m-%d}" in early.message


def test_the_file_is_named_where_it_is_known() -> None:
    with pytest.raises(FednotError, match=r"of client c1 in /x/cert.pem expired on"):
        check_dates(leaf(), NOW + dt.timedelta(days=2), "/x/cert.pem")


def test_an_authority_that_has_ended_lets_nobody_in() -> None:
    after = ROOT.not_valid_after_utc + dt.timedelta(seconds=1)
    assert refusal(Trust([ROOT]), leaf(), after).reason is Reason.UNTRUSTED_CERTIFICATE


def test_the_last_second_counts() -> None:
    found = leaf()
    assert Trust([ROOT]).check(found, found.not_valid_after_utc) == CLIENT
    assert Trust([ROOT]).check(found, found.not_valid_before_utc) == CLIENT


def test_a_revoked_one_is_refused_with_its_serial_number() -> None:
    stolen, good = leaf(), leaf()
    lists = certificates.revocation_list([(stolen.serial_number, NOW)], ROOT, KEY)
    trust = Trust.of_pem(ROOT_PEM, lists)
    error = refusal(trust, stolen)
    assert error.reason is Reason.CERTIFICATE_REVOKED
    assert f"{stolen.serial_number:x}" in error.message
    assert trust.check(good, NOW) == CLIENT


def test_an_authority_is_no_caller() -> None:
    assert refusal(Trust([ROOT]), ROOT).reason is Reason.INVALID_CERTIFICATE


def test_a_leaf_that_plays_authority_lets_nobody_in() -> None:
    forged = certificates.leaf(CLIENT, HOLDER.public_key(), leaf(), HOLDER, days=1)
    assert refusal(Trust([ROOT]), forged).reason is Reason.UNTRUSTED_CERTIFICATE


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (b"", "no revocation list of CN=fednot authority"),
        (b"issuer: fednot\n", "was cut off"),
        (b"nonsense", "was cut off"),
        (NONE_REVOKED[:-30], "was cut off"),
        (NONE_REVOKED + NONE_REVOKED[:40], "was cut off"),
        (NONE_REVOKED + NONE_REVOKED[:10], "was cut off"),
        (NONE_REVOKED + ROOT_PEM, "was cut off"),
        (NONE_REVOKED + NONE_REVOKED, "several revocation lists of CN=fednot authority"),
        (certificates.revocation_list([], STRANGER, OTHER_KEY), "no revocation list of CN=fednot"),
        (certificates.revocation_list([], NAMESAKE, OTHER_KEY), "no revocation list of CN=fednot"),
        (NONE_REVOKED.replace(b"\nMI", b"\nMJ", 1), "asn1"),
    ],
)
def test_lists_that_cannot_be_relied_on_are_refused(lists: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Trust.of_pem(ROOT_PEM, lists)


def test_each_trusted_authority_needs_its_list() -> None:
    """A file that was cut off between two lists, say."""
    both = certificates.pem_of([ROOT, STRANGER])
    of_stranger = certificates.revocation_list([], STRANGER, OTHER_KEY)
    with pytest.raises(ValueError, match="no revocation list of CN=another"):
        Trust.of_pem(both, NONE_REVOKED)
    with pytest.raises(ValueError, match="no revocation list of CN=fednot authority"):
        Trust.of_pem(both, of_stranger)
    assert Trust.of_pem(both, of_stranger + NONE_REVOKED).revoked == frozenset()


def test_a_list_of_an_authority_that_is_not_trusted_changes_nothing() -> None:
    """Lists of a rotated authority fit an identity that does not trust the new one yet."""
    stolen = leaf()
    own = certificates.revocation_list([(stolen.serial_number, NOW)], ROOT, KEY)
    others = certificates.revocation_list([(7, NOW)], STRANGER, OTHER_KEY)
    assert Trust.of_pem(ROOT_PEM, others + own).revoked == {stolen.serial_number}


def test_without_a_file_of_lists_nothing_is_revoked() -> None:
    assert Trust.of_pem(ROOT_PEM).check(leaf(), NOW) == CLIENT


@pytest.mark.parametrize("authorities", [b"", b"nonsense"])
def test_trust_in_nobody_is_refused(authorities: bytes) -> None:
    with pytest.raises(ValueError, match="PEM"):
        Trust.of_pem(authorities)


def test_text_around_lists_is_passed_over() -> None:
    text = b"issuer: fednot\n" + NONE_REVOKED + b"\n\nmore\n"
    assert Trust.of_pem(ROOT_PEM, text).revoked == frozenset()


def test_a_certificate_of_another_domain_names_nobody_here() -> None:
    pem = certificates.pem_of([leaf()])
    assert Holders(Trust([ROOT]), "fednot").named_in(pem) == CLIENT
    assert Holders(Trust([ROOT]), "elsewhere").named_in(pem) is None


def test_a_certificate_with_another_kind_of_name_is_invalid() -> None:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("https://c1")])
    found = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ROOT.subject)
        .public_key(HOLDER.public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(name, critical=True)
        .sign(KEY, hashes.SHA256())
    )
    assert refusal(Trust([ROOT]), found).reason is Reason.INVALID_CERTIFICATE
