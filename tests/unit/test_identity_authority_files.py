"""An authority's directory under several hands, and as other programs read it."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from support.at_once import sign_many

from fednot.identity import certificates, locking
from fednot.identity.authority import Authority, AuthorityError
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust

CLIENT = Subject(Role.CLIENT, "c1")
OFFICER = Subject(Role.OFFICER, "dora")
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(not OPENSSL, reason="there is no openssl")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", hosts=["localhost", "127.0.0.1"])


def trust(authority: Authority) -> Trust:
    return Trust.of_pem(authority.trust_pem, authority.revocations.read_bytes())


def openssl(*arguments: str | Path) -> str:
    found = subprocess.run(
        [str(OPENSSL), *map(str, arguments)], capture_output=True, text=True, timeout=30
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_lists_that_were_lost_are_written_again(authority: Authority, tmp_path: Path) -> None:
    lost = authority.issue(CLIENT, tmp_path / "c1").certificate.serial_number
    authority.revoke(CLIENT)
    authority.revocations.unlink()
    (authority.directory / "trust.pem").unlink()
    with pytest.raises(AuthorityError, match=r"trust.pem cannot be used: No such file"):
        _ = authority.trust_pem
    authority.issue(OFFICER, tmp_path / "dora")
    assert trust(authority).revoked == {lost}


def test_trust_that_was_damaged_is_written_again(authority: Authority) -> None:
    whole = authority.trust_pem
    (authority.directory / "trust.pem").write_bytes(whole[:-40])
    assert Authority.open(authority.directory).trust_pem == whole


def test_lists_that_were_damaged_are_written_again(authority: Authority, tmp_path: Path) -> None:
    lost = authority.issue(CLIENT, tmp_path / "c1").certificate.serial_number
    authority.revoke(CLIENT)
    for content in (b"", authority.revocations.read_bytes()[:-40]):
        authority.revocations.write_bytes(content)
        assert trust(Authority.open(authority.directory)).revoked == {lost}


def test_opening_rewrites_no_list_that_is_whole(authority: Authority, tmp_path: Path) -> None:
    """Nor one that still holds what was dropped from the record, since it ended long ago."""
    authority.issue(CLIENT, tmp_path / "c1")
    authority.revoke(CLIENT)
    before = authority.revocations.read_bytes()
    (authority.directory / "issued" / "revoked.json").unlink()
    assert Authority.open(authority.directory).revocations.read_bytes() == before


def test_who_changes_it_too_long_is_told_of(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.2)
    with (
        locking.locked(authority.directory),
        pytest.raises(AuthorityError, match=r"another process has been changing .* for 0\.2 s"),
    ):
        authority.issue(CLIENT, tmp_path / "c1")
    assert authority.issue(CLIENT, tmp_path / "c1").subject == CLIENT


def test_who_changes_it_shortly_is_waited_for(authority: Authority, tmp_path: Path) -> None:
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locking.locked(authority.directory):
            taken.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(10)
    threading.Timer(0.2, leave.set).start()
    assert authority.issue(CLIENT, tmp_path / "c1").subject == CLIENT
    holder.join(10)


def test_several_processes_lose_nothing(authority: Authority) -> None:
    """Three processes issue 5 each and revoke 2 of these; the server's makes 16."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=sign_many, args=(authority.directory, worker)) for worker in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(110)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(authority.issued()) == 16
    assert len(trust(authority).revoked) == 6


@needs_openssl
def test_openssl_reads_what_was_made(authority: Authority, tmp_path: Path) -> None:
    found = authority.issue(CLIENT, tmp_path / "c1").certificate
    trusted = authority.directory / "trust.pem"
    server = authority.server_folder / "cert.pem"
    place = tmp_path / "c1" / "cert.pem"
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", trusted, place)
    openssl("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", trusted, server)
    openssl("verify", "-verify_ip", "127.0.0.1", "-CAfile", trusted, server)
    assert "URI:spiffe://fednot/client/c1" in openssl("x509", "-in", place, "-noout", "-text")
    authority.revoke(CLIENT)
    shown = openssl("crl", "-in", authority.revocations, "-noout", "-text", "-CAfile", trusted)
    assert re.search(f"Serial Number: 0?{found.serial_number:X}\n", shown)
    checked = ("verify", "-crl_check", "-CRLfile", authority.revocations, "-CAfile", trusted)
    openssl(*checked, server)
    with pytest.raises(AssertionError, match="certificate revoked"):
        openssl(*checked, place)


@needs_openssl
def test_openssl_follows_a_newer_authority_to_the_older(
    authority: Authority, tmp_path: Path
) -> None:
    """Two rotations: who trusts only the first, the second or the third accepts a new leaf, by the
    certificates that come along with it.
    """
    trusted = [tmp_path / f"trust-{index}.pem" for index in range(3)]
    trusted[0].write_bytes(certificates.pem_of(authority.authorities()[:1]))
    for path in trusted[1:]:
        authority.rotate()
        path.write_bytes(certificates.pem_of(authority.authorities()[:1]))
    authority.issue(CLIENT, tmp_path / "c1")
    for chain in (authority.server_folder / "cert.pem", tmp_path / "c1" / "cert.pem"):
        for path in trusted:
            openssl("verify", "-x509_strict", "-CAfile", path, "-untrusted", chain, chain)
        with pytest.raises(AssertionError, match="unable to get local issuer certificate"):
            openssl("verify", "-CAfile", trusted[0], chain)


@needs_openssl
def test_openssl_follows_nothing_to_a_retired_authority(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "old.pem").write_bytes(authority.trust_pem)
    authority.rotate()
    authority.retire()
    chain = authority.server_folder / "cert.pem"
    openssl("verify", "-CAfile", authority.directory / "trust.pem", "-untrusted", chain, chain)
    with pytest.raises(AssertionError, match="unable to get local issuer certificate"):
        openssl("verify", "-CAfile", tmp_path / "old.pem", "-untrusted", chain, chain)
    assert read_credentials(authority.server_folder).trust == authority.trust_pem
