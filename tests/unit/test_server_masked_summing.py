"""Masked rounds on the server: the mean is the plain one whoever drops out, or nothing is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.identities import Identities
from support.masked_clients import Dies, MaskedClient, all_work
from support.served import eventually
from support.upload_desk import small_federation

from fednot.errors import FednotError, Reason
from fednot.identity.folder import read_credentials
from fednot.identity.subject import Role
from fednot.secure_aggregation.ring import Masked, Scale, ends_in_zeros, mean_of
from fednot.secure_aggregation.signing import CertificateSigner
from fednot.tensors import empty, views
from server.cohorts.cohort import NoAnswer, WorkKind, WorkPlan
from server.cohorts.remote import RemoteCohort, Session
from server.federation import Federation
from server.records import ClientRecord, RoundPhase
from server.secure_aggregation.attempt import MaskingPolicy, Step
from server.secure_aggregation.summing import MaskedSumming
from server.state import client_rows
from server.state.commits import Commit
from server.summing import Sum

RANGE = 4.0
SHORT = 3.0


@dataclass
class Stage:
    """A federation of clients c0, c1, ... that are there and have been given no work yet."""

    federation: Federation
    cohort: RemoteCohort
    clients: list[MaskedClient]
    wait: float = 10.0

    async def round(self, *, deadline: float = 20.0, quorum: float = 0.5) -> Sum:
        model, names = self.federation.model, tuple(client.name for client in self.clients)
        version, training = model.current, RoundPhase.TRAINING
        plan = WorkPlan(WorkKind.TRAIN, 1, training, version, model.flat, names, deadline)
        policy = MaskingPolicy(RANGE, self.wait, self.clients[0].signer.check)
        summing = MaskedSumming(self.federation, policy)
        return await summing.sum(plan, model.block, quorum)

    async def both(self, **changes: float) -> tuple[Sum, dict[str, FednotError | None]]:
        """A round, and what became of each client."""
        async with asyncio.timeout(60):
            found = await asyncio.gather(self.round(**changes), all_work(self.clients, self.cohort))
        return found[0], found[1]

    def accepted(self) -> int:
        progress = self.federation.activity.progress
        return len(progress.accepted) if progress else 0

    def mean_of(self, names: list[str]) -> dict[str, torch.Tensor]:
        """The model after the plain weighted mean of these, in float64."""
        chosen = [client for client in self.clients if client.name in names]
        total = sum(client.num_examples for client in chosen)
        manifest = self.federation.model.manifest
        found = {n: t.double() for n, t in views(self.federation.model.flat, manifest).items()}
        for client in chosen:
            for name, tensor in views(client.update, manifest).items():
                found[name] = found[name] + tensor.double() * client.num_examples / total
        return found

    def check_model(self, summed: Sum, names: list[str]) -> None:
        """Off by half a step of 4 / (2^31 / 5) = 9e-9 for each of five, and float32's rounding."""
        assert summed.model is not None, summed.missing
        found = views(summed.model.tensor, self.federation.model.manifest)
        for name, wanted in self.mean_of(names).items():
            torch.testing.assert_close(found[name].double(), wanted, atol=3e-7, rtol=0)


@asynccontextmanager
async def stage(folder: Path, *dying: Dies) -> AsyncIterator[Stage]:
    async with small_federation(folder) as federation:
        cohort, identities = RemoteCohort(lapse=1e6), Identities(folder)
        federation.cohort = cohort
        manifest = federation.model.manifest
        clients = []
        for index, dies in enumerate(dying):
            update = empty(manifest)
            generator = torch.Generator().manual_seed(index)
            for view in views(update, manifest).values():
                view.uniform_(-1, 1, generator=generator)
            name, count = f"c{index}", 10 * (index + 1)
            signer = CertificateSigner(read_credentials(identities.of(Role.CLIENT, name)))
            clients.append(MaskedClient(name, update, manifest, signer, count, dies))
            cohort.open(Session(name, count, 0, "cpu", last_seen=time.monotonic(), codec=Masked()))
            record = ClientRecord(name, 0.0, 0.0, count, 0, "cpu")
            await federation.database.write(
                Commit.CLIENT_JOINED, lambda c, row=record: client_rows.record_join(c, row)
            )
        yield Stage(federation, cohort, clients)


async def test_the_mean_is_the_plain_one(tmp_path: Path) -> None:
    async with stage(tmp_path, *[Dies.NEVER] * 5) as made:
        summed, became = await made.both()
        made.check_model(summed, ["c0", "c1", "c2", "c3", "c4"])
        assert summed.missing == {}
        assert summed.metrics == {}
        assert set(became.values()) == {None}


@pytest.mark.parametrize("dies", [Dies.BEFORE, Dies.ADVERTISED, Dies.SHARED])
async def test_who_drops_out_before_its_upload_is_not_in_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: Dies
) -> None:
    """One that shared its keys has left pairwise masks in the others' updates. Only the step that
    it misses has a short time.
    """
    if dies is Dies.BEFORE:
        monkeypatch.setattr("server.secure_aggregation.summing.ROSTER_SHARE", 0.1)
    async with stage(tmp_path, dies, *[Dies.NEVER] * 4) as made:
        if dies is Dies.ADVERTISED:
            made.wait = SHORT
        deadline = 4.0 if dies is Dies.SHARED else 20.0
        summed, became = await made.both(deadline=deadline)
        made.check_model(summed, ["c1", "c2", "c3", "c4"])
        assert set(summed.missing) == {"c0"}
        assert {became[name] for name in ("c1", "c2", "c3", "c4")} == {None}


