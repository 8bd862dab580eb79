"""`fednot-client forget`: bars first, asks then, and the running client asks where it could not."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.forked import CLIENT, Command, Forked
from support.played_server import Stage, until
from support.spied_task import ALL, spied, taken

import fednot
from fednot.errors import FednotError, Reason
from fednot.tombstones import Tombstones
from fednot.v1 import deletion_pb2
from fednot.v1 import federation_pb2 as pb


@pytest.fixture
async def spying(tmp_path: Path) -> AsyncIterator[tuple[Stage, Path]]:
    stage, read = spied(tmp_path)
    await stage.open()
    (tmp_path / "state").mkdir(mode=0o700)
    yield stage, read
    await stage.close()


def words(stage: Stage, *more: str, port: int = 0) -> list[str]:
    caller = ["--insecure", "--name", "c7"]
    if stage.credentials is not None:
        caller = ["--identity", str(stage.identity)]
    where = ["--server", f"127.0.0.1:{port or stage.port}"]
    return ["forget", *where, *caller, "--state-dir", str(stage.path / "state"), *more]


async def forget(
    stage: Stage, *more: str, given: str = "", port: int = 0
) -> subprocess.CompletedProcess[str]:
    command = Command(CLIENT, words(stage, *more, port=port), given)
    return await asyncio.to_thread(command.ended, 60)


def ids_in(path: Path, *ids: str) -> str:
    (path / "ids").write_text("\n".join(ids) + "\n\n")
    return str(path / "ids")


async def test_it_works_while_the_client_runs_and_again(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    await stage.client()
    await play.next(pb.JoinRequest)
    given = ids_in(stage.path, "a5", "a6", "a5")
    ended = await forget(stage, "--ids", given, "--format", "json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["count"], told["job_id"]) == (2, "job-own")
    request = play.asked[0]
    digest = deletion_pb2.SampleDigest(count=2, sha256=told["sha256"])
    samples = deletion_pb2.SampleScope(client="c7", barred=digest)
    scope = deletion_pb2.Scope(samples=samples)
    expected = deletion_pb2.UnlearnRequest(request_id=told["request_id"], scope=scope)
    assert request == expected, "it tells more than a count and a digest"

    again = await forget(stage, "--ids", "-", "--format", "json", given='["a6", "a5"]')
    assert json.loads(again.stdout) == told
    assert {each.request_id for each in play.asked} == {told["request_id"]}
    await until(lambda: len(play.sessions) == 2, asyncio.sleep)
    while not play.seen.empty():
        play.seen.get_nowait()
    taken(read)
    await play.train("w1")
    assert (await play.next(tuple))[0].num_examples == 38
    assert taken(read) == ALL - {"a5", "a6"}


async def test_what_could_not_be_asked_is_asked_by_the_client(spying: tuple[Stage, Path]) -> None:
    (stage, read), play = spying, spying[0].play
    port = stage.port
    await stage.server.stop(None)
    ended = await forget(stage, "--ids", ids_in(stage.path, "a1"), "--timeout", "2")
    assert ended.returncode == 4, ended.stderr
    assert "barred on this machine" in ended.stderr
    stone = Tombstones(stage.path / "state").now().unasked[0]
    stage.port = port
    await stage.open()
    await stage.client()
    assert (await play.next(pb.JoinRequest)).num_train_examples == 39
    assert (await play.next(deletion_pb2.UnlearnRequest)).request_id == stone.request_id
    await until(lambda: not Tombstones(stage.path / "state").now().unasked, asyncio.sleep)
    await play.train("w1")
    await play.next(tuple)
    assert taken(read) == ALL - {"a1"}


async def test_a_command_killed_between_write_and_ask_is_finished_by_the_client(
    spying: tuple[Stage, Path],
) -> None:
    stage, play = spying[0], spying[0].play
    state = stage.path / "state"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        arguments = words(stage, "--ids", ids_in(stage.path, "a1"), port=int(mute.getsockname()[1]))
        command = await asyncio.to_thread(Forked, CLIENT, arguments)
        await until((state / "tombstones.json").exists, asyncio.sleep)
        command.send_signal(signal.SIGKILL)
        await asyncio.to_thread(command.wait, 10)
    assert play.asked == []
    await stage.client()
    assert (await play.next(pb.JoinRequest)).num_train_examples == 39
    request = await play.next(deletion_pb2.UnlearnRequest)
    assert request.scope.samples.barred.count == 1


async def test_a_users_code_has_the_running_client_ask(spying: tuple[Stage, Path]) -> None:
    stage, play = spying[0], spying[0].play
    await stage.client()
    await play.next(pb.JoinRequest)
    ask = fednot.forget_samples(stage.path / "state", ["a1", "a2"])
    await until(lambda: bool(play.asked) and len(play.sessions) == 2, asyncio.sleep)
    request = play.asked[0]
    assert (request.request_id, request.scope.samples.barred.count) == (ask.request_id, 2)


async def test_a_refusal_is_told_and_the_samples_stay_barred(spying: tuple[Stage, Path]) -> None:
    stage, play = spying[0], spying[0].play
    play.refuse_unlearn = FednotError(Reason.UNSUPPORTED_SCOPE, "there is nothing to forget yet")
    given = ids_in(stage.path, "a1")
    ended = await forget(stage, "--ids", given, "--format", "json")
    assert ended.returncode == 3, ended.stderr
    error = json.loads(ended.stderr.splitlines()[-1])
    assert error["reason"] == "UNSUPPORTED_SCOPE"
    stone = Tombstones(stage.path / "state").now().unasked[0]
    assert error["metadata"]["request_id"] == stone.request_id


async def test_over_tls_the_certificate_names_the_client(spying: tuple[Stage, Path]) -> None:
    stage, play = spying[0], spying[0].play
    await stage.server.stop(None)
    stage.secured()
    serial = stage.issue()
    await stage.open()
    ended = await forget(stage, "--ids", ids_in(stage.path, "a1"))
    assert ended.returncode == 0, ended.stderr
    assert "job-own" in ended.stdout
    assert play.serials["Unlearn"] == [serial]
    assert play.asked[0].scope.samples.client == "c7"


async def test_the_task_checks_ids_and_resolves_subjects(spying: tuple[Stage, Path]) -> None:
    stage, play = spying[0], spying[0].play
    task = ("--task", f"{stage.task_file}:TinyTask")
    ended = await forget(stage, *task, "--ids", ids_in(stage.path, "a1", "b1", "b2"))
    assert ended.returncode == 2
    assert "2 of 3 ids" in ended.stderr
    assert not (stage.path / "state" / "tombstones.json").exists()
    nobody = await forget(stage, *task, "--subject", "nobody")
    assert nobody.returncode == 1
    ended = await forget(stage, *task, "--subject", "7", "--format", "json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["count"] == 2
    assert play.asked[0].scope.samples.barred.count == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "--ids FILE or --subject KEY"),
        (("--subject", "7"), "--subject needs --task"),
        (("--ids", "nowhere"), "cannot be read"),
        (("--ids", "/dev/null"), "holds no ids"),
        (("--ids", "-", "--state-dir", "nowhere"), "no state directory"),
        (("--idz", "x"), "did you mean ids"),
    ],
)
async def test_a_wrong_command_line_bars_nothing(
    spying: tuple[Stage, Path], more: tuple[str, ...], says: str
) -> None:
    stage, _ = spying
    ended = await forget(stage, *more)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert not (stage.path / "state" / "tombstones.json").exists()
