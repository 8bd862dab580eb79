"""A client that is told to forget: bars durably, reports, and never reads the samples again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from support.played_server import Stage, terminated, until
from support.spied_task import ALL, spied, taken

from fednot.tombstones import Tombstones
from fednot.v1 import federation_pb2 as pb
from fednot.v1 import model_pb2

FORGOTTEN, UNSEEN, RETAINED, TEST = (
    pb.SAMPLE_GROUP_FORGOTTEN,
    pb.SAMPLE_GROUP_UNSEEN,
    pb.SAMPLE_GROUP_RETAINED,
    pb.SAMPLE_GROUP_TEST,
)
SEVENTH = {"a7", "a8"}
"""The samples of subject 7."""


@pytest.fixture
async def spying(tmp_path: Path) -> AsyncIterator[tuple[Stage, Path]]:
    stage, read = spied(tmp_path)
    await stage.open()
    yield stage, read
    await stage.close()


def sizes(report: pb.ReportProfileRequest) -> dict[int, int]:
    return {each.group: sum(each.losses.counts) for each in report.profiles}


async def test_a_subject_is_barred_for_good_across_a_restart(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    process = await stage.client()
    joined = await play.next(pb.JoinRequest)
    assert dict(joined.unsupported_scopes) == {}
    await play.forget("o1", "t1", subject="7")
    report = await play.next(pb.ReportForgettingRequest)
    assert (report.order_id, report.count, report.refusal) == ("o1", 2, "")
    assert (report.num_train_examples, report.num_test_examples) == (38, 16)
    assert taken(read) == set()
    await play.train("w1")
    header, _ = await play.next(tuple)
    assert header.num_examples == 38
    assert taken(read) == ALL - SEVENTH

    process.kill()
    await stage.client()
    assert (await play.next(pb.JoinRequest)).num_train_examples == 38
    await play.forget("o1", "t1", subject="7")
    again = await play.next(pb.ReportForgettingRequest)
    assert (again.count, again.sha256) == (2, report.sha256)
    await play.train("w2")
    await play.next(tuple)
    assert taken(read) == ALL - SEVENTH


async def test_profiles_read_the_forgotten_until_the_job_ends(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    process = await stage.client()
    await play.next(pb.JoinRequest)
    await play.forget("o1", "t1", subject="7")
    await play.next(pb.ReportForgettingRequest)
    await play.profile("p1", tombstones=["t1"])
    assert sizes(await play.next(pb.ReportProfileRequest)) == {
        FORGOTTEN: 2,
        UNSEEN: 16,
        RETAINED: 38,
        TEST: 16,
    }
    assert taken(read) >= SEVENTH

    await play.destroy("d1", 2)
    await play.next(pb.ReportDestructionRequest)
    await play.profile("p2", tombstones=["t1"])
    assert set(sizes(await play.next(pb.ReportProfileRequest))) == {RETAINED, TEST}
    await play.profile("p3", "job-2", tombstones=["t1"])
    assert set(sizes(await play.next(pb.ReportProfileRequest))) == {RETAINED, TEST}
    await play.profile("p4", "job-2", everything=True)
    assert sizes(await play.next(pb.ReportProfileRequest)) == {FORGOTTEN: 38, UNSEEN: 16, TEST: 16}
    process.kill()
    await stage.client()
    await play.next(pb.JoinRequest)
    await play.profile("p5", tombstones=["t1"])
    await play.next(pb.ReportProfileRequest)
    assert taken(read).isdisjoint(SEVENTH)


async def test_forgotten_samples_are_not_evaluated_if_the_owner_says_so(
    spying: tuple[Stage, Path],
) -> None:
    (stage, read), play = spying, spying[0].play
    await stage.client("--no-evaluate-forgotten")
    await play.next(pb.JoinRequest)
    await play.forget("o1", "t1", subject="7")
    await play.next(pb.ReportForgettingRequest)
    await play.forget("o2", "t2", class_label=3)
    await play.next(pb.ReportForgettingRequest)
    await play.profile("p1", tombstones=["t1", "t2"])
    assert set(sizes(await play.next(pb.ReportProfileRequest))) == {RETAINED, TEST}
    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="e", version=1)))
    scores = await play.next(pb.ReportEvaluationRequest)
    assert not any(name.startswith("forgotten_") for name in scores.metrics)
    gone = SEVENTH | {f"{kind}{index}" for kind in "at" for index in range(3, 40, 4)}
    assert taken(read).isdisjoint(gone)


async def test_a_class_is_left_out_and_lifted(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    await stage.client()
    await play.next(pb.JoinRequest)
    await play.forget("o1", "t1", class_label=3)
    report = await play.next(pb.ReportForgettingRequest)
    assert (report.sha256, report.refusal) == ("", "")
    assert (report.num_train_examples, report.num_test_examples) == (30, 12)
    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="e", version=1)))
    scores = await play.next(pb.ReportEvaluationRequest)
    assert scores.num_examples == 12
    assert {"accuracy", "forgotten_accuracy"} <= set(scores.metrics)
    assert scores.metrics["chance"] == pytest.approx(1 / 3)
    assert scores.metrics["forgotten_chance"] == 1.0
    await play.profile("p1", class_labels=[3])
    assert sizes(await play.next(pb.ReportProfileRequest)) == {
        FORGOTTEN: 10,
        UNSEEN: 4,
        RETAINED: 30,
        TEST: 12,
    }
    taken(read)
    await play.train("w1")
    assert (await play.next(tuple))[0].num_examples == 30
    assert taken(read) == {sample for sample in ALL if int(sample[1:]) % 4 != 3}
    await play.forget("o2", "t1", lift=True)
    assert (await play.next(pb.ReportForgettingRequest)).num_train_examples == 40
    await play.train("w2")
    assert (await play.next(tuple))[0].num_examples == 40


async def test_samples_barred_during_training_keep_the_update_back(
    spying: tuple[Stage, Path],
) -> None:
    (stage, read), play = spying, spying[0].play
    play.codec = model_pb2.UPDATE_CODEC_TOP_K
    process = await stage.client("--codec", "topk")
    await play.next(pb.JoinRequest)
    await play.train("w1")
    await play.next(tuple)
    await play.train("w2", linger=1.0)
    await until(lambda: any(beat.work_id == "w2" for beat in play.beats), asyncio.sleep)
    taken(read)
    await until(read.exists, asyncio.sleep)
    Tombstones(stage.path / "state").bar_samples(["a3"], name="other-process")
    failure = await play.next(pb.ReportFailureRequest)
    assert failure.work_id == "w2"
    assert "samples were forgotten meanwhile" in failure.message
    await process.said("what is kept of earlier updates is destroyed")
    await play.destroy("d1", 2)
    while not isinstance(found := await play.seen.get(), pb.ReportDestructionRequest):
        assert isinstance(found, pb.JoinRequest)
        assert found.num_train_examples == 39
        await play.destroy("d1", 2)
    assert "residual" in {cache.kind for cache in found.destroyed}


async def test_a_verification_round_leaves_no_trace(spying: tuple[Stage, Path]) -> None:
    (stage, _), play = spying, spying[0].play
    play.codec = model_pb2.UPDATE_CODEC_TOP_K
    await stage.client("--codec", "topk")
    await play.next(pb.JoinRequest)
    await play.train("w1")
    _, first = await play.next(tuple)
    for work_id in ("w2", "w3"):
        work = pb.TrainWork(
            work_id=work_id, round=3, phase=pb.ROUND_PHASE_VERIFICATION, version=1, seed=11
        )
        work.config.update({"local_epochs": 2.0})
        await play.work.put(pb.PollWorkResponse(train=work))
        _, update = await play.next(tuple)
        assert update.equal(first), "a residual was carried into a verification round"
    await play.destroy("d1", 2)
    kinds = [c.kind for c in (await play.next(pb.ReportDestructionRequest)).destroyed]
    assert kinds == ["residual", "residual"], "what is kept, and the room for the next one"


async def test_a_client_with_nothing_left_goes_on(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    Tombstones(stage.path / "state").bar_samples(sorted(ALL), name="t1")
    process = await stage.client()
    assert (await play.next(pb.JoinRequest)).num_train_examples == 0
    await play.train("w1")
    assert (await play.next(pb.ReportFailureRequest)).work_id == "w1"
    await play.work.put(pb.PollWorkResponse(evaluate=pb.EvaluateWork(work_id="e", version=1)))
    assert (await play.next(pb.ReportEvaluationRequest)).num_examples == 16
    code, log = await terminated(process)
    assert code == 0, log
    assert taken(read).isdisjoint(ALL)


async def test_a_task_that_knows_no_subjects_refuses(tmp_path: Path) -> None:
    stage, read = spied(tmp_path, without="samples_of")
    await stage.open()
    try:
        await stage.client()
        joined = await stage.play.next(pb.JoinRequest)
        assert "samples_of" in joined.unsupported_scopes["subject"]
        await stage.play.forget("o1", "t1", subject="7")
        report = await stage.play.next(pb.ReportForgettingRequest)
        assert "samples_of" in report.refusal
        assert report.num_train_examples == 40
        assert not (tmp_path / "state" / "tombstones.json").exists()
        assert taken(read) == set()
    finally:
        await stage.close()


async def test_a_subject_without_samples_is_counted_as_none(spying: tuple[Stage, Path]) -> None:
    stage, _ = spying
    await stage.client()
    await stage.play.next(pb.JoinRequest)
    await stage.play.forget("o1", "t1", subject="nobody")
    report = await stage.play.next(pb.ReportForgettingRequest)
    assert (report.count, report.refusal, report.num_train_examples) == (0, "", 40)


async def test_a_barred_client_is_asked_for_the_profile_of_its_own_deletion(
    spying: tuple[Stage, Path],
) -> None:
    stage, play = spying[0], spying[0].play
    play.bars = True
    await stage.client("--poll-wait", "1")
    await play.next(pb.JoinRequest)
    await until(lambda: len(play.polled) >= 6, asyncio.sleep)
    gaps = [later - earlier for earlier, later in pairwise(play.polled)]
    assert min(gaps) < 1.5, "it slept although the server had held the poll"
    await play.profile("p1", everything=True)
    found = sizes(await play.next(pb.ReportProfileRequest))
    assert found == {FORGOTTEN: 40, UNSEEN: 16, TEST: 16}


async def test_tombstones_that_cannot_be_read_stop_all_training(
    spying: tuple[Stage, Path],
) -> None:
    (stage, read), play = spying, spying[0].play
    file = stage.path / "state" / "tombstones.json"
    process = await stage.client()
    await play.next(pb.JoinRequest)
    file.write_text("{")
    await play.train("w1")
    failure = await play.next(pb.ReportFailureRequest)
    assert "restore it from a backup" in failure.message
    assert taken(read) == set()
    assert (await terminated(process))[0] == 0
    code, log = await (await stage.client()).ended()
    assert code == 2
    assert "restore it from a backup" in log
