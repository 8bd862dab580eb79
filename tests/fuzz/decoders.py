"""Every message that the network brings, through the readers that the product gives it to.

The first byte of an input names the reader, the rest is the message. What is no message, or breaks
a rule, is refused by the errors that the reader declares; whatever else comes out is a finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import torch
from google.protobuf.message import DecodeError, Message
from support.replay import MANIFEST

from fednot import chunk_messages, data_messages
from fednot.codecs import NAMES, codec_of
from fednot.codecs.codec import Codec
from fednot.data_messages import DataMessageError
from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.signing_request import requested_key
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.manifest import ManifestError
from fednot.receipt.signing import ReceiptError, SigningKey, verified
from fednot.secure_aggregation.masked_sum import checked
from fednot.secure_aggregation.participant import Revealed
from fednot.v1 import (
    approval_pb2,
    audit_pb2,
    data_channel_pb2,
    deletion_pb2,
    federation_pb2,
    identity_pb2,
    model_pb2,
    operator_pb2,
    receipt_pb2,
    secure_aggregation_pb2,
)
from fednot.wire import manifest_of
from server.destruction import check_report
from server.privacy import PrivacySpent
from server.records import Caller, RecoveryPolicy, RoundPolicy
from server.services.admission import (
    check_join,
    check_metrics,
    device_name,
    instance_name,
    unsupported_scopes,
)
from server.services.paging import page_of
from server.services.policies import recovery_policy, round_policy, training_config
from server.services.scopes import assurance_of, scopes_of
from server.services.work_messages import answer_of, destroyed_cache, profiles_of

Reader = Callable[[bytes], object]

CLIENT: Final = Caller(Role.CLIENT, "c1")
OFFICER: Final = Caller(Role.OFFICER, "dora")
SUBJECT: Final = Subject(Role.CLIENT, "c1", "fednot")
PEM: Final = SigningKey.generate().pem
REFUSALS: Final = (FednotError, DecodeError)


def _request(kind: type[Message], *readers: Callable[[Any], object]) -> Reader:
    """Parses a message and hands it to each reader, whatever the one before refused."""

    def read(data: bytes) -> None:
        message = kind.FromString(data)
        for reader in readers:
            refused(lambda reader=reader: reader(message), FednotError)

    return read


def refused(call: Callable[[], object], *errors: type[Exception]) -> None:
    """Makes a call that may refuse what it is given."""
    with contextlib.suppress(errors):
        call()


def _unlearn(caller: Caller) -> Callable[[Any], object]:
    def read(message: deletion_pb2.UnlearnRequest) -> None:
        refused(lambda: scopes_of(message, caller), FednotError)
        refused(lambda: assurance_of(message), FednotError)
        refused(lambda: recovery_policy(message.recovery, RecoveryPolicy()), FednotError)

    return read


def _training(message: operator_pb2.StartTrainingRequest) -> None:
    refused(lambda: round_policy(message.policy, RoundPolicy()), FednotError)
    training_config(message.config)


def _join(message: federation_pb2.JoinRequest) -> None:
    device_name(message.device)
    instance_name(message.instance)
    unsupported_scopes(message)
    check_join(message.client or "c1", message, MANIFEST)


def _destruction(message: federation_pb2.ReportDestructionRequest) -> None:
    check_report([destroyed_cache(each) for each in message.destroyed])


def _page(message: Any) -> None:
    page_of(message.page_size, message.page_token)


def _revealed(message: secure_aggregation_pb2.UnmaskRequest) -> None:
    shares = [Revealed(each.client, each.seed, each.mask_key) for each in message.shares]
    checked(shares, frozenset("abc"), frozenset("ab"))


def _payload(codec: Codec) -> Reader:
    """A payload of the right size, whatever its bytes; its pieces stay within the model."""
    size = codec.size(MANIFEST)

    def read(data: bytes) -> None:
        payload = torch.frombuffer(bytearray(data[:size].ljust(size, b"\0")), dtype=torch.uint8)
        for piece in codec.pieces(payload, MANIFEST):
            end = piece.byte_offset + piece.values.numel()
            if not 0 <= piece.byte_offset < MANIFEST.nbytes or end > MANIFEST.nbytes:
                raise AssertionError(f"a piece of {codec.name} lies outside of the model")

    return read


def _text(read: Callable[[str], object], *errors: type[Exception]) -> Reader:
    return lambda data: refused(lambda: read(data.decode("utf-8", "replace")), *errors)


def _manifest(data: bytes) -> None:
    refused(lambda: manifest_of(model_pb2.Manifest.FromString(data)), ManifestError, KeyError)


def _receipt(text: str) -> None:
    verified(text, PEM)


def _data(read: Callable[[bytes], object]) -> Reader:
    return lambda data: refused(lambda: read(data), DataMessageError, FednotError)


SPECIAL: Final[dict[str, Reader]] = {
    "JoinRequest": _request(federation_pb2.JoinRequest, _join),
    "UnlearnRequest": _request(
        deletion_pb2.UnlearnRequest, _unlearn(CLIENT), _unlearn(OFFICER), _unlearn(Caller())
    ),
    "StartTrainingRequest": _request(operator_pb2.StartTrainingRequest, _training),
    "ReportEvaluationRequest": _request(
        federation_pb2.ReportEvaluationRequest, lambda m: check_metrics(m.metrics)
    ),
    "ReportProfileRequest": _request(
        federation_pb2.ReportProfileRequest, lambda m: profiles_of(m.profiles)
    ),
    "ReportForgettingRequest": _request(federation_pb2.ReportForgettingRequest, answer_of),
    "ReportDestructionRequest": _request(federation_pb2.ReportDestructionRequest, _destruction),
    "HeartbeatRequest": _request(
        federation_pb2.HeartbeatRequest, lambda m: PrivacySpent.told(m.privacy)
    ),
    "ListRoundsRequest": _request(operator_pb2.ListRoundsRequest, _page),
    "ListVersionsRequest": _request(operator_pb2.ListVersionsRequest, _page),
    "ListDeletionsRequest": _request(deletion_pb2.ListDeletionsRequest, _page),
    "UnmaskRequest": _request(secure_aggregation_pb2.UnmaskRequest, _revealed),
    "manifest": _manifest,
    "upload part": chunk_messages.upload_part,
    "download part": chunk_messages.download_part,
    "data request": _data(data_messages.request_in),
    "data response": _data(data_messages.response_in),
    "data trailer": _data(data_messages.trailer_in),
    "data size": _data(data_messages.size_in),
    "token": _text(Token.parse, FednotError),
    "certificate": lambda data: refused(lambda: certificates.read_certificates(data), ValueError),
    "certificate request": lambda data: refused(lambda: requested_key(data, SUBJECT), FednotError),
    "receipt": _text(_receipt, ReceiptError),
    **{f"payload {name}": _payload(codec_of(name)) for name in NAMES},
}
_MODULES: Final[tuple[ModuleType, ...]] = (
    *(approval_pb2, audit_pb2, data_channel_pb2, deletion_pb2, federation_pb2, identity_pb2),
    *(model_pb2, operator_pb2, receipt_pb2, secure_aggregation_pb2),
)


def _all_readers() -> dict[str, Reader]:
    """The special ones, and for each other request of a service its parser."""
    found = dict(SPECIAL)
    for module in _MODULES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                name = method.input_type.name
                if name not in found:
                    found[name] = _request(getattr(module, name))
    return found


READERS: Final = _all_readers()
NAMES_IN_ORDER: Final = tuple(sorted(READERS))


def try_one(data: bytes) -> None:
    """Reads one input; whatever is raised is a finding."""
    if data:
        read = READERS[NAMES_IN_ORDER[data[0] % len(NAMES_IN_ORDER)]]
        refused(lambda: read(data[1:]), *REFUSALS)


def seeds() -> list[bytes]:
    """An input for each reader to begin with."""
    return [bytes([place]) for place in range(len(NAMES_IN_ORDER))]
