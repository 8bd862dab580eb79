"""What goes wrong while updates are kept, and in the steps that are made of them."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.in_process import InProcessFederation, asked, in_process
from support.small_digits import SmallDigits
from support.state import DORA, EMIL

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from server.aggregation import Aggregation, RuleName
from server.blocks import Block
from server.federation import Defaults
from server.records import (
    Assurance,
    AttemptOutcome,
    Caller,
    Deletion,
    JobPhase,
    KeptUpdate,
    RecoveryPolicy,
    RunState,
    Thresholds,
    VerificationPolicy,
)
from server.state import deletion_rows, kept_update_rows, round_rows
from server.state.fencing import FencedError
from server.state.stores.directory import DirectoryStore
from server.steps import _check_fences
from server.update_history import UpdateHistory

POLICY = RecoveryPolicy(max_rounds=1, full_budget=True, min_rounds=1, tolerance=0.9)
DEFAULTS = Defaults(
    verification=VerificationPolicy(enabled=False), destruction_wait=0.1, accumulator=torch.float64
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("server.coordinator.FAULT_WAIT", 0.05)


def clients(count: int = 3, hold: str = "") -> Mapping[str, SmallDigits]:
    return {f"c{index}": SmallDigits(str(index), hold=hold) for index in range(count)}


class FullStore(DirectoryStore):
    """A store whose disk is full at one of its writes."""

    def __init__(self, directory: Path, fails_at: int) -> None:
        super().__init__(directory)
        self.fails_at = fails_at
        self.writes = 0

    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        self.writes += 1
        if self.writes == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(flat, manifest, layers)


async def kept_in(federation: InProcessFederation) -> list[tuple[KeptUpdate, ...]] | None:
    number = federation.federation.model.current.number
    return await federation.federation.database.read(lambda c: kept_update_rows.of_line(c, number))


def files(folder: Path) -> set[str]:
    return {path.name.removesuffix(".safetensors") for path in (folder / "updates").iterdir()}


async def until(what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


async def ended(federation: InProcessFederation, client: str, caller: Caller = DORA) -> Deletion:
    end = time.monotonic() + 60
    while True:
        found = await federation.federation.database.read(
            lambda c: deletion_rows.get_deletion(c, f"forget-{client}", caller)
        )
        if found.job.phase in (JobPhase.COMPLETED, JobPhase.FAILED):
            return found
        assert time.monotonic() < end, found.job
        await asyncio.sleep(0.02)


async def test_a_round_in_which_the_disk_was_full_is_made_again_with_all_its_updates(
    tmp_path: Path,
) -> None:
    """The second update of the second round cannot be kept; nothing of the round is."""
    async with in_process(tmp_path, SmallDigits(), clients(), DEFAULTS, keep_updates=1) as running:
        store = FullStore(tmp_path / "updates", fails_at=5)
        running.federation.history = UpdateHistory(running.federation.database, store, 1)
        run = await running.train(3)
        assert (run.state, run.rounds_done) == (RunState.COMPLETED, 3)
        assert store.writes > 9, "the round was made again"
        line = await kept_in(running)
        assert line is not None
        assert [[each.client for each in updates] for updates in line] == [["c0", "c1", "c2"]] * 3
        assert files(tmp_path) == {each.sha256 for updates in line for each in updates}


async def test_a_step_in_which_the_disk_was_full_is_taken_again(tmp_path: Path) -> None:
    async with in_process(tmp_path, SmallDigits(), clients(), DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        store = FullStore(tmp_path / "updates", fails_at=2)
        running.federation.history = UpdateHistory(running.federation.database, store, 1)
        deletion = await running.forget("c0", method="fed-eraser", policy=POLICY)
        (attempt,) = deletion.job.attempts
        assert (attempt.outcome, len(attempt.steps)) == (AttemptOutcome.SUCCEEDED, 2)
        line = await kept_in(running)
        assert line is not None
        assert [[each.client for each in updates] for updates in line] == [["c1", "c2"]] * 3
        assert files(tmp_path) == {each.sha256 for updates in line for each in updates}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_lost", [True, False])
async def test_an_update_that_is_lost_or_altered_while_the_server_runs_ends_in_retraining(
    tmp_path: Path, number: int, is_lost: bool
) -> None:
    """The server's own step reads the first round, the clients' step the second."""
    async with in_process(tmp_path, SmallDigits(), clients(), DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        line = await kept_in(running)
        assert line is not None
        victim = next(each for each in line[number] if each.client == "c1")
        path = tmp_path / "updates" / f"{victim.sha256}.safetensors"
        if is_lost:
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        deletion = await running.forget("c0", method="fed-eraser", policy=POLICY)
        assert deletion.job.phase is JobPhase.COMPLETED
        first, second = deletion.job.attempts
        assert (first.outcome, len(first.steps)) == (AttemptOutcome.ABANDONED, number)
        assert "is lost or was altered" in first.explanation
        assert str(tmp_path) not in first.explanation, "receipts quote it"
        assert (second.method, second.outcome) == ("retrain", AttemptOutcome.SUCCEEDED)
        gone = await running.federation.database.read(
            lambda c: kept_update_rows.stored(c, deletion.job.id)
        )
        assert gone.count == 2 * 3 + 2 * number
        kept = await kept_in(running)
        assert kept is not None, "a new lineage begins, and its updates are kept again"
        assert files(tmp_path) == {each.sha256 for updates in kept for each in updates}


async def test_a_deletion_that_comes_in_mid_step_has_the_step_taken_anew_without_its_client(
    tmp_path: Path,
) -> None:
    """c1's update of the step had come when it was fenced; the second job takes out the rest."""
    hold = tmp_path / "hold"
    tasks = clients(4) | {"c3": SmallDigits("3", hold=str(hold))}
    async with in_process(tmp_path, SmallDigits(), tasks, DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        hold.touch()
        accept = running.coordinator.accept
        wanted = asked("c0", method="fed-eraser", policy=POLICY, caller=DORA)
        await accept(wanted)
        progress = running.federation.activity
        await until(
            "c1 and c2 have sent theirs, and c3 has not",
            lambda: bool(progress.progress and {"c1", "c2"} <= set(progress.progress.accepted)),
        )
        await accept(replace(asked("c1", method="fed-eraser", policy=POLICY), caller=EMIL))
        hold.unlink()
        (attempt,) = (await ended(running, "c0")).job.attempts
        assert (attempt.outcome, len(attempt.steps)) == (AttemptOutcome.SUCCEEDED, 2)
        (own,) = (await ended(running, "c1", EMIL)).job.attempts
        assert own.outcome is AttemptOutcome.SUCCEEDED
        rows = await running.federation.database.read(
            lambda c: round_rows.recovery_rounds(c, attempt.job_id, 1)
        )
        assert [list(row.cohort) for row in rows] == [["c2", "c3"]]
        told = await running.federation.database.read(
            lambda c: kept_update_rows.stored(c, own.job_id)
        )
        assert told.count == 3 + 2 + 2, "the first step's, the second's without c1, the recovery's"
        line = await kept_in(running)
        assert line is not None
        assert {each.client for updates in line for each in updates} == {"c2", "c3"}


async def test_a_step_of_a_client_that_was_fenced_meanwhile_is_not_committed(
    tmp_path: Path,
) -> None:
    async with in_process(tmp_path, SmallDigits(), clients(), DEFAULTS, keep_updates=1) as running:
        await running.train(1)
        database = running.federation.database
        await database.read(lambda c: _check_fences(c, frozenset({"c0", "c1"})))
        await running.forget("c0", policy=POLICY)
        await database.read(lambda c: _check_fences(c, frozenset({"c1"})))
        with pytest.raises(FencedError, match="c0 was barred while a step was taken"):
            await database.read(lambda c: _check_fences(c, frozenset({"c0", "c1"})))


@pytest.mark.parametrize(
    "other",
    [
        {"aggregation": Aggregation(RuleName.MEDIAN)},
        {"recovery_aggregation": Aggregation(clip_norm=1.0)},
    ],
)
async def test_updates_that_were_not_averaged_as_they_came_are_not_taken_for_it(
    tmp_path: Path, other: dict[str, Aggregation]
) -> None:
    """Their weights in a mean would not be what they added to the model."""
    defaults = replace(DEFAULTS, **other)  # type: ignore[arg-type]
    async with in_process(tmp_path, SmallDigits(), clients(), defaults, keep_updates=1) as running:
        await running.train(1)
        with pytest.raises(FednotError, match="averaged as they came") as refused:
            await running.forget("c0", method="fed-eraser", policy=POLICY)
        assert refused.value.reason is Reason.METHOD_NEEDS


async def test_a_rung_whose_needs_are_not_met_retrains_once_and_the_ladder_goes_on(
    tmp_path: Path,
) -> None:
    """Every attempt fails; nothing was kept that FedEraser could replay."""
    probes = tmp_path / "probes"
    probes.mkdir()
    images = SmallDigits()._digits.inputs[:20].numpy()
    np.savez(probes / "client-c0.npz", trigger_x=images, clean_x=images, trigger_target=np.int64(3))
    defaults = Defaults(
        verification=VerificationPolicy(thresholds=Thresholds(trigger_margin=-2.0), undo_rounds=0),
        ladder=("fed-eraser*1", "first*1"),
        destruction_wait=0.1,
    )
    async with in_process(tmp_path, SmallDigits(), clients(), defaults, probes) as running:
        await running.train(1)
        deletion = await running.forget("c0", policy=POLICY, assurance=Assurance.DEEP)
    assert [(each.rung, each.method) for each in deletion.job.attempts] == [
        (1, "retrain"),
        (2, "not"),
    ]


async def test_what_is_of_no_use_to_a_method_is_not_kept(tmp_path: Path) -> None:
    """After a negation no updates tell how the model was made, until something begins anew."""
    async with in_process(tmp_path, SmallDigits(), clients(4), DEFAULTS, keep_updates=1) as running:
        await running.train(1)
        await running.forget("c0", policy=POLICY)
        await running.train(1)
        assert files(tmp_path) == set()
        assert (await running.federation.history.stored()).count == 0
        await running.forget("c1", method="retrain", policy=POLICY)
        assert await kept_in(running) is not None
        assert len(files(tmp_path)) == 2


async def test_a_start_drops_rows_without_files_and_files_without_rows(tmp_path: Path) -> None:
    """The second start is of a server that is told to keep none and finds no folder."""
    async with in_process(tmp_path, SmallDigits(), clients(), DEFAULTS, keep_updates=1) as running:
        await running.train(2)
        line = await kept_in(running)
        assert line is not None
        rows = [each for updates in line for each in updates]
        lost, *others = (tmp_path / "updates" / f"{each.sha256}.safetensors" for each in rows)
        lost.unlink()
        (tmp_path / "updates" / f"{'0' * 64}.safetensors").write_bytes(others[0].read_bytes())
        store = DirectoryStore(tmp_path / "updates")
        await UpdateHistory(running.federation.database, store, 1).open()
        assert files(tmp_path) == {each.sha256 for each in line[1]}, "a round goes as a whole"
        assert (await running.federation.history.stored()).count == 3
        assert await kept_in(running) is None, "the first round is not kept"
        await UpdateHistory(running.federation.database).open()
        assert (await running.federation.history.stored()).count == 0
