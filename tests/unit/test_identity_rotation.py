"""A new authority beside the old one, and the end of the old one."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fednot.errors import FednotError, Reason
from fednot.identity import authority_files, certificates, folder, replacement
from fednot.identity.authority import Authority, AuthorityError, State
from fednot.identity.folder import read_credentials
from fednot.identity.keyring import Keyring
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust

CLIENT = Subject(Role.CLIENT, "c1")
OFFICER = Subject(Role.OFFICER, "dora")
SERVER = Subject(Role.SERVER, "server")
HOSTS = ("localhost", "127.0.0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", hosts=HOSTS)


def trust(authority: Authority) -> Trust:
    return Trust.of_pem(authority.trust_pem, authority.revocations.read_bytes())


def holds(authority: Authority, folder: Path) -> Subject:
    return trust(authority).check(read_credentials(folder).certificate, certificates.now())


def states(authority: Authority, subject: Subject) -> list[State]:
    found = [each for each in authority.issued() if each.subject == subject]
    return sorted(each.state(certificates.now()) for each in found)


def private_keys(directory: Path) -> set[bytes]:
    return {path.read_bytes() for path in (directory / "ca").rglob("key.pem")}


def test_a_rotation_trusts_both_and_signs_by_the_new(authority: Authority, tmp_path: Path) -> None:
    before = authority.issue(CLIENT, tmp_path / "before")
    old = authority.authorities()
    authority.rotate(days=30)
    new = authority.authorities()
    after = authority.issue(CLIENT, tmp_path / "after")
    assert new[1:] == old
    assert certificates.issued_by(after.certificate, new[0])
    assert certificates.domain_of(new[0]) == "fednot"
    assert (new[0].not_valid_after_utc - certificates.now()).days in (29, 30)
    assert authority.trust_pem == after.trust == certificates.pem_of(new)
    assert holds(authority, tmp_path / "before") == holds(authority, tmp_path / "after") == CLIENT
    assert before.trust == certificates.pem_of(old)
    assert states(authority, CLIENT) == [State.OLDER, State.VALID]


def test_a_rotation_gives_the_server_a_new_key_for_the_same_hosts(authority: Authority) -> None:
    before = read_credentials(authority.server_folder)
    authority.rotate()
    after = read_credentials(authority.server_folder)
    assert (after.subject, certificates.hosts_of(after.certificate)) == (SERVER, HOSTS)
    assert after.private_key != before.private_key
    assert certificates.issued_by(after.certificate, authority.authorities()[0])
    assert after.trust == authority.trust_pem


def test_the_chain_leads_to_the_old_authority(authority: Authority, tmp_path: Path) -> None:
    old = authority.authorities()[0]
    assert len(certificates.read_certificates(authority.issue(CLIENT, tmp_path / "c1").chain)) == 1
    authority.rotate()
    chain = certificates.read_certificates(authority.issue(CLIENT, tmp_path / "c1").chain)
    request = certificates.request_pem(certificates.request(CLIENT, certificates.new_key()))
    signed = certificates.read_certificates(authority.sign(request, CLIENT).chain)
    assert len(chain) == len(signed) == 2
    assert chain[1] == signed[1]
    assert certificates.issued_by(chain[0], chain[1])
    assert certificates.issued_by(chain[1], old)
    assert chain[1] not in authority.authorities()


def test_who_was_revoked_by_the_old_stays_out(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1")
    authority.revoke(CLIENT)
    authority.rotate()
    with pytest.raises(FednotError) as caught:
        holds(authority, tmp_path / "c1")
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED


def test_the_old_and_the_new_are_revoked_together(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "before")
    authority.rotate()
    authority.issue(CLIENT, tmp_path / "after")
    assert [each.current for each in authority.revoke(CLIENT)].count(True) == 1
    for place in ("before", "after"):
        with pytest.raises(FednotError, match="was revoked"):
            holds(authority, tmp_path / place)


def test_retiring_waits_for_those_who_need_the_old(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1")
    authority.issue(OFFICER, tmp_path / "dora")
    authority.rotate()
    ends = read_credentials(tmp_path / "c1").certificate.not_valid_after_utc
    with pytest.raises(
        AuthorityError, match=rf"client c1 \(older authority, until {ends:%Y-%m-%d}"
    ):
        authority.retire()
    authority.issue(CLIENT, tmp_path / "c1")
    assert [each.subject for each in authority.needed_older()] == [OFFICER]
    with pytest.raises(
        AuthorityError, match=r"still in use: officer dora [^,]*,[^,]*,[^,]*; renew"
    ):
        authority.retire()
    assert len(authority.authorities()) == 2
    authority.revoke(OFFICER)
    authority.retire()
    assert len(authority.authorities()) == 1
    assert states(authority, CLIENT) == [State.RETIRED, State.VALID]


def test_a_revoked_replacement_replaces_nothing(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "before")
    authority.rotate()
    newer = authority.issue(CLIENT, tmp_path / "after").certificate.serial_number
    authority.revoke(f"{newer:x}")
    with pytest.raises(AuthorityError, match="client c1"):
        authority.retire()


def test_an_expired_certificate_needs_nothing(authority: Authority, tmp_path: Path) -> None:
    """A certificate of a millionth of a day has ended when a second has passed."""
    ended = authority.issue(CLIENT, tmp_path / "c1", days=1e-6).certificate.not_valid_after_utc
    authority.rotate()
    while certificates.now() <= ended:
        continue
    authority.retire()
    assert states(authority, CLIENT) == [State.EXPIRED]


def test_force_shuts_the_old_ones_out(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "c1")
    authority.rotate()
    authority.retire(force=True)
    with pytest.raises(FednotError) as caught:
        holds(authority, tmp_path / "c1")
    assert caught.value.reason is Reason.UNTRUSTED_CERTIFICATE
    assert holds(authority, authority.server_folder) == SERVER


def test_retiring_destroys_the_old_keys(authority: Authority) -> None:
    before = private_keys(authority.directory)
    authority.rotate()
    authority.rotate()
    kept = private_keys(authority.directory)
    assert len(kept) == 3
    assert before < kept
    for path in (authority.directory / "ca").rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600 if path.name == "key.pem" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    authority.retire()
    left = private_keys(authority.directory)
    assert len(left) == 1
    assert not left & before
    assert not list(authority.directory.glob("ca.*"))


def test_retiring_leaves_the_servers_key_and_shortens_its_chain(authority: Authority) -> None:
    authority.rotate()
    before = read_credentials(authority.server_folder)
    authority.retire()
    after = read_credentials(authority.server_folder)
    assert (after.private_key, after.certificate) == (before.private_key, before.certificate)
    assert len(certificates.read_certificates(before.chain)) == 2
    assert len(certificates.read_certificates(after.chain)) == 1
    assert after.trust == authority.trust_pem


def test_without_an_older_authority_there_is_nothing_to_retire(authority: Authority) -> None:
    with pytest.raises(AuthorityError, match="there is no older authority to retire"):
        authority.retire(force=True)


def test_an_authority_without_a_server_rotates(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "a")
    authority.rotate()
    authority.retire()
    assert not authority.server_folder.exists()


@pytest.mark.parametrize("role", [None, Role.CLIENT])
def test_a_server_folder_that_cannot_be_renewed_stops_a_rotation_before_it_begins(
    authority: Authority, tmp_path: Path, role: Role | None
) -> None:
    if role:
        authority.issue(CLIENT, tmp_path / "c1")
        shutil.rmtree(authority.server_folder)
        shutil.copytree(tmp_path / "c1", authority.server_folder)
    else:
        (authority.server_folder / "cert.pem").write_bytes(b"nonsense")
    before = authority.trust_pem
    with pytest.raises(AuthorityError, match=r"server/cert.pem"):
        authority.rotate()
    assert authority.trust_pem == before
    assert authority.issue(OFFICER, tmp_path / "dora").trust == before


def test_an_ended_authority_signs_nothing_and_can_be_replaced(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "a", days=1e-6)
    ended = authority.authorities()[0].not_valid_after_utc
    while certificates.now() < ended:
        continue
    with pytest.raises(AuthorityError, match=f"ended on {ended:%Y-%m-%d}"):
        authority.issue(CLIENT, tmp_path / "c1")
    authority.rotate()
    found = authority.issue(CLIENT, tmp_path / "c1")
    assert found.chain == certificates.pem_of([found.certificate])
    assert holds(authority, tmp_path / "c1") == CLIENT


def test_server_and_lists_fit_at_every_moment(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reads its files while the authority changes finds a list for each authority."""
    authority.issue(CLIENT, tmp_path / "c1")
    authority.revoke(CLIENT)
    write, seen = folder.write_private, []

    def watching(path: Path, content: bytes, **more: Any) -> None:
        write(path, content, **more)
        trusted = (authority.server_folder / "ca.pem").read_bytes()
        Trust.of_pem(trusted, authority.revocations.read_bytes())
        seen.append(path.name)

    for place in (folder, authority_files, replacement):
        monkeypatch.setattr(place, "write_private", watching)
    authority.rotate()
    authority.retire()
    assert (seen.count("revoked.pem"), seen.count("ca.pem")) == (2, 2)


