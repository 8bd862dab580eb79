"""What cert-manager would sign for the chart is what a real server and client talk with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from support.chart import CHART, ROOT, environment, of_kind, pods, rendered
from support.federation import TASK, eventually
from support.forked import CLIENT, SERVER, Forked
from support.identities import Identities, Stubs
from support.played_cert_manager import mounted, signed
from support.ports import free_port

from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role, Subject
from fednot.v1 import identity_pb2, operator_pb2

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


def test_certificates_of_cert_manager_serve_a_federation(tmp_path: Path) -> None:
    documents = rendered("-f", CHART / "ci" / "production.yaml")
    specs = {each["metadata"]["name"]: each["spec"] for each in of_kind(documents, "Certificate")}
    authority = signed(specs["fed-fednot-authority"], None)
    folders = {
        name: mounted(tmp_path / name, signed(spec, authority), authority[0])
        for name, spec in specs.items()
        if not spec.get("isCA")
    }
    port = free_port()
    server = Forked(
        SERVER,
        (
            *("--identity", str(folders["fed-fednot-server"]), "--task", TASK),
            *("--address", f"127.0.0.1:{port}", "--http-address", "", "--min-clients", "1"),
            *("--state-dir", str(tmp_path / "state")),
        ),
        output=tmp_path / "server.log",
        errors=tmp_path / "server.log",
    )
    client = Forked(
        CLIENT,
        (
            *("--identity", str(folders["fed-fednot-client-ward-1"]), "--name", "ward-1"),
            *("--server", f"localhost:{port}", "--http-address", "", "--task", TASK),
            *("--task-arg", "client=1", "--device", "cpu", "--state-dir", str(tmp_path / "c")),
        ),
        output=tmp_path / "client.log",
        errors=tmp_path / "client.log",
    )
    try:
        stubs = Stubs.of(f"localhost:{port}", folders["fed-fednot-operator-alice"])
        request = operator_pb2.GetStatusRequest()

        def connected() -> bool:
            return stubs.operator.GetStatus(request, timeout=20).clients_connected == 1

        eventually("the client is connected", connected, 90)
        with pytest.raises(grpc.RpcError) as refused:
            Stubs.of(
                f"localhost:{port}", folders["fed-fednot-officer-dora"]
            ).operator.StartTraining(operator_pb2.StartTrainingRequest(rounds=1), timeout=20)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    finally:
        for process in (client, server):
            process.kill()
            process.wait(20)


def test_a_client_enrols_once_and_anew_by_a_token_that_was_not_used(tmp_path: Path) -> None:
    """A lost or expired certificate on a client's volume is replaced by a new token alone."""
    identities = Identities(tmp_path)
    port, enrolment = free_port(), free_port()
    server = Forked(
        SERVER,
        (
            *("--authority", str(identities.authority.directory), "--task", TASK),
            *("--address", f"127.0.0.1:{port}", "--enrolment-address", f"127.0.0.1:{enrolment}"),
            *("--http-address", "", "--state-dir", str(tmp_path / "state")),
        ),
        output=tmp_path / "server.log",
        errors=tmp_path / "server.log",
    )
    given, held = tmp_path / "token" / "token", tmp_path / "volume" / "identity"
    for each in (given, held):
        each.parent.mkdir()
    try:
        stub = Stubs.of(f"localhost:{port}", identities.of(Role.OPERATOR, "alice")).identity

        def token() -> str:
            request = identity_pb2.CreateTokenRequest(client="client-0")
            return stub.CreateToken(request, timeout=90, wait_for_ready=True).token

        given.write_text(token())
        first = begun(tmp_path, enrolment, held)
        assert begun(tmp_path, enrolment, held) == first, "the used token is left alone"
        identities.authority.revoke(Subject(Role.CLIENT, "client-0", identities.authority.domain))
        fresh = token()
        given.write_text("no token at all")
        assert begun(tmp_path, enrolment, held) == first, "a bad token costs no identity"
        given.write_text(fresh)
        second = begun(tmp_path, enrolment, held)
        assert second != first
        given.unlink()
        assert begun(tmp_path, enrolment, held) == second
    finally:
        server.kill()
        server.wait(20)


def begun(folder: Path, port: int, held: Path) -> int:
    """Runs the init container of the first client in a folder; its certificate's serial number."""
    documents = rendered("-f", CHART / "ci" / "small.yaml")
    template = next(t for name, t in pods(documents) if name.endswith("-client-0"))
    (container,) = template["spec"]["initContainers"]
    script = container["args"][0].replace("/var/lib/fednot/", f"{held.parent}/")
    program = folder / "bin" / "fednot"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!{sys.executable}\nfrom fednot.cli.main import main\nmain()\n")
    program.chmod(0o755)
    told = environment(container) | {"ENROLMENT": f"localhost:{port}", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*container["command"], script.replace("/token/token", str(folder / "token" / "token"))],
        env=told | {"PATH": f"{program.parent}:/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    return read_credentials(held).certificate.serial_number
