"""What an order of the server to train says, in the words of training."""

from __future__ import annotations

from typing import Final

import torch
from google.protobuf import struct_pb2

from client.training import Work
from client.worker import WorkFailedError
from fednot.calls import Origin, of_message
from fednot.training import TrainContext
from fednot.v1 import federation_pb2

VERIFICATION: Final = "verification"
UNLEARNING: Final = "unlearning"
_PHASES: Final = {
    federation_pb2.ROUND_PHASE_UNSPECIFIED: "training",
    federation_pb2.ROUND_PHASE_TRAINING: "training",
    federation_pb2.ROUND_PHASE_RECOVERY: "recovery",
    federation_pb2.ROUND_PHASE_VERIFICATION: VERIFICATION,
    federation_pb2.ROUND_PHASE_UNLEARNING: UNLEARNING,
}


def origin_of(response: federation_pb2.PollWorkResponse) -> Origin:
    """The call that what is to be done goes back to."""
    kind = response.WhichOneof("work")
    if kind is None or kind == "barred":
        return Origin()
    work = response.unlearn.train if kind == "unlearn" else getattr(response, kind)
    return of_message(work.origin)


def work_of(order: federation_pb2.TrainWork) -> Work:
    """The piece of work that an order asks for."""
    phase = _PHASES.get(order.phase, "training")
    return Work(order.work_id, phase, f"{phase} round {order.round}")


def context_of(order: federation_pb2.TrainWork, work: Work) -> TrainContext:
    """Raises WorkFailedError as `numbers` does."""
    return TrainContext(
        device=torch.device("cpu"),
        seed=order.seed,
        round=order.round,
        phase=work.phase,
        config=numbers(order.config),
        cancelled=work.cancelled,
    )


def numbers(config: struct_pb2.Struct) -> dict[str, float]:
    """A Struct of numbers as a dict. Raises WorkFailedError if a value is something else."""
    found = {}
    for key, value in config.fields.items():
        if value.WhichOneof("kind") != "number_value":
            raise WorkFailedError(f"the run's config has {key} that is no number")
        found[key] = value.number_value
    return found