DYING = """
import os, shutil, sys
from pathlib import Path
from fednot.identity.authority import Authority
from fednot.identity.subject import Role, Subject

os.fsync = lambda handle: None
work, name = Path(sys.argv[1]), sys.argv[2]
CLIENT, SERVER = Subject(Role.CLIENT, "c1"), Subject(Role.SERVER, "server")
OPERATIONS = {
    "create": lambda place: Authority.create(place, hosts=["localhost"]),
    "issue": lambda place: Authority.open(place).issue(CLIENT, place / "c1"),
    "renew": lambda place: Authority.open(place).issue(SERVER, place / "server", hosts=["a.org"]),
    "revoke": lambda place: Authority.open(place).revoke(CLIENT),
    "rotate": lambda place: Authority.open(place).rotate(),
    "retire": lambda place: Authority.open(place).retire(force=True),
}


def dying(place, left):
    counted = [left]

    def watch(event, arguments):
        drafted = event == "open" and str(arguments[0]).endswith(".draft")
        if drafted or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            counted[0] -= 1
            if counted[0] < 0:
                os._exit(9)

    sys.addaudithook(watch)
    OPERATIONS[name](place)
    os._exit(0)


for left in range(1000):
    place = work / f"died-{left}"
    if name != "create":
        shutil.copytree(work / "authority", place)
    child = os.fork()
    if not child:
        dying(place, left)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        sys.exit(0)
"""


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker, and the same where processes end and the machine goes on."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def died(work: Path, operation: str) -> list[Path]:
    """Copies of an authority, in each of which a process ended at a later step of an operation."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [sys.executable, "-c", DYING, str(work), operation]
    subprocess.run(arguments, check=True, timeout=90, env=environment)
    return sorted(work.glob("died-*"), key=lambda place: int(place.name.split("-")[1]))


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("operation", ["issue", "renew", "revoke", "rotate", "retire"])
def test_a_crash_at_any_step_is_mended(tmp_path: Path, operation: str) -> None:
    """Whatever was done stays whole: the keys fit, nothing half published, no revocation lost. A
    server that starts again opens the authority, and then finds its identity; then there are
    changes.
    """
    original = Authority.create(tmp_path / "authority", hosts=HOSTS)
    original.issue(CLIENT, tmp_path / "authority" / "c1")
    original.issue(OFFICER, tmp_path / "authority" / "dora")
    original.revoke(OFFICER)
    if operation == "retire":
        original.rotate()
    places = died(tmp_path, operation)
    assert len(places) > 3
    for place in places:
        authority = Authority.open(place)
        server = read_credentials(authority.server_folder)
        lists = authority.revocations.read_bytes()
        at = certificates.now()
        assert Trust.of_pem(server.trust, lists).check(server.certificate, at) == SERVER
        authority.issue(CLIENT, place / "c1")
        assert holds(authority, place / "c1") == CLIENT
        assert holds(authority, authority.server_folder) == SERVER
        assert Keyring.read(place).trust_pem == authority.trust_pem
        assert read_credentials(authority.server_folder).trust == authority.trust_pem
        assert certificates.issued_by(
            read_credentials(authority.server_folder).certificate, authority.authorities()[0]
        )
        assert State.REVOKED in states(authority, OFFICER)
        assert not list(place.glob("ca.*"))
    ended = [len(Authority.open(place).authorities()) for place in places]
    expected = {"rotate": {1, 2}, "retire": {1, 2}}.get(operation, {1})
    assert set(ended) == expected


@pytest.mark.usefixtures("unsynced")
def test_a_crash_while_revoking_loses_no_revocation_that_is_repeated(tmp_path: Path) -> None:
    """Even if it answers that no certificate is left to revoke, since it was recorded already."""
    original = Authority.create(tmp_path / "authority", hosts=HOSTS)
    stolen = original.issue(CLIENT, tmp_path / "c1").certificate.serial_number
    for place in died(tmp_path, "revoke"):
        authority = Authority.open(place)
        with contextlib.suppress(AuthorityError):
            authority.revoke(CLIENT)
        assert trust(authority).revoked == {stolen}


@pytest.mark.usefixtures("unsynced")
def test_a_revocation_that_was_cut_off_is_published_when_the_authority_is_opened(
    tmp_path: Path,
) -> None:
    """A server that opens it may change nothing for months."""
    original = Authority.create(tmp_path / "authority", hosts=HOSTS)
    stolen = original.issue(CLIENT, tmp_path / "c1").certificate.serial_number
    recorded = []
    for place in died(tmp_path, "revoke"):
        authority = Authority.open(place)
        recorded.append(State.REVOKED in states(authority, CLIENT))
        assert trust(authority).revoked == ({stolen} if recorded[-1] else set())
    assert set(recorded) == {True, False}


@pytest.mark.usefixtures("unsynced")
def test_after_a_crash_while_it_is_made_it_can_be_made_or_used(tmp_path: Path) -> None:
    outcomes = set()
    for place in died(tmp_path, "create"):
        there = (place / "ca").exists()
        outcomes.add(there)
        if there:
            with pytest.raises(AuthorityError, match="already holds an authority"):
                Authority.create(place, hosts=HOSTS)
            authority = Authority.open(place)
            authority.issue(SERVER, authority.server_folder, hosts=HOSTS)
        else:
            authority = Authority.create(place, hosts=HOSTS)
        assert holds(authority, authority.server_folder) == SERVER
    assert outcomes == {True, False}