@pytest.mark.parametrize("dies", [Dies.UPLOADED, Dies.CONFIRMED])
async def test_an_update_counts_whose_client_drops_out_after_it(tmp_path: Path, dies: Dies) -> None:
    async with stage(tmp_path, dies, *[Dies.NEVER] * 4) as made:
        made.wait = SHORT
        summed, _ = await made.both()
        made.check_model(summed, ["c0", "c1", "c2", "c3", "c4"])
        assert summed.missing == {}


@pytest.mark.parametrize("dies", [Dies.UPLOADED, Dies.CONFIRMED])
async def test_without_the_threshold_at_the_end_nothing_is_read(tmp_path: Path, dies: Dies) -> None:
    """Of five clients four must reveal shares; two are gone."""
    async with stage(tmp_path, dies, dies, *[Dies.NEVER] * 3) as made:
        made.wait = SHORT
        summed, became = await made.both()
        assert summed.model is None
        assert set(summed.missing) == {"c0", "c1", "c2", "c3", "c4"}
        assert "3 of 5 clients" in summed.missing["c2"]
        if dies is Dies.UPLOADED:
            assert all(e is not None and e.reason is Reason.MASKING_FAILED for e in
                       (became["c2"], became["c3"], became["c4"]))  # fmt: skip


async def test_a_round_with_too_few_left_ends_at_once(tmp_path: Path) -> None:
    """Of five clients four must stay: two that fail end it, long before its deadline."""
    async with stage(tmp_path, *[Dies.NEVER] * 5) as made:
        running = asyncio.create_task(made.round(deadline=1000.0))
        others = asyncio.create_task(all_work(made.clients[2:], made.cohort))
        for name in ("c0", "c1"):
            assignment = await made.cohort.next_assignment(name, 5)
            assert assignment is not None
            assignment.answer(NoAnswer(name, "it failed: no memory"))
        async with asyncio.timeout(20):
            summed, became = await running, await others
        assert summed.model is None
        assert summed.missing["c0"] == "it failed: no memory"
        assert "3 of 5 clients" in summed.missing["c2"]
        assert all(e is not None and e.reason is Reason.MASKING_FAILED for e in became.values())


async def test_a_full_quorum_takes_everybody(tmp_path: Path) -> None:
    async with stage(tmp_path, Dies.SHARED, *[Dies.NEVER] * 4) as made:
        summed, _ = await made.both(deadline=1.0, quorum=1.0)
        assert summed.model is None


async def test_two_clients_are_no_masked_round(tmp_path: Path) -> None:
    async with stage(tmp_path, Dies.NEVER, Dies.NEVER) as made:
        summed = await made.round()
        assert summed.model is None
        assert summed.missing["c0"] == "masking: 2 clients are fewer than 3"


async def test_what_comes_of_one_client_is_noise(tmp_path: Path) -> None:
    """All updates are 0; read as an update, what one client sent is spread over the whole ring.

    Of n uniform words of 32 bits the mean magnitude is 2^30, with a deviation of 2^31 / sqrt(12 n):
    here n is over 70, so within 0.4 of it by 6 deviations. Two clients' words agree by chance
    once in 2^32.
    """
    async with stage(tmp_path, *[Dies.NEVER] * 4) as made:
        for client in made.clients:
            client.update.zero_()
        summed, _ = await made.both()
        assert summed.model is not None
        manifest, scale = made.federation.model.manifest, Scale(4, RANGE, 40)
        for client in made.clients:
            words = client.payload.view(torch.int32).double()
            assert len(words) > 70
            assert abs(words.abs().mean() / 2**30 - 1) < 0.4
            assert not ends_in_zeros(client.payload)
            read = mean_of(client.payload, manifest, 1, scale)
            values = torch.cat([view.view(-1) for view in views(read, manifest).values()])
            assert values.abs().max() > RANGE
        pairs = zip(made.clients[0].payload.view(torch.int32).tolist(),
                    made.clients[1].payload.view(torch.int32).tolist(), strict=True)  # fmt: skip
        assert sum(one == other for one, other in pairs) == 0


async def test_a_round_that_is_cut_short_reveals_nothing(tmp_path: Path) -> None:
    """As by a deletion: all updates are in, and the clients wait for the list to be confirmed."""
    async with stage(tmp_path, *[Dies.NEVER] * 4, Dies.SHARED) as made:
        running = asyncio.create_task(made.round(deadline=1000.0))
        others = asyncio.create_task(all_work(made.clients, made.cohort))
        await eventually("four updates are in", lambda: made.accepted() == 4)
        (attempt,) = made.federation.attempts._open.values()
        running.cancel()
        became = await others
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        refused = [became[name] for name in ("c0", "c1", "c2", "c3")]
        assert all(e is not None and e.reason is Reason.ROUND_OVER for e in refused)
        assert attempt.step is Step.UPLOAD
        assert attempt.survivors == frozenset()
        with pytest.raises(FednotError, match="the masked round has ended"):
            attempt.reveal("c0", [])


async def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    """The clients keep their updates for the next server then."""
    async with stage(tmp_path, *[Dies.NEVER] * 3, Dies.SHARED) as made:
        running = asyncio.create_task(made.round(deadline=1000.0))
        others = asyncio.create_task(all_work(made.clients, made.cohort))
        await eventually("three updates are in", lambda: made.accepted() == 3)
        made.federation.activity.stopping = True
        running.cancel()
        became = await others
        told = [became[name] for name in ("c0", "c1", "c2")]
        assert [e.reason for e in told if e is not None] == 3 * [Reason.SHUTTING_DOWN]
