"""Clients whose certificate is wrong: they wait for what can be mended, or end and say why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import TASK, LocalFederation, eventually, run_server
from support.handmade_authority import HandMadeAuthority, days_from_now

from fednot.identity.subject import Role, Subject
from fednot.v1 import operator_pb2

USAGE, REFUSED = 2, 3
TRACELESS = ("--task-arg", "trace=no")
EXPIRED, DISTRUSTED, OPERATOR, RENAMED, REVOKED, OF_ANOTHER_NAME = range(6)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A client for each way of being wrong; they start together, since each takes seconds."""
    folder = tmp_path_factory.mktemp("clients")
    with LocalFederation(folder, server_flags=TRACELESS, host="0.0.0.0") as found:
        found.start_server()
        forger, trust = found.identities.by_hand(), found.identities.authority.trust_pem
        forger.identity(folder / "old", name="c0", begins=days_from_now(-3), days=1)
        stranger = HandMadeAuthority("another authority")
        stranger.identity(folder / "strange", name="c1", trust=trust)
        operator = found.identity_of(Role.OPERATOR, "olga")
        found.start_client(EXPIRED, flags=("--identity", str(folder / "old")))
        found.start_client(DISTRUSTED, flags=("--identity", str(folder / "strange")))
        found.start_client(OPERATOR, flags=("--identity", str(operator)))
        found.start_client(RENAMED, flags=("--name", "another"))
        found.start_client(REVOKED)
        found.start_client(OF_ANOTHER_NAME, flags=("--server", f"127.0.0.2:{found.port}"))
        yield found


def says(federation: LocalFederation, index: int, text: str) -> str:
    """The log of a client, once it has this text."""
    name = f"c{index}"
    eventually(f"{name} says {text!r}", lambda: text in federation.whole_log(name))
    return federation.whole_log(name)


def ended(federation: LocalFederation, index: int) -> tuple[int, str]:
    """The exit code of a client, and its log."""
    name = f"c{index}"
    eventually(f"{name} ends", lambda: federation.exit_code(name) is not None)
    return federation.exit_code(name) or 0, federation.whole_log(name)


def test_an_expired_client_waits_for_new_files_and_joins(federation: LocalFederation) -> None:
    folder = federation.folder / "old"
    log = says(federation, EXPIRED, "waits for new files")
    assert f"{folder / 'cert.pem'} expired on {days_from_now(-2):%Y-%m-%d}" in log
    says(federation, EXPIRED, "no way to")
    assert federation.runs("c0")

    for file in federation.identity_of(Role.CLIENT, "c0").iterdir():
        shutil.copy(file, folder / file.name)

    says(federation, EXPIRED, "joined 127.0.0.1")
    assert federation.client_info("c0").state == operator_pb2.CLIENT_STATE_IDLE


def test_a_client_of_another_authority_says_whom_it_is_not_trusted_by(
    federation: LocalFederation,
) -> None:
    log = says(federation, DISTRUSTED, "no way to")

    assert f"{federation.folder / 'strange' / 'cert.pem'}" in log
    assert "CN=another authority" in log
    assert federation.runs("c1")


def test_a_server_that_is_dialled_by_another_name_is_not_talked_to(
    federation: LocalFederation,
) -> None:
    log = says(federation, OF_ANOTHER_NAME, "no way to")

    assert "is for localhost, 127.0.0.1, not for 127.0.0.2" in log
    assert federation.runs("c5")


def test_an_operator_cannot_train(federation: LocalFederation) -> None:
    code, log = ended(federation, OPERATOR)

    assert code == USAGE
    assert "cert.pem is the certificate of operator olga" in log
    assert "Traceback" not in log


def test_a_name_that_is_not_the_certificates_is_refused(federation: LocalFederation) -> None:
    code, log = ended(federation, RENAMED)

    assert code == USAGE
    assert "--name another differs from the certificate" in log
    assert "client c3" in log


def test_a_client_that_is_revoked_while_it_serves_ends_and_says_so(
    federation: LocalFederation,
) -> None:
    says(federation, REVOKED, "joined 127.0.0.1")

    federation.identities.authority.revoke(Subject(Role.CLIENT, "c4"))
    code, log = ended(federation, REVOKED)

    assert code == REFUSED
    assert "the certificate of client c4 with serial number" in log
    assert "was revoked" in log
    assert "Traceback" not in log


def test_a_server_whose_certificate_has_expired_does_not_start(
    federation: LocalFederation, tmp_path: Path
) -> None:
    """Without an authority, with which it would renew it."""
    forger = federation.identities.by_hand()
    forger.server(tmp_path / "identity", begins=days_from_now(-3), days=1)

    finished = run_server(
        *("--identity", str(tmp_path / "identity"), "--task", TASK, *TRACELESS),
        *("--state-dir", str(tmp_path / "state"), "--http-address", ""),
    )

    assert finished.returncode == USAGE
    assert f"{tmp_path / 'identity'} expired on {days_from_now(-2):%Y-%m-%d}" in finished.stderr
    assert "certs issue server" in finished.stderr
    assert "Traceback" not in finished.stderr
