"""The private authority: what it issues, signs, lists and revokes, and what it refuses."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fednot.errors import FednotError, Reason
from fednot.identity import certificates
from fednot.identity.authority import Authority, AuthorityError, State
from fednot.identity.folder import read_credentials, write_request
from fednot.identity.signing_request import MAX_REQUEST_BYTES
from fednot.identity.subject import Role, Subject, SubjectError
from fednot.identity.trust import Trust

CLIENT = Subject(Role.CLIENT, "c1")
OFFICER = Subject(Role.OFFICER, "dora")
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", hosts=["localhost", "127.0.0.1"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def trust(authority: Authority) -> Trust:
    return Trust.of_pem(authority.trust_pem, authority.revocations.read_bytes())


def reason(authority: Authority, folder: Path) -> Reason:
    with pytest.raises(FednotError) as caught:
        trust(authority).check(read_credentials(folder).certificate, certificates.now())
    return caught.value.reason


def test_a_new_authority_has_its_server(authority: Authority) -> None:
    server = read_credentials(authority.server_folder)
    assert authority.domain == "fednot"
    assert server.subject == Subject(Role.SERVER, "server")
    assert certificates.hosts_of(server.certificate) == ("localhost", "127.0.0.1")
    assert server.trust == authority.trust_pem == certificates.pem_of(authority.authorities())
    assert trust(authority).check(server.certificate, certificates.now()) == server.subject


def test_only_its_owner_can_read_it(authority: Authority) -> None:
    for path in (authority.directory, *authority.directory.rglob("*")):
        public = {"cert.pem", "ca.pem", "trust.pem", "revoked.pem", ".gitignore"}
        expected = 0o700 if path.is_dir() else 0o644 if path.name in public else 0o600
        assert mode(path) == expected, path


def test_it_keeps_itself_out_of_git(authority: Authority) -> None:
    assert (authority.directory / ".gitignore").read_text() == "*\n"


def test_how_long_things_are_good(authority: Authority, tmp_path: Path) -> None:
    """An authority 3650 days, a certificate 365 or what is asked, and never beyond the authority.

    The authority's end bounds the last one: it was made before, so its end is the earlier one.
    """
    now = certificates.now()
    root = authority.authorities()[0]
    assert abs(root.not_valid_after_utc - now - dt.timedelta(days=3650)) < MINUTE
    for days, expected in ((None, 365), (3, 3), (0.5, 0.5)):
        found = authority.issue(CLIENT, tmp_path / "c1", days=days).certificate
        assert abs(found.not_valid_after_utc - now - dt.timedelta(days=expected)) < MINUTE
    found = authority.issue(CLIENT, tmp_path / "c1", days=4000).certificate
    assert found.not_valid_after_utc == root.not_valid_after_utc


def test_a_short_authority_bounds_its_server(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "a", hosts=["localhost"], days=1)
    server = read_credentials(authority.server_folder).certificate
    assert server.not_valid_after_utc == authority.authorities()[0].not_valid_after_utc


def test_an_authority_in_use_is_not_replaced(authority: Authority) -> None:
    with pytest.raises(AuthorityError, match="already holds an authority"):
        Authority.create(authority.directory, hosts=["localhost"])
    assert Authority.open(authority.directory).trust_pem == authority.trust_pem


def test_a_directory_of_other_things_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(AuthorityError, match=r"holds other things \(thesis.tex\)"):
        Authority.create(tmp_path, hosts=["localhost"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert mode(tmp_path) == 0o755


def test_an_empty_directory_is_taken_and_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Authority.create(tmp_path)
    assert mode(tmp_path) == 0o700
    assert not (tmp_path / "server").exists()


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AuthorityError, match="file cannot be used"):
        Authority.create(tmp_path / "file")
    with pytest.raises(AuthorityError, match="cannot be used: Not a directory"):
        Authority.create(tmp_path / "file" / "below")


def test_a_wrong_domain_or_host_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="'Fed Not' is no trust domain"):
        Authority.create(tmp_path / "a", domain="Fed Not", hosts=["localhost"])
    with pytest.raises(AuthorityError, match="'a:1' is neither"):
        Authority.create(tmp_path / "a", hosts=["a:1"])
    assert not (tmp_path / "a").exists()


def without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / "ca" / name).unlink()


def with_nonsense(name: str) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        (directory / "ca" / name).write_bytes(b"nonsense")

    return spoil


def with_another_key(directory: Path) -> None:
    pem = certificates.key_pem(certificates.new_key())
    (directory / "ca" / "key.pem").write_bytes(pem)


def without_domain(directory: Path) -> None:
    key = certificates.read_key((directory / "ca" / "key.pem").read_bytes())
    root = certificates.self_signed_authority("x", key, 1)
    (directory / "ca" / "cert.pem").write_bytes(certificates.pem_of([root]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda directory: shutil.rmtree(directory / "ca"), "there is no authority in"),
        (without("cert.pem"), "ca/cert.pem cannot be read: No such file"),
        (without("key.pem"), "ca/key.pem cannot be used: No such file"),
        (with_nonsense("cert.pem"), "ca/cert.pem holds no certificate"),
        (with_nonsense("key.pem"), "ca/key.pem cannot be used"),
        (with_another_key, "ca/key.pem is not the key of"),
        (without_domain, "names no trust domain"),
    ],
)
def test_an_authority_that_cannot_be_used_is_refused(
    authority: Authority, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(authority.directory)
    with pytest.raises(AuthorityError, match=said):
        Authority.open(authority.directory)


def test_an_identity_is_issued_and_recorded(authority: Authority, tmp_path: Path) -> None:
    found = authority.issue(CLIENT, tmp_path / "c1")
    assert found == read_credentials(tmp_path / "c1")
    assert found.subject == CLIENT
    assert found.trust == authority.trust_pem
    serial = found.certificate.serial_number
    record = authority.directory / "issued" / f"{serial:x}.pem"
    assert record.read_bytes() == found.chain
    row = next(each for each in authority.issued() if each.subject == CLIENT)
    assert (row.serial, row.current, row.revoked_at) == (serial, True, None)
    assert row.key_digest == certificates.key_digest(found.certificate.public_key())
    assert (row.begins, row.ends) == (
        found.certificate.not_valid_before_utc,
        found.certificate.not_valid_after_utc,
    )


def test_an_identity_is_issued_again_with_another_key(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue(CLIENT, tmp_path / "c1")
    second = authority.issue(CLIENT, tmp_path / "c1")
    assert first.private_key != second.private_key
    assert [each.subject for each in authority.issued()].count(CLIENT) == 2


@pytest.mark.parametrize(
    ("subject", "hosts", "days", "said"),
    [
        (Subject(Role.CLIENT, "c1", "elsewhere"), [], 1, "this authority signs for fednot"),
        (Subject(Role.SERVER, "s2"), [], 1, "needs a host name"),
        (Subject(Role.SERVER, "s2"), ["a b"], 1, "'a b' is neither"),
        (CLIENT, ["localhost"], 1, "only a server's certificate has host names"),
        (CLIENT, [], 0, "for 0 days is none"),
        (CLIENT, [], -3, "for -3 days is none"),
        (CLIENT, [], float("nan"), "for nan days is none"),
    ],
)
def test_what_is_not_issued(
    authority: Authority, tmp_path: Path, subject: Subject, hosts: list[str], days: float, said: str
) -> None:
    before = authority.issued()
    with pytest.raises(AuthorityError, match=said):
        authority.issue(subject, tmp_path / "new", days=days, hosts=hosts)
    assert not (tmp_path / "new").exists()
    assert authority.issued() == before


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/sys", "^/sys cannot be used"),
        ("file", "file cannot be used: File exists"),
        ("file/below", "cannot be used: Not a directory"),
    ],
)
def test_nothing_is_issued_or_signed_for_a_folder_that_cannot_be_written(
    authority: Authority, tmp_path: Path, place: str, said: str
) -> None:
    """Nobody may make a file in /sys, not even root, for whom these tests may run."""
    (tmp_path / "file").touch()
    request = certificates.request_pem(certificates.request(CLIENT, certificates.new_key()))
    before = authority.issued()
    with pytest.raises(AuthorityError, match=said):
        authority.issue(CLIENT, tmp_path / place)
    with pytest.raises(AuthorityError, match=said):
        authority.sign(request, CLIENT, folder=tmp_path / place)
    assert authority.issued() == before


def test_anothers_folder_is_not_overwritten(authority: Authority, tmp_path: Path) -> None:
    kept = authority.issue(CLIENT, tmp_path / "c1")
    with pytest.raises(AuthorityError, match="holds the identity of client c1"):
        authority.issue(OFFICER, tmp_path / "c1")
    with pytest.raises(AuthorityError, match=r"ca/cert.pem is no certificate of fednot"):
        authority.issue(OFFICER, authority.directory / "ca")
    assert read_credentials(tmp_path / "c1") == kept
    assert OFFICER not in {each.subject for each in authority.issued()}


def test_a_request_is_signed_for_its_key(authority: Authority, tmp_path: Path) -> None:
    digest = write_request(tmp_path / "c1", CLIENT)
    request = (tmp_path / "c1" / "request.pem").read_bytes()
    signed = authority.sign(request, CLIENT, days=2)
    (tmp_path / "c1" / "cert.pem").write_bytes(signed.chain)
    (tmp_path / "c1" / "ca.pem").write_bytes(signed.trust)
    found = read_credentials(tmp_path / "c1")
    assert trust(authority).check(found.certificate, certificates.now()) == CLIENT
    assert signed.key_digest == digest
    assert signed.expires_at == found.certificate.not_valid_after_utc.timestamp()
    assert abs(signed.expires_at - time.time() - 2 * 86400) < 60
    assert signed.serial in {each.serial for each in authority.issued()}


def test_a_signed_certificate_goes_to_a_folder_where_it_fits(
    authority: Authority, tmp_path: Path
) -> None:
    write_request(tmp_path / "c1", CLIENT)
    request = (tmp_path / "c1" / "request.pem").read_bytes()
    authority.sign(request, CLIENT, folder=tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["ca.pem", "cert.pem"]
    authority.sign(request, CLIENT, folder=tmp_path / "c1")
    assert read_credentials(tmp_path / "c1").subject == CLIENT
    authority.issue(CLIENT, tmp_path / "other-key")
    before = authority.issued()
    with pytest.raises(AuthorityError, match=r"other-key/key.pem is not the key of the request"):
        authority.sign(request, CLIENT, folder=tmp_path / "other-key")
    with pytest.raises(AuthorityError, match="server holds the identity of server server"):
        authority.sign(request, CLIENT, folder=authority.server_folder)
    assert authority.issued() == before


def test_a_server_elsewhere_is_signed_with_its_hosts(authority: Authority) -> None:
    server = Subject(Role.SERVER, "north")
    request = certificates.request_pem(certificates.request(server, certificates.new_key()))
    signed = authority.sign(request, server, hosts=["north.example.org"])
    leaf = certificates.read_certificates(signed.chain)[0]
    assert certificates.hosts_of(leaf) == ("north.example.org",)
    with pytest.raises(AuthorityError, match="needs a host name"):
        authority.sign(request, server)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Subject(Role.CLIENT, "c2"), "asks for spiffe://fednot/client/c2, and was to be for"),
        (Subject(Role.OFFICER, "c1"), "asks for spiffe://fednot/officer/c1"),
        (Subject(Role.CLIENT, "c1", "elsewhere"), "asks for spiffe://elsewhere/client/c1"),
    ],
)
def test_a_request_of_another_is_refused(authority: Authority, asked: Subject, said: str) -> None:
    request = certificates.request_pem(certificates.request(asked, certificates.new_key()))
    with pytest.raises(FednotError, match=said) as caught:
        authority.sign(request, CLIENT)
    assert caught.value.reason is Reason.INVALID_CERTIFICATE_REQUEST


@pytest.mark.parametrize(
    ("request_pem", "said"),
    [(b"nonsense", "PEM"), (b"A" * (MAX_REQUEST_BYTES + 1), "16385 bytes; 16384 are the most")],
)
def test_a_bad_request_is_refused(authority: Authority, request_pem: bytes, said: str) -> None:
    with pytest.raises(FednotError, match=said) as caught:
        authority.sign(request_pem, CLIENT)
    assert caught.value.reason is Reason.INVALID_CERTIFICATE_REQUEST


def test_all_certificates_of_a_name_are_revoked(authority: Authority, tmp_path: Path) -> None:
    for place in ("laptop", "desk"):
        authority.issue(CLIENT, tmp_path / place)
    authority.issue(OFFICER, tmp_path / "dora")
    assert len(authority.revoke(CLIENT)) == 2
    for place in ("laptop", "desk"):
        assert reason(authority, tmp_path / place) is Reason.CERTIFICATE_REVOKED
    dora = read_credentials(tmp_path / "dora").certificate
    assert trust(authority).check(dora, certificates.now()) == OFFICER
    states = {each.subject: each.state(certificates.now()) for each in authority.issued()}
    assert states[CLIENT] is State.REVOKED
    assert states[OFFICER] is State.VALID


def test_one_certificate_is_revoked_by_its_serial_number(
    authority: Authority, tmp_path: Path
) -> None:
    lost = authority.issue(CLIENT, tmp_path / "lost").certificate.serial_number
    authority.issue(CLIENT, tmp_path / "kept")
    first = authority.revoke(f"{lost:x}"[:16].upper())
    assert [each.serial for each in first] == [lost]
    assert trust(authority).revoked == {lost}
    assert reason(authority, tmp_path / "lost") is Reason.CERTIFICATE_REVOKED
    again = authority.revoke(f"{lost:x}")
    assert [each.revoked_at for each in again] == [each.revoked_at for each in first]


def test_a_revoked_name_can_have_a_new_certificate(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1")
    authority.revoke(CLIENT)
    found = authority.issue(CLIENT, tmp_path / "c1").certificate
    assert trust(authority).check(found, certificates.now()) == CLIENT


def not_revoked(authority: Authority, who: Subject | str) -> str:
    with pytest.raises(AuthorityError) as caught:
        authority.revoke(who)
    return str(caught.value)


def test_what_is_not_there_cannot_be_revoked(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1")
    shows = "`fednot certs list` shows what there is"
    assert not_revoked(authority, OFFICER) == f"{OFFICER} has no certificate to revoke; {shows}"
    assert f"; {shows}" in not_revoked(authority, "beef" * 20)
    assert "no certificate has the serial number" in not_revoked(authority, "")
    bare = Authority.create(tmp_path / "bare")
    assert "none was issued yet" in not_revoked(bare, CLIENT)


def test_a_name_that_was_mistyped_is_told_the_nearest(authority: Authority, tmp_path: Path) -> None:
    for name in ("clinic-a", "hospital"):
        authority.issue(Subject(Role.CLIENT, name), tmp_path / name)
    said = not_revoked(authority, Subject(Role.CLIENT, "clinik-a"))
    assert "the nearest name is client clinic-a, and `fednot certs list`" in said


def test_what_was_revoked_is_told_by_its_newest_and_shortly(
    authority: Authority, tmp_path: Path
) -> None:
    """However many there are: what is printed fits a screen."""
    for days in range(1, 10):
        authority.issue(CLIENT, tmp_path / "c1", days=days)
    newest = authority.issue(CLIENT, tmp_path / "c1", days=20).certificate.serial_number
    authority.revoke(CLIENT)
    said = not_revoked(authority, CLIENT)
    assert re.search(rf"there is client c1 \(revoked, until [0-9-]+, serial {newest:x}\)", said)
    assert said.endswith(" and 7 more")
    assert len(not_revoked(authority, "ab" * 4000)) < 200


def test_a_beginning_of_two_serial_numbers_revokes_none(
    authority: Authority, tmp_path: Path
) -> None:
    """Of 17 serial numbers, two at least begin with the same of 16 digits."""
    firsts: list[str] = []
    while len(set(firsts)) == len(firsts):
        found = authority.issue(CLIENT, tmp_path / "c1").certificate.serial_number
        firsts.append(f"{found:x}"[0])
    with pytest.raises(AuthorityError, match=f"several serial numbers begin with {firsts[-1]}"):
        authority.revoke(firsts[-1])
    assert trust(authority).revoked == frozenset()


def test_states_of_what_was_issued(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1", days=1)
    row = next(each for each in authority.issued() if each.subject == CLIENT)
    assert row.state(row.begins) is State.VALID
    assert row.state(row.ends) is State.VALID
    assert row.state(row.begins - MINUTE) is State.NOT_YET_VALID
    assert row.state(row.ends + MINUTE) is State.EXPIRED


def test_a_record_that_cannot_be_read_is_named(authority: Authority, tmp_path: Path) -> None:
    serial = authority.issue(CLIENT, tmp_path / "c1").certificate.serial_number
    record = authority.directory / "issued" / f"{serial:x}.pem"
    whole = record.read_bytes()
    record.write_bytes(b"nonsense")
    with pytest.raises(AuthorityError, match=f"{serial:x}.pem cannot be read"):
        authority.issued()
    record.write_bytes(whole)
    for text in (b"yesterday", b"{}", b"[]", b'{"revoked": [1]}', b'{"revoked": [{}]}'):
        (record.parent / "revoked.json").write_bytes(text)
        with pytest.raises(AuthorityError, match=r"revoked.json cannot be read"):
            authority.issued()
        with pytest.raises(AuthorityError, match=r"revoked.json cannot be read"):
            authority.revoke(CLIENT)
