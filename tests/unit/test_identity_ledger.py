"""What an authority remembers: for whom it signs after a revocation, and what it forgets when."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fednot.errors import FednotError, Reason
from fednot.identity import certificates, ledger
from fednot.identity.authority import Authority
from fednot.identity.ledger import Ledger
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust

CLIENT = Subject(Role.CLIENT, "c1")
OFFICER = Subject(Role.OFFICER, "dora")
MINUTE = dt.timedelta(minutes=1)
DAY = dt.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", hosts=["localhost"])


def trust(authority: Authority) -> Trust:
    return Trust.of_pem(authority.trust_pem, authority.revocations.read_bytes())


def request_of(subject: Subject) -> bytes:
    return certificates.request_pem(certificates.request(subject, certificates.new_key()))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def revoked_reason(authority: Authority, request: bytes, **more: Any) -> str:
    before = authority.issued()
    with pytest.raises(FednotError) as caught:
        authority.sign(request, CLIENT, **more)
    assert caught.value.reason is Reason.CERTIFICATE_REVOKED
    assert authority.issued() == before
    return caught.value.message


def test_a_revoked_key_gets_no_other_certificate(authority: Authority) -> None:
    """A token that is used again with the same key, say."""
    request, other = request_of(CLIENT), request_of(CLIENT)
    serials = [authority.sign(request, CLIENT).serial for _ in range(2)]
    authority.revoke(f"{serials[0]:x}")
    assert f"{serials[0]:x}" in revoked_reason(authority, request)
    assert authority.sign(other, CLIENT).serial not in serials


def test_a_revoked_certificate_cannot_ask_for_its_successor(authority: Authority) -> None:
    held = authority.sign(request_of(CLIENT), CLIENT).serial
    assert authority.sign(request_of(CLIENT), CLIENT, holder=held).serial != held
    authority.revoke(f"{held:x}")
    said = revoked_reason(authority, request_of(CLIENT), holder=held)
    assert f"by which the request is made was revoked: {CLIENT.uri}, serial number {held:x}" in said


def test_a_permission_ends_when_its_name_is_revoked(authority: Authority, tmp_path: Path) -> None:
    granted = time.time()
    for subject in (CLIENT, OFFICER):
        authority.issue(subject, tmp_path / subject.name)
    authority.revoke(OFFICER)
    authority.sign(request_of(CLIENT), CLIENT, granted_at=granted)
    authority.revoke(CLIENT)
    assert "of the name" in revoked_reason(authority, request_of(CLIENT), granted_at=granted)
    authority.sign(request_of(CLIENT), CLIENT, granted_at=time.time())


def test_the_newest_usable_certificate_of_a_name(authority: Authority, tmp_path: Path) -> None:
    assert authority.usable_certificate(CLIENT) is None
    authority.issue(Subject(Role.CLIENT, "c12"), tmp_path / "c12")
    assert authority.usable_certificate(CLIENT) is None
    serials = [authority.issue(CLIENT, tmp_path / "c1", days=n).certificate for n in (1, 2)]
    found = authority.usable_certificate(CLIENT)
    assert found is not None
    assert (found.subject, found.serial) == (CLIENT, serials[1].serial_number)
    authority.revoke(f"{found.serial:x}")
    assert getattr(authority.usable_certificate(CLIENT), "serial", 0) == serials[0].serial_number
    authority.revoke(CLIENT)
    assert authority.usable_certificate(CLIENT) is None


def test_many_are_revoked_by_few_writes(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time does not grow with what was issued: neither a write nor a check for each."""
    for index in range(20):
        authority.issue(CLIENT, tmp_path / f"{index}")
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), sync(handle)))
    assert len(authority.revoke(CLIENT)) == len(trust(authority).revoked) == 20
    assert len(synced) < 10


def test_what_ended_long_ago_is_forgotten_once_a_day(authority: Authority, tmp_path: Path) -> None:
    """`days` counts from now: 1 and 3 days are long past at `later`, 100 days are not."""
    issued = authority.directory / "issued"
    kept = authority.issue(CLIENT, tmp_path / "kept", days=100).certificate.serial_number
    gone = authority.issue(CLIENT, tmp_path / "gone", days=1).certificate.serial_number
    lost = authority.issue(CLIENT, tmp_path / "lost", days=3).certificate.serial_number
    authority.revoke(f"{lost:x}")
    (issued / "damaged.pem").write_bytes(b"nonsense")
    records, later = Ledger(authority.directory), certificates.now() + 34 * DAY
    assert {f"{each:x}.pem" for each in (kept, gone, lost)} < names(issued)
    records.prune(later)
    assert f"{kept:x}.pem" in names(issued)
    assert not {f"{gone:x}.pem", f"{lost:x}.pem"} & names(issued)
    assert (records.revocations.read(), "damaged.pem" in names(issued)) == ([], True)
    records.prune(later + 2 * ledger.KEPT + 100 * DAY)
    assert f"{kept:x}.pem" not in names(issued)


def test_records_are_looked_through_once_a_day(authority: Authority, tmp_path: Path) -> None:
    serial = authority.issue(CLIENT, tmp_path / "c1", days=2).certificate.serial_number
    record, records = (
        authority.directory / "issued" / f"{serial:x}.pem",
        Ledger(authority.directory),
    )
    due = certificates.now() + 32 * DAY
    records.prune(due - DAY / 2)
    records.prune(due + DAY / 2 - MINUTE)
    assert record.exists()
    records.prune(due + DAY / 2)
    assert not record.exists()


def test_signing_and_revoking_forget_what_ended_long_ago(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends within two days counts as ended here."""
    monkeypatch.setattr(ledger, "KEPT", -2 * DAY)
    folder = authority.directory / "issued"
    server = authority.issued()[0].serial
    for change in (
        lambda: authority.sign(request_of(OFFICER), OFFICER),
        lambda: authority.revoke(f"{server:x}"),
    ):
        short = authority.sign(request_of(CLIENT), CLIENT, days=1).serial
        assert f"{short:x}.pem" in names(folder)
        os.utime(folder / ".pruned", (0, 0))
        change()
        assert f"{short:x}.pem" not in names(folder)
