"""The catalogue of errors, and that every reason survives the way over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from fednot.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from fednot.errors import CATALOGUE, DOMAIN, FednotError, Reason
from fednot.rpc_errors import from_rpc_error, to_status
from server.metrics import Metrics, new_registry
from server.services.guard import Guard

FAIL = "/fednot.test.Faults/Fail"


class Faults:
    """A service that raises what the test put there, or aborts as another server might."""

    def __init__(self) -> None:
        self.error: Exception = FednotError(Reason.INTERNAL, "nothing was put here")
        self.foreign: grpc.Status | None = None

    async def fail(self, _request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        if self.foreign is not None:
            await context.abort_with_status(self.foreign)
        raise self.error


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def channel(faults: Faults) -> AsyncIterator[aio.Channel]:
    guard = Guard(Metrics(new_registry(), "test"), may=lambda method, caller: None)
    server = aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    handlers = {"Fail": grpc.unary_unary_rpc_method_handler(faults.fail)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("fednot.test.Faults", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=CLIENT_OPTIONS) as opened:
        yield opened
    await server.stop(None)


async def failed_call(channel: aio.Channel) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as failure:
        await channel.unary_unary(FAIL)(b"", timeout=10)
    return failure.value


def test_every_reason_has_an_entry_and_every_entry_a_reason() -> None:
    assert set(CATALOGUE) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_an_entry_names_an_error_code_and_a_remedy_in_a_sentence(reason: Reason) -> None:
    entry = CATALOGUE[reason]
    assert grpc.StatusCode[entry.code] not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    assert entry.remedy.endswith(".")
    assert entry.remedy.strip() == entry.remedy


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_its_own_stable_name(reason: Reason) -> None:
    assert reason.value == reason.name
    assert reason.name == reason.name.upper()


def test_an_error_carries_its_reasons_code_and_reads_as_its_message() -> None:
    error = FednotError(Reason.CLIENT_BARRED, "c1 was forgotten")
    assert error.code == grpc.StatusCode.PERMISSION_DENIED.name
    assert str(error) == error.message == "c1 was forgotten"
    assert (error.metadata, error.retry_after) == ({}, None)


@pytest.mark.parametrize("reason", Reason)
def test_a_status_carries_code_reason_domain_and_remedy(reason: Reason) -> None:
    status = to_status(FednotError(reason, "why", metadata={"request_id": "r1"}))
    assert status.code == grpc.StatusCode[CATALOGUE[reason].code].value[0]
    info = error_details_pb2.ErrorInfo()
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason.value, "fednot")
    assert dict(info.metadata) == {"request_id": "r1", "remedy": CATALOGUE[reason].remedy}


async def test_every_reason_comes_back_over_a_connection(
    faults: Faults, channel: aio.Channel
) -> None:
    for reason in Reason:
        faults.error = FednotError(reason, f"about {reason}", metadata={"request_id": "r1"})
        failure = await failed_call(channel)
        assert failure.code() is grpc.StatusCode[CATALOGUE[reason].code]
        found = from_rpc_error(failure)
        assert found is not None
        assert (found.reason, found.message) == (reason, f"about {reason}")
        assert found.metadata == {"request_id": "r1", "remedy": CATALOGUE[reason].remedy}
        assert found.retry_after is None


async def test_when_to_retry_comes_back(faults: Faults, channel: aio.Channel) -> None:
    faults.error = FednotError(Reason.SHUTTING_DOWN, "later", retry_after=1.5)
    found = from_rpc_error(await failed_call(channel))
    assert found is not None
    assert (found.reason, found.retry_after) == (Reason.SHUTTING_DOWN, 1.5)


@pytest.mark.parametrize("message", ["", "100 % «é» 模\n\ttwo lines ", "%41 is no A"])
async def test_any_text_comes_back_as_it_was(
    faults: Faults, channel: aio.Channel, message: str
) -> None:
    faults.error = FednotError(Reason.INVALID_REQUEST, message)
    found = from_rpc_error(await failed_call(channel))
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize("letter", ["x", "%", "é", "模", "😀"])
async def test_a_long_message_is_cut_so_that_its_reason_arrives(
    faults: Faults, channel: aio.Channel, letter: str
) -> None:
    """gRPC refuses more than 8 KiB of trailing metadata, and would lose the reason with it."""
    faults.error = FednotError(Reason.NO_SUCH_LAYER, "layers: " + letter * 20_000)
    failure = await failed_call(channel)
    found = from_rpc_error(failure)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert found is not None
    assert found.reason is Reason.NO_SUCH_LAYER
    assert found.message.startswith("layers: " + letter * 200)
    assert found.message.endswith(" ...")


@pytest.mark.parametrize("letter", ["x", "%", "é", "😀"])
def test_a_long_message_leaves_room_in_the_metadata(letter: str) -> None:
    """Percent-encoded in grpc-message and base64 in the details, together below 8192 bytes.

    Above it gRPC refuses some, at random. 500 bytes are left for names and other entries.
    """
    status = to_status(FednotError(Reason.CLIENT_BARRED, letter * 20_000))
    details = -(-len(status.SerializeToString()) // 3) * 4
    assert len(quote(status.message, safe=" ")) + details < 8192 - 500


async def test_a_message_of_two_thousand_characters_is_not_cut(
    faults: Faults, channel: aio.Channel
) -> None:
    faults.error = FednotError(Reason.NO_SUCH_LAYER, "layers " + "w" * 1993)
    found = from_rpc_error(await failed_call(channel))
    assert found is not None
    assert found.message == "layers " + "w" * 1993


def foreign(reason: str, domain: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.INTERNAL, message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    return status


@pytest.mark.parametrize(
    ("reason", "domain"), [("FROM_THE_FUTURE", DOMAIN), ("CLIENT_BARRED", "example.org"), ("", "")]
)
async def test_a_reason_that_is_not_ours_or_not_known_is_none(
    faults: Faults, channel: aio.Channel, reason: str, domain: str
) -> None:
    faults.foreign = rpc_status.to_status(foreign(reason, domain))
    assert from_rpc_error(await failed_call(channel)) is None


def test_details_that_do_not_fit_the_call_are_none() -> None:
    """A proxy may answer with a code of its own and keep the server's trailing metadata."""
    status = to_status(FednotError(Reason.CLIENT_BARRED, "m"))
    for code, details, raw in (
        (grpc.StatusCode.UNAVAILABLE, "m", status.SerializeToString()),
        (grpc.StatusCode.PERMISSION_DENIED, "by proxy", status.SerializeToString()),
        (grpc.StatusCode.PERMISSION_DENIED, "m", b"\xff no status"),
    ):
        trailing = aio.Metadata(("grpc-status-details-bin", raw))
        failure = aio.AioRpcError(code, aio.Metadata(), trailing, details)
        assert from_rpc_error(failure) is None


async def test_a_call_that_met_no_server_is_none() -> None:
    async with aio.insecure_channel("127.0.0.1:1") as nobody:
        assert from_rpc_error(await failed_call(nobody)) is None


@pytest.mark.parametrize("end", ["", ".", "!", "?"])
def test_advice_is_message_and_remedy_each_a_sentence(end: str) -> None:
    error = FednotError(Reason.NOT_YOUR_NAME, f"it is dora's{end}")
    assert error.advice == f"it is dora's{end or '.'} {CATALOGUE[Reason.NOT_YOUR_NAME].remedy}"


def test_a_remedy_for_the_one_case_goes_before_the_catalogues() -> None:
    error = FednotError(Reason.INVALID_IDENTITY, "it is in use", metadata={"remedy": "Wait."})
    assert (error.remedy, error.advice) == ("Wait.", "it is in use. Wait.")


def test_the_remedy_of_a_case_travels_in_place_of_the_catalogues() -> None:
    error = FednotError(Reason.INVALID_REQUEST, "no", metadata={"remedy": "Do this."})
    info = error_details_pb2.ErrorInfo()
    assert to_status(error).details[0].Unpack(info)
    assert info.metadata["remedy"] == error.remedy == "Do this."
