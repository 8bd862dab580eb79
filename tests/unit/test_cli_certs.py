"""`fednot certs`: what it makes, prints, and refuses, with real files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity import certificates
from fednot.identity.authority import Authority
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust

PAGE = Path(__file__).parents[2] / "docs" / "certificates.md"
NEED_A_SERVER = (
    "fednot-server",
    "fednot-client",
    "fednot status",
    "fednot certs token",
    "fednot certs enroll",
)
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("FEDNOT_AUTHORITY", "FEDNOT_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(
        app, ["certs", *arguments], env=environment or None, catch_exceptions=False
    )


def done(*arguments: str, **environment: str) -> str:
    result = run(*arguments, **environment)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def document(*arguments: str) -> Any:
    return json.loads(done(*arguments, "--format", "json"))


def refused(code: int, *arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return str(result.stderr)


def trusted(folder: Path, authority: str = ".fednot-authority") -> Subject:
    keeper = Authority.open(Path(authority))
    trust = Trust.of_pem(keeper.trust_pem, keeper.revocations.read_bytes())
    return trust.check(read_credentials(folder).certificate, certificates.now())


def test_one_command_makes_an_authority_and_the_servers_certificate() -> None:
    said = done("init")
    server = Path(".fednot-authority/server")
    hosts = certificates.hosts_of(read_credentials(server).certificate)
    assert {"localhost", "127.0.0.1", "::1"} <= set(hosts)
    assert trusted(server) == Subject(Role.SERVER, "server")
    assert "fednot-server --authority .fednot-authority" in said
    assert "fednot certs issue client NAME --authority .fednot-authority" in said
    assert ", ".join(hosts) in said


def test_init_takes_directory_domain_hosts_and_days() -> None:
    found = document(
        "init", "my ca", "--domain", "clinics", "--host", "fed.org", "--host", "::1", "--days", "9"
    )
    assert (found["directory"], found["domain"]) == ("my ca", "clinics")
    assert found["server"]["hosts"] == ["fed.org", "::1"]
    assert found["server"]["uri"] == "spiffe://clinics/server/server"
    assert found["server"]["expires_at"] == found["authorities"][0]["expires_at"]
    assert MOMENT.fullmatch(found["server"]["expires_at"])
    authority = Authority.open(Path("my ca"))
    assert (authority.authorities()[0].not_valid_after_utc - certificates.now()).days in (8, 9)
    assert "--authority 'your ca'" in done("init", "your ca")


def test_the_variable_names_the_directory() -> None:
    done("init", FEDNOT_AUTHORITY="keys")
    done("issue", "client", "c1", FEDNOT_AUTHORITY="keys")
    assert trusted(Path("keys/client-c1"), "keys") == Subject(Role.CLIENT, "c1")


def test_init_replaces_nothing() -> None:
    done("init", "ca")
    assert "error: ca already holds an authority" in refused(1, "init", "ca")
    Path("docs").mkdir()
    Path("docs/page.md").touch()
    assert "docs holds other things (page.md)" in refused(1, "init", "docs")


@pytest.mark.parametrize("role", ["client", "operator", "officer", "auditor"])
def test_each_role_is_issued(role: str) -> None:
    done("init")
    assert f"{role} ada until " in done("issue", role, "ada")
    assert trusted(Path(f".fednot-authority/{role}-ada")) == Subject(Role(role), "ada")


def test_issue_takes_folder_and_days() -> None:
    done("init")
    found = document("issue", "client", "c1", "--out", "far/c1", "--days", "2")
    assert found["folder"] == "far/c1"
    held = read_credentials(Path("far/c1")).certificate
    assert (held.not_valid_after_utc - certificates.now()).days in (1, 2)
    assert found["certificate"]["serial"] == f"{held.serial_number:x}"
    assert found["certificate"]["key_sha256"] == certificates.key_digest(held.public_key())


def test_the_server_is_issued_again_for_its_hosts_or_new_ones() -> None:
    done("init", "--host", "fed.org")
    server = Path(".fednot-authority/server")
    first = read_credentials(server)
    done("issue", "server", "server")
    second = read_credentials(server)
    assert second.private_key != first.private_key
    assert certificates.hosts_of(second.certificate) == ("fed.org",)
    done("issue", "server", "server", "--host", "10.0.0.5")
    assert certificates.hosts_of(read_credentials(server).certificate) == ("10.0.0.5",)


def test_a_second_server_needs_folder_and_hosts() -> None:
    done("init")
    assert "holds the identity of server server" in refused(1, "issue", "server", "north")
    assert "needs a host name: --host" in refused(1, "issue", "server", "north", "--out", "north")
    done("issue", "server", "north", "--out", "north", "--host", "north.org")
    assert trusted(Path("north")) == Subject(Role.SERVER, "north")


def test_a_key_that_never_leaves() -> None:
    """The requester's folder becomes an identity by the two public files that come back."""
    done("init")
    asked = done("request", "client", "c1", "--out", "site")
    assert "put the cert.pem and ca.pem that come back into site" in asked
    shutil.copy("site/request.pem", "brought.pem")
    signed = done("sign", "client", "c1", "brought.pem", "--out", "back")
    assert DIGEST.findall(asked) == DIGEST.findall(signed) != []
    assert sorted(path.name for path in Path("back").iterdir()) == ["ca.pem", "cert.pem"]
    for name in ("cert.pem", "ca.pem"):
        shutil.copy(f"back/{name}", "site")
    assert trusted(Path("site")) == Subject(Role.CLIENT, "c1")
    revocation = re.search(r"`fednot certs revoke --serial ([0-9a-f]+)`", signed)
    assert revocation
    done("revoke", "--serial", revocation[1])
    assert len(trust_of(".fednot-authority").revoked) == 1


