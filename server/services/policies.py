"""Policies from messages: unset fields take the server's defaults, bad ones are refused."""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.struct_pb2 import Struct

from fednot.errors import FednotError, Reason
from fednot.v1 import deletion_pb2, operator_pb2
from server.records import RecoveryPolicy, RoundPolicy

MAX_ROUNDS: Final = 1_000_000
MAX_SECONDS: Final = 30 * 24 * 3600.0


def round_policy(message: operator_pb2.RoundPolicy, default: RoundPolicy) -> RoundPolicy:
    """The policy of a run. Raises FednotError (INVALID_REQUEST) naming the field."""
    policy = RoundPolicy(
        fraction=message.fraction if message.HasField("fraction") else default.fraction,
        quorum=message.quorum if message.HasField("quorum") else default.quorum,
        deadline=_seconds(message, "deadline", default.deadline),
        min_clients=message.min_clients if message.HasField("min_clients") else default.min_clients,
        client_wait=_seconds(message, "client_wait", default.client_wait),
    )
    _require(0 < policy.fraction <= 1, "policy.fraction", "above 0 and up to 1")
    _require(0 < policy.quorum <= 1, "policy.quorum", "above 0 and up to 1")
    _require(0 < policy.deadline <= MAX_SECONDS, "policy.deadline", "above 0 and up to 30 days")
    _require(0 <= policy.client_wait <= MAX_SECONDS, "policy.client_wait", "up to 30 days")
    _require(policy.min_clients >= 1, "policy.min_clients", "at least 1")
    return policy


def recovery_policy(
    message: deletion_pb2.RecoveryPolicy, default: RecoveryPolicy
) -> RecoveryPolicy:
    """The policy of a recovery. Raises FednotError (INVALID_REQUEST) naming the field."""
    fields = (
        "min_rounds",
        "max_rounds",
        "tolerance",
        "plateau_rounds",
        "full_budget",
        "chance_rounds",
        "min_clients",
    )
    values = {
        name: getattr(message if message.HasField(name) else default, name)  # type: ignore[arg-type]
        for name in fields
    }
    policy = RecoveryPolicy(
        **values, round_deadline=_seconds(message, "round_deadline", default.round_deadline)
    )
    if message.HasField("max_rounds"):
        _require(1 <= policy.max_rounds <= MAX_ROUNDS, "recovery.max_rounds", "1 to 1,000,000")
        _require(
            policy.min_rounds <= policy.max_rounds or not message.HasField("min_rounds"),
            "recovery.min_rounds",
            "at most max_rounds",
        )
    _require(0 <= policy.tolerance < 1, "recovery.tolerance", "from 0 to below 1")
    for name in ("min_rounds", "plateau_rounds", "chance_rounds", "min_clients"):
        _require(getattr(policy, name) >= 1, f"recovery.{name}", "at least 1")
    _require(
        0 < policy.round_deadline <= MAX_SECONDS,
        "recovery.round_deadline",
        "above 0 and up to 30 days",
    )
    return policy


def training_config(message: Struct) -> dict[str, float]:
    """Overrides of hyper-parameters. Raises FednotError (INVALID_REQUEST) for no number."""
    config = {}
    for key, value in message.fields.items():
        if value.WhichOneof("kind") != "number_value" or not math.isfinite(value.number_value):
            raise FednotError(Reason.INVALID_REQUEST, f"config.{key}: must be a finite number")
        config[key] = value.number_value
    return config


def _seconds(
    message: operator_pb2.RoundPolicy | deletion_pb2.RecoveryPolicy, name: str, default: float
) -> float:
    if not message.HasField(name):  # type: ignore[arg-type]
        return default
    nanoseconds: int = getattr(message, name).ToNanoseconds()
    return nanoseconds / 1e9


def _require(holds: bool, field: str, rule: str) -> None:
    if not holds:
        raise FednotError(Reason.INVALID_REQUEST, f"{field}: must be {rule}")
