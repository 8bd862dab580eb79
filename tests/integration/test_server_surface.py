"""What the server shows beside its own services: health, reflection, metrics, and its refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.error import HTTPError

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.federation import CALL, TASK, LocalFederation, eventually, refusal, run_server
from support.ports import free_port
from support.raw_client import RawClient
from support.replay import MANIFEST
from support.small_digits import SmallDigits

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from fednot.manifest import Manifest
from fednot.v1 import deletion_pb2, federation_pb2, operator_pb2
from fednot.wire import manifest_message

USAGE_ERROR = 2
SERVICES = (
    "fednot.v1.ApprovalService",
    "fednot.v1.AuditService",
    "fednot.v1.DeletionService",
    "fednot.v1.FederationService",
    "fednot.v1.IdentityService",
    "fednot.v1.OperatorService",
)
TRACELESS = ("--task-arg", "trace=no")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Served to every address: two rounds by three clients, of which c0 then is forgotten."""
    flags = ("--min-clients", "2", *TRACELESS)
    folder = tmp_path_factory.mktemp("surface")
    with LocalFederation(folder, server_flags=flags, host="0.0.0.0") as found:
        found.start_server()
        for index in range(3):
            found.start_client(index)
        found.await_connected(3)
        assert found.train(2).rounds_done == 2, found.log("server")
        found.unlearn("c0", "forget-c0", min_rounds=1, max_rounds=1, tolerance=0.9)
        job = found.await_job("forget-c0").job
        assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, found.log("server")
        yield found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A server in plaintext, where names are what messages claim."""
    folder = tmp_path_factory.mktemp("plain")
    with LocalFederation(folder, server_flags=TRACELESS, insecure=True) as found:
        found.start_server()
        yield found


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_the_server_and_each_service_are_healthy(federation: LocalFederation, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(federation.channel)

    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_health_of_an_unknown_service_is_not_found(federation: LocalFederation) -> None:
    stub = health_pb2_grpc.HealthStub(federation.channel)

    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="fednot.v2.Nothing"), timeout=CALL)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(federation: LocalFederation) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(federation.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=CALL)))

    listed = {service.name for service in answer.list_services_response.service}
    assert set(SERVICES) <= listed


def test_health_and_metrics_are_served_over_http(federation: LocalFederation) -> None:
    healthz = json.loads(federation.http("/healthz"))

    assert healthz["ok"] is True
    assert healthz["detail"]["version"] == str(federation.status().current.number)
    assert b"# TYPE fednot_rounds_total counter" in federation.http("/metrics")
    for path in ("/", "/metrics/x", "/v1/status"):
        with pytest.raises(HTTPError) as refused:
            federation.http(path)
        assert refused.value.code == 404
        refused.value.close()


def test_metrics_tell_of_the_training_and_the_deletion(federation: LocalFederation) -> None:
    """Two training rounds of three updates each, one recovery round of two.

    Verification has the three look at the recovered model, of which each fetches one.
    """
    current = federation.status().current
    expected = {
        'fednot_rounds_total{outcome="completed",phase="training"}': 2,
        'fednot_rounds_total{outcome="completed",phase="recovery"}': 1,
        'fednot_rounds_total{outcome="failed",phase="training"}': 0,
        'fednot_round_duration_seconds_count{phase="training"}': 2,
        "fednot_recovery_rounds_total": 1,
        'fednot_updates_total{outcome="accepted"}': 8,
        'fednot_updates_total{outcome="refused"}': 0,
        'fednot_updates_total{outcome="missing"}': 0,
        'fednot_transfer_bytes_total{direction="sent"}': (8 + 3) * MANIFEST.nbytes,
        'fednot_transfer_bytes_total{direction="received"}': 8 * MANIFEST.nbytes,
        'fednot_clients{state="idle"}': 2,
        'fednot_clients{state="barred"}': 1,
        'fednot_clients{state="gone"}': 0,
        'fednot_unlearning_jobs{phase="completed"}': 1,
        'fednot_unlearning_jobs{phase="recovering"}': 0,
        "fednot_oldest_open_deletion_timestamp_seconds": 0,
        "fednot_model_version": current.number,
        "fednot_model_released_version": current.number,
        "fednot_model_generation": 1,
        "fednot_evaluation_accuracy_ratio": current.metrics["accuracy"],
        "fednot_evaluation_loss": current.metrics["loss"],
    }

    def differences() -> dict[str, tuple[float | None, float]]:
        found = federation.metrics()
        return {
            name: (found.get(name), value)
            for name, value in expected.items()
            if found.get(name) != pytest.approx(value)
        }

    with suppress(AssertionError):  # what differs says more than that something does
        eventually("the gauges are refreshed", lambda: not differences(), 15)
    assert differences() == {}


def test_no_label_holds_an_identifier(federation: LocalFederation) -> None:
    job = federation.deletion("forget-c0").job
    values = re.findall(r'="([^"]*)"', federation.http("/metrics").decode())

    identifiers = ("c0", "c1", "c2", "forget-c0", job.id)
    assert values
    assert [value for value in values if any(word in value for word in identifiers)] == []


@pytest.mark.parametrize("name", ["", "C0", "-c0", "c0/x", "a b", "é", "c" * 64, "c0\n"])
def test_a_client_of_no_valid_name_cannot_join(plain: LocalFederation, name: str) -> None:
    refused = refusal(lambda: RawClient(plain, name))

    assert refused.reason is Reason.INVALID_CLIENT_NAME
    assert repr(name) in refused.message
    assert "1 to 63" in refused.metadata["remedy"]
    assert plain.operator.ListClients(operator_pb2.ListClientsRequest(), timeout=CALL).clients == []


def test_over_plaintext_a_client_trains_and_is_forgotten(plain: LocalFederation) -> None:
    plain.start_client(0)
    plain.start_client(1)
    plain.await_connected(2)

    assert plain.train(1).rounds_done == 1, plain.log("server")
    accepted = plain.unlearn("c0", "forget-c0", max_rounds=1)

    assert not accepted.HasField("requested_by")
    assert plain.client_info("c0").barred_by == "forget-c0"
    assert not plain.client_info("c1").HasField("certificate_expires_at")


def test_a_client_of_another_model_is_told_which_tensors_differ(
    federation: LocalFederation,
) -> None:
    other = Manifest.of(SmallDigits(hidden="16").build_model())

    refused = _join_with(federation, manifest_message(other))

    assert refused.reason is Reason.MANIFEST_MISMATCH
    for tensor in ("fc1.weight", "fc1.bias", "fc2.weight"):
        assert tensor in refused.message
    assert "conv1" not in refused.message
    for field, value, word in (("dtype", "F64", "F64"), ("shape", [9, 9], "[9, 9]")):
        wrong = manifest_message(MANIFEST)
        tensor = wrong.tensors[-1]
        if field == "dtype":
            tensor.dtype = value
        else:
            tensor.shape[:] = value
        refused = _join_with(federation, wrong)
        assert refused.reason is Reason.MANIFEST_MISMATCH, refused.message
        assert word in refused.message
    unset = manifest_message(MANIFEST)
    unset.tensors[0].kind = 0
    assert _join_with(federation, unset).reason is Reason.INVALID_REQUEST


def _join_with(federation: LocalFederation, manifest: object) -> FednotError:
    request = federation_pb2.JoinRequest(client="other", manifest=manifest)  # type: ignore[arg-type]
    stub = federation.stubs_for(Role.CLIENT, "other").clients
    return refusal(lambda: stub.Join(request, timeout=CALL))


def test_plaintext_is_not_served_to_other_machines_unasked(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    address = f"0.0.0.0:{free_port()}"
    state = tmp_path_factory.mktemp("unasked") / "server"

    ended = run_server(
        "--insecure", "--address", address, "--task", TASK, "--state-dir", str(state)
    )

    assert ended.returncode == USAGE_ERROR
    assert f"--insecure serves loopback only and {address} is not" in ended.stderr
    assert "--identity" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not state.exists()
