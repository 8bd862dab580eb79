"""What is secret is in its own file of mode 0600, and nowhere that anybody reads."""

from __future__ import annotations

import base64
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.federation import CALL, OFFICER, OPERATOR, LocalFederation
from support.ports import free_port

from fednot.identity.subject import Role
from fednot.identity.token import Token
from fednot.v1 import audit_pb2

CLI = (sys.executable, "-c", "from fednot.cli.main import main; main()")
HEADERS = re.compile(r"-----[A-Z ]+-----|\s")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A federation that trained and forgot, whose processes began with a careless umask."""
    enrolment = f"127.0.0.1:{free_port()}"
    flags = ("--task-arg", "trace=no", "--log-level", "debug", "--enrolment-address", enrolment)
    careless = os.umask(0)
    try:
        with LocalFederation(tmp_path_factory.mktemp("secrets"), server_flags=flags) as found:
            found.start_server()
            for index in range(3):
                found.start_client(index, flags=("--log-level", "debug"))
            found.await_connected(3)
            found.train(1)
            found.unlearn("c2", "r1", max_rounds=1, min_rounds=1)
            found.await_job("r1")
            yield found
    finally:
        os.umask(careless)


def body(pem: bytes) -> str:
    """What a key's PEM says, on one line, so that no other spelling hides it."""
    return HEADERS.sub("", pem.decode())


def keys(folder: Path) -> dict[Path, bytes]:
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: text for path, text in found.items() if b"PRIVATE KEY-----" in text}


def told(federation: LocalFederation) -> str:
    """All that logs, metrics, health, status, jobs and audit say, on one line."""
    texts = [path.read_text(errors="replace") for path in federation.folder.glob("*.log")]
    texts += [federation.http(path).decode() for path in ("/metrics", "/healthz")]
    texts += [str(federation.status()), str(federation.deletion("r1")), str(federation.rounds())]
    audit = federation.stubs_for(*OFFICER).audit
    texts.append(str(audit.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(), timeout=CALL)))
    return re.sub(r"\s", "", "".join(texts))


def test_no_private_key_is_told(federation: LocalFederation) -> None:
    found, text = keys(federation.folder), told(federation)
    assert len(found) >= 6, "the authority's, the server's, three clients' and the receipts' keys"
    assert len(text) > 10_000
    for path, pem in found.items():
        secret = body(pem)
        raw = base64.b64decode(secret)
        for spelling in (secret, secret[40:80], raw.hex(), repr(raw)):
            assert spelling not in text, path


def test_a_token_is_told_to_whoever_it_was_made_for_alone(federation: LocalFederation) -> None:
    out = federation.folder / "c9.token"
    made = subprocess.run(
        [
            *(*CLI, "certs", "token", "c9", "--server", federation.address, "--out", str(out)),
            *("--identity", str(federation.identity_of(*OPERATOR))),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text = out.read_text()
    secret = Token.parse(text).secret
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    for said in (told(federation), made.stdout, made.stderr, repr(Token.parse(text))):
        assert secret not in said
        assert text.strip() not in said
    state = b"".join(path.read_bytes() for path in federation.state.rglob("*") if path.is_file())
    assert secret.encode() not in state


def test_files_and_folders_are_their_owners_alone(federation: LocalFederation) -> None:
    folders = (
        federation.state,
        federation.folder / "c0",
        federation.identities.authority.directory,
    )
    for folder in (*folders, federation.identity_of(Role.CLIENT, "c0")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for path in keys(federation.folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (federation.state, federation.folder / "c0"):
        open_ones = [path for path in folder.rglob("*") if path.stat().st_mode & 0o077]
        assert not open_ones, open_ones


def test_a_databases_password_is_not_told(tmp_path: Path) -> None:
    """Neither by an error, nor by the help, nor by a repr of the settings."""
    url = "postgresql+psycopg://fed:s3cr3t-w0rd@127.0.0.1:9/none"
    found = subprocess.run(
        [
            *(sys.executable, "-m", "server", "--insecure", "--task", "x.py:X"),
            *("--database", url, "--state-dir", str(tmp_path / "state")),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert found.returncode
    assert "s3cr3t-w0rd" not in found.stdout + found.stderr
