"""What cert-manager would sign for the chart is what a real server and client talk with."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from support.chart import CHART, of_kind, rendered
from support.federation import TASK, eventually
from support.forked import CLIENT, SERVER, Forked
from support.identities import Stubs
from support.played_cert_manager import mounted, signed
from support.ports import free_port

from fednot.v1 import operator_pb2

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
            return stubs.operator.GetStatus(request, timeout=5).clients_connected == 1

        eventually("the client is connected", connected, 50)
        with pytest.raises(grpc.RpcError) as refused:
            Stubs.of(
                f"localhost:{port}", folders["fed-fednot-officer-dora"]
            ).operator.StartTraining(operator_pb2.StartTrainingRequest(rounds=1), timeout=5)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    finally:
        for process in (client, server):
            process.kill()
            process.wait(20)
