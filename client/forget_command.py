"""`fednot-client forget`: tombstones first, durably; then the server is asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from client.asking import request_for
from client.forget_settings import FORGET_PROGRAM, ForgetSettings
from client.forgetting import unsupported_scopes
from client.own_data import OwnData
from client.settings import PREFIX, ClientSettings
from client.state_directory import IDENTITY_FILE
from fednot.cli.credentials import credentials_for
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, local, usage
from fednot.cli.output import Format, Output
from fednot.cli.session import Session
from fednot.identity.subject import Role
from fednot.settings import load_or_exit
from fednot.task import Task
from fednot.task_loading import TaskLoadError, calling, load_task
from fednot.tombstones import Tombstone, TombstoneError, Tombstones
from fednot.v1 import deletion_pb2

STANDS: Final = (
    " The samples are barred on this machine, whatever becomes of this call. The running client, "
    "or its next start, asks the server; so does the same command."
)


def main(arguments: Sequence[str]) -> int:
    """Runs the command of these arguments, which follow the word; gives the exit code."""
    settings = load_or_exit(
        ForgetSettings,
        program=FORGET_PROGRAM,
        prefix=PREFIX,
        arguments=arguments,
        others=ClientSettings,
    )
    output = Output(Format(settings.format))
    try:
        _forget(settings, output)
    except CliError as error:
        output.error(error)
        return error.code
    except KeyboardInterrupt:
        output.note("interrupted")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _forget(settings: ForgetSettings, output: Output) -> None:
    _check_state(settings)
    ids = _chosen(settings)
    tombstones = Tombstones(settings.state_dir)
    try:
        stone = tombstones.bar_samples(ids, own=True)
    except TombstoneError as error:
        raise local(str(error), "Nothing was barred: put it right, and repeat it.") from error
    output.note(f"barred {stone.count} samples; request id: {stone.request_id}")
    try:
        deletion = _ask(settings, stone, output)
    except CliError as error:
        error.remedy += STANDS
        error.metadata |= {"request_id": stone.request_id, "sha256": stone.sha256}
        raise
    try:
        tombstones.answered(stone.name, deletion.job.id)
    except TombstoneError as error:
        output.note(f"warning: {error}; the running client asks once more, which changes nothing")
    _tell(output, stone, deletion)


def _check_state(settings: ForgetSettings) -> None:
    if not settings.state_dir.is_dir():
        raise usage(
            f"{settings.state_dir} is no state directory of a client",
            "Give --state-dir as the client has it: only there it finds what it may not read.",
        )
    try:
        known = json.loads((settings.state_dir / IDENTITY_FILE).read_text(encoding="utf-8"))["name"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise local(f"{settings.state_dir / IDENTITY_FILE} cannot be read: {error}") from error
    if settings.name not in (None, known):
        raise usage(f"{settings.state_dir} belongs to the client {known!r}, not {settings.name!r}")


def _chosen(settings: ForgetSettings) -> list[str]:
    task = _task(settings)
    if settings.subject is not None and task is not None:
        return _of_subject(task, settings.subject)
    ids = _read(settings.ids or "-")
    if not ids:
        raise usage(f"{settings.ids} holds no ids; there is nothing to forget")
    if task is not None:
        unknown = _unknown(settings, task, ids)
        if unknown:
            raise usage(
                f"{unknown} of {len(set(ids))} ids are of no sample of this client; nothing was "
                "barred",
                "Correct the file, or leave --task out to bar them whatever they are.",
            )
    return ids


def _task(settings: ForgetSettings) -> Task | None:
    if settings.task is None:
        return None
    try:
        with calling(settings.task):
            task = load_task(settings.task, settings.task_arg)
    except TaskLoadError as error:
        raise usage(str(error)) from error
    kind = "subject" if settings.subject is not None else "samples"
    reason = unsupported_scopes(task).get(kind)
    if reason is not None:
        raise usage(f"this Task cannot forget single samples: {reason}")
    return task


def _of_subject(task: Task, subject: str) -> list[str]:
    try:
        with calling("samples_of() of the Task"):
            ids = [str(sample_id) for sample_id in task.samples_of(subject)]
    except TaskLoadError as error:
        raise local(str(error)) from error
    if not ids:
        raise local("the Task knows no samples of this subject; there is nothing to forget")
    return ids


def _unknown(settings: ForgetSettings, task: Task, ids: Sequence[str]) -> int:
    try:
        with calling(settings.task or ""):
            own = OwnData(task, task.train_data(), task.test_data(), Tombstones(settings.state_dir))
            return own.unknown(frozenset(ids))
    except TaskLoadError as error:
        raise local(str(error)) from error


def _read(place: str) -> list[str]:
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{place} cannot be read: {error}") from error
    if text.lstrip().startswith("["):
        return _listed(place, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _listed(place: str, text: str) -> list[str]:
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise usage(f"{place} begins as a JSON list and is none: {error}") from error
    if not all(isinstance(one, str) for one in listed):
        raise usage(f"{place} is a list of other things than texts")
    return list(listed)


def _ask(settings: ForgetSettings, stone: Tombstone, output: Output) -> deletion_pb2.Deletion:
    credentials = credentials_for(
        settings.server, settings.identity, insecure=settings.insecure, output=output
    )
    if credentials is None:
        name = settings.name or _known_name(settings.state_dir)
    elif credentials.subject.role is not Role.CLIENT:
        raise usage(
            f"{settings.identity} holds the certificate of {credentials.subject}; give this "
            "client's own"
        )
    else:
        name = credentials.subject.name
    session = Session(
        settings.server, credentials=credentials, timeout=settings.timeout, output=output
    )
    with closing(session):
        return session.call(session.deletions.Unlearn, request_for(stone, name)).deletion


def _known_name(state_dir: Path) -> str:
    try:
        known = json.loads((state_dir / IDENTITY_FILE).read_text(encoding="utf-8"))
        return str(known["name"])
    except (OSError, ValueError, KeyError) as error:
        raise usage("give --name: over plaintext nothing else tells it") from error


def _tell(output: Output, stone: Tombstone, deletion: deletion_pb2.Deletion) -> None:
    phase = deletion_pb2.JobPhase.Name(deletion.job.phase).removeprefix("JOB_PHASE_").lower()
    if output.json:
        output.document(
            {
                "request_id": stone.request_id,
                "count": stone.count,
                "sha256": stone.sha256,
                "job_id": deletion.job.id,
                "phase": phase,
            }
        )
        return
    output.line(f"request id  {stone.request_id}")
    output.line(f"samples     {stone.count}")
    output.line(f"sha256      {stone.sha256}")
    output.line(f"job         {deletion.job.id} ({phase})")