def trust_of(directory: str) -> Trust:
    keeper = Authority.open(Path(directory))
    return Trust.of_pem(keeper.trust_pem, keeper.revocations.read_bytes())


def test_request_and_sign_as_documents() -> None:
    done("init", "--domain", "clinics")
    asked = document("request", "officer", "dora", "--out", "dora", "--domain", "clinics")
    signed = document("sign", "officer", "dora", asked["request"], "--days", "3")
    assert asked["uri"] == signed["certificate"]["uri"] == "spiffe://clinics/officer/dora"
    assert asked["key_sha256"] == signed["certificate"]["key_sha256"]
    assert signed["folder"] == ".fednot-authority/officer-dora"


def test_a_request_replaces_no_key() -> None:
    done("request", "client", "c1", "--out", "site")
    before = Path("site/key.pem").read_bytes()
    said = refused(3, "request", "client", "c1", "--out", "site")
    assert "site/key.pem exists and is not replaced" in said
    assert "remedy: Name another folder, or delete the key" in said
    assert Path("site/key.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("client", "c2", "site/request.pem"), "asks for spiffe://fednot/client/c1, and was to be"),
        (("officer", "c1", "site/request.pem"), "and was to be for spiffe://fednot/officer/c1"),
        (("client", "c1", "site/key.pem"), "the certificate request is refused: "),
        (("client", "c1", "/dev/zero"), "16385 bytes; 16384 are the most"),
    ],
)
def test_a_request_of_another_is_not_signed(arguments: tuple[str, ...], said: str) -> None:
    done("init")
    done("request", "client", "c1", "--out", "site")
    stderr = refused(3, "sign", *arguments, "--out", "back")
    assert said in stderr
    assert "reason: INVALID_CERTIFICATE_REQUEST" in stderr
    assert not Path("back").exists()


def test_a_request_that_is_not_there_is_named() -> None:
    done("init")
    assert "nowhere.pem cannot be used: No such file" in refused(
        1, "sign", "client", "c1", "nowhere.pem"
    )


def test_a_folder_that_cannot_be_written_is_named() -> None:
    """And not its draft. Nobody may make a file in /sys, not even root."""
    done("init")
    done("request", "client", "c1", "--out", "site")
    for arguments in (
        ("request", "client", "c2"),
        ("issue", "client", "c2"),
        ("sign", "client", "c1", "site/request.pem"),
    ):
        assert "error: /sys cannot be used" in refused(1, *arguments, "--out", "/sys")
    assert [each["name"] for each in document("list")["certificates"]] == ["server"]


def test_what_was_issued_is_listed_with_its_state() -> None:
    done("init")
    done("issue", "client", "c1")
    done("issue", "client", "c2", "--out", "c2")
    done("issue", "officer", "dora")
    done("revoke", "client", "c2")
    done("rotate")
    done("issue", "officer", "dora")
    rows = {}
    for line in done("list").splitlines()[1:]:
        role, name, serial, *_, state = re.split(r"  +", line.strip())
        rows[(role, name, re.sub(r" \d.*", "", state))] = serial
    found = document("list")
    assert set(rows) == {
        ("client", "c1", "older authority"),
        ("client", "c2", "revoked"),
        ("officer", "dora", "older authority"),
        ("officer", "dora", "valid"),
        ("server", "server", "older authority"),
        ("server", "server", "valid"),
    }
    assert len(found["authorities"]) == 2
    for each in found["certificates"]:
        assert each["serial"].startswith(rows[(each["role"], each["name"], each["state"])])
        assert bool(each["revoked_at"]) == (each["state"] == "revoked")


def test_revoking_tells_what_and_where() -> None:
    done("init")
    done("issue", "client", "c1")
    found = document("revoke", "client", "c1")
    assert found["revocations"] == ".fednot-authority/revoked.pem"
    assert [each["state"] for each in found["revoked"]] == ["revoked"]
    assert int(found["revoked"][0]["serial"], 16) in trust_of(".fednot-authority").revoked


def test_revoking_a_server_warns_that_clients_do_not_look() -> None:
    done("init")
    result = run("revoke", "server", "server")
    assert result.exit_code == 0
    assert "warning: clients read no revocation list" in result.stderr


def test_revoking_what_is_not_there_tells_what_may_be_meant() -> None:
    done("init")
    done("issue", "client", "c1")
    said = refused(1, "revoke", "client", "c9")
    assert "client c9 has no certificate to revoke; the nearest name is client c1, and " in said
    assert "no certificate has the serial number abcd" in refused(1, "revoke", "--serial", "abcd")


