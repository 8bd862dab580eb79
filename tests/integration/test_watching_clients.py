"""What a client learns that watches its own deletion while others recover the model."""

from __future__ import annotations

from pathlib import Path

import torch
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits
from support.state import DORA

from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2
from server.federation import Defaults
from server.records import Caller, RecoveryPolicy
from server.services import callers
from server.services.deletion import DeletionServicer

REQUEST = deletion_pb2.WatchDeletionRequest(request_id="forget-c0")


async def watched(
    federation: InProcessFederation, caller: Caller, updates: int
) -> deletion_pb2.WatchDeletionResponse:
    """What the caller sees once so many updates of the round are in."""
    servicer = DeletionServicer(federation.federation, federation.coordinator)
    callers.begin(caller)
    async for response in servicer.WatchDeletion(REQUEST, None):  # type: ignore[arg-type]
        if response.round.updates == updates:
            return response
    raise AssertionError("the deletion ended")


async def test_a_client_does_not_learn_who_is_missing_from_the_round(tmp_path: Path) -> None:
    """c1 has trained and zoe is held: an officer reads who is waited for, the client how many."""
    torch.set_num_threads(1)
    hold = tmp_path / "hold"
    clients = {"c0": SmallDigits("0"), "c1": SmallDigits("1")}
    clients["zoe"] = SmallDigits("2", hold=str(hold))
    async with in_process(tmp_path, SmallDigits(trace="no"), clients, Defaults()) as federation:
        await federation.train(1)
        hold.touch()
        policy = RecoveryPolicy(max_rounds=2)
        await federation.coordinator.accept(asked("c0", caller=DORA, policy=policy))

        officer = await watched(federation, DORA, updates=1)
        itself = await watched(federation, Caller(Role.CLIENT, "c0"), updates=1)

        assert list(officer.round.missing) == ["zoe"]
        assert (itself.round.cohort, itself.round.round) == (2, officer.round.round)
        assert "zoe" not in str(itself)
        hold.unlink()
