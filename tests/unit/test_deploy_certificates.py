"""The script by which a compose project makes its certificates, on folders in place of volumes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity.folder import read_credentials

SCRIPT = Path(__file__).parents[2] / "deploy" / "throwaway-certificates.sh"
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
HOLDERS = ("client-0", "operator", "officer")


def make(folder: Path, hosts: str) -> dict[str, bytes]:
    """Runs the script, as each `docker compose up` does; the certificates by their holder."""
    authority, volumes = folder / "authority", folder / "volumes"
    for name in HOLDERS:
        (volumes / name).mkdir(parents=True, exist_ok=True)
    authority.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AUTHORITY": str(authority),
        "VOLUMES": str(volumes),
        "OWNER": f"{os.getuid()}:{os.getgid()}",
        "HOSTS": hosts,
        "CLIENTS": "client-0",
    }
    done = subprocess.run(
        ["sh", str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return identities(folder)


def identities(folder: Path) -> dict[str, bytes]:
    """The certificates by their holder."""
    places = {name: folder / "volumes" / name / "identity" for name in HOLDERS}
    places["server"] = folder / "authority" / "server"
    return {name: (place / "cert.pem").read_bytes() for name, place in places.items()}


def hosts(chain: bytes) -> set[str]:
    [certificate, *_] = x509.load_pem_x509_certificates(chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName)}


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, ["certs", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_what_is_there_stays_and_a_new_host_gets_into_the_servers_certificate(
    tmp_path: Path,
) -> None:
    first = make(tmp_path, "server localhost")
    assert hosts(first["server"]) == {"server", "localhost"}

    again = make(tmp_path, "localhost server")
    assert again == first

    moved = make(tmp_path, "fed.example.org server localhost")
    assert hosts(moved.pop("server")) == {"fed.example.org", "server", "localhost"}
    assert moved == {name: first[name] for name in HOLDERS}
    read_credentials(tmp_path / "authority" / "server")


def test_a_certificate_is_replaced_before_it_ends_unless_it_was_revoked(tmp_path: Path) -> None:
    make(tmp_path, "server")
    authority = tmp_path / "authority"
    for role in ("operator", "officer"):
        place = tmp_path / "volumes" / role / "identity"
        [first] = x509.load_pem_x509_certificates((place / "cert.pem").read_bytes())
        (authority / "issued" / f"{first.serial_number:x}.pem").unlink()
        where = (role, role, "--authority", str(authority))
        run("issue", *where, "--days", "59", "--out", str(place))
    run("revoke", "officer", "officer", "--authority", str(authority))
    ending = identities(tmp_path)

    made = make(tmp_path, "server")

    assert {name for name in made if made[name] != ending[name]} == {"operator"}