@pytest.mark.parametrize(
    "arguments", [(), ("client",), ("client", "c1", "--serial", "ab"), ("client", "--serial", "ab")]
)
def test_revoking_takes_a_name_or_a_serial_number(arguments: tuple[str, ...]) -> None:
    done("init")
    assert "give ROLE and NAME, or --serial HEX" in refused(2, "revoke", *arguments)


def test_rotation_and_retirement() -> None:
    done("init")
    done("issue", "client", "c1")
    said = done("rotate", "--days", "40")
    assert said.count("trusted: fednot authority ") == 2
    assert "server's identity was brought up to it: .fednot-authority/server" in said
    assert "to be renewed before `fednot certs retire`: 1 certificate" in said
    assert "client c1 (older authority, until" in refused(1, "retire")
    done("issue", "client", "c1")
    found = document("retire")
    assert len(found["authorities"]) == 1
    assert found["to_renew"] == []
    assert trusted(Path(".fednot-authority/client-c1")) == Subject(Role.CLIENT, "c1")
    assert "there is no older authority to retire" in refused(1, "retire")


def test_retirement_by_force() -> None:
    done("init")
    done("issue", "client", "c1")
    assert [each["name"] for each in document("rotate")["to_renew"]] == ["c1"]
    done("retire", "--force")
    assert len(document("list")["authorities"]) == 1


def test_a_rotation_tells_of_a_server_elsewhere() -> None:
    done("init")
    shutil.move(".fednot-authority/server", "elsewhere")
    assert "The server's identity is kept elsewhere" in done("rotate")
    assert document("rotate")["server"] is None


def test_show_tells_whose_it_is_and_whether_it_is_good() -> None:
    done("init", "--domain", "clinics")
    done("issue", "client", "c1")
    folder = ".fednot-authority/client-c1"
    said = done("show", folder)
    assert re.search(r"identity +client c1, spiffe://clinics/client/c1", said)
    assert re.search(r"state +good", said)
    assert re.search(r"trusts +clinics authority [0-9a-f]{8}, until 20\d\d-", said)
    found = document("show", folder)
    assert (found["reason"], found["problem"]) == ("", "")
    assert found["certificate"]["name"] == "c1"
    assert found["certificate"]["issuer"] == found["authorities"][0]["name"]
    assert re.search(r"hosts +localhost", done("show", FEDNOT_IDENTITY=".fednot-authority/server"))


def test_show_tells_what_is_wrong() -> None:
    for place in ("a", "b"):
        done("init", place)
        done("issue", "client", "c1", "--authority", place)
    shutil.copy("a/trust.pem", "b/client-c1/ca.pem")
    found = document("show", "b/client-c1")
    assert found["reason"] == "UNTRUSTED_CERTIFICATE"
    assert "the certificate of client c1 was issued by" in found["problem"]
    assert "which is not trusted" in done("show", "b/client-c1")


def test_files_that_cannot_be_used_are_named() -> None:
    assert "there is no cert.pem in nowhere" in refused(3, "show", "nowhere")
    assert "there is no authority in nowhere" in refused(1, "list", "--authority", "nowhere")
    said = refused(1, "issue", "client", "c1")
    assert "there is no authority in .fednot-authority; `fednot certs init` makes one" in said
    assert "reason: LOCAL" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("issue", "client", "C 1"), "'C 1' is no name"),
        (("issue", "server", "server", "--host", "a:1"), "--host 'a:1' is neither a DNS name"),
        (("init", "new", "--host", "https://a"), "--host 'https://a' is neither"),
        (("init", "new", "--domain", "A"), "'A' is no trust domain"),
        (("request", "client", "c/1", "--out", "x"), "'c/1' is no name"),
        (("sign", "client", "C1", "x"), "'C1' is no name"),
        (("issue", "boss", "ada"), "'boss'"),
        (("issue", "client", "c1", "--days", "0"), "--days"),
        (("request", "client", "c1"), "--out"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    done("init")
    assert said in refused(2, *arguments)
    assert not Path("new").exists()


def test_an_error_as_a_document() -> None:
    result = run("list", "--authority", "nowhere", "--format", "json")
    error = json.loads(result.stderr)
    assert (result.exit_code, error["exit_code"], error["reason"]) == (1, 1, "LOCAL")
    assert "there is no authority in nowhere" in error["error"]


def commands_of_the_page() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith(NEED_A_SERVER)]


def test_the_commands_of_the_page_work_one_after_the_other() -> None:
    """But for the last, which has to say whose certificates are still of the older authority."""
    *before, last = commands_of_the_page()
    assert len(before) > 8
    for line in before:
        words = shlex.split(line)
        if words[0] == "cp":
            subprocess.run(words, check=True, timeout=100)
        else:
            assert words[:2] == ["fednot", "certs"]
            done(*words[2:])
    said = refused(1, *shlex.split(last)[2:])
    for name in ("client clinic-c", "officer dora", "operator alice"):
        assert f"{name} (older authority" in said
    assert "clinic-a" not in said
    assert trusted(Path("site"), "authority") == Subject(Role.CLIENT, "clinic-c")
