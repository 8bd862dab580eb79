"""What must hold of a state that no server writes to, whatever the last one died of.

On SQLite and on PostgreSQL: what `fednot-server fsck` says, and what only rows together can tell.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from sqlalchemy import Connection, func, or_, select
from support.federation import LocalFederation

from fednot.model_file import read
from server.maintenance.places import snapshot
from server.phases import ENDED
from server.state.model_store import sha256_of
from server.state.schema import (
    attempts,
    federation,
    jobs,
    kept_updates,
    requests,
    rounds,
    tombstones,
    versions,
)

CLEAN, FINDINGS = 0, 1
LEFT_BY_A_KILL = ("no version keeps the model file", "is not barred by the deletion")
"""The next start removes the first; and it notes in the ledger that a bar was lifted just before.
"""
OPEN = jobs.c.phase.not_in(ENDED)
UNLEARNING = versions.c.origin == "unlearning"
EXTENSION = ".safetensors"


def assert_sound(
    found: LocalFederation, *, swept: bool = True, beside: Collection[str] = ()
) -> None:
    """Fails with everything that is wrong with a federation's state.

    Unless it is `swept`, as after SIGKILL, files may be there that no version names. Versions that
    are kept `beside` the state directory are compared by their names.
    """
    wrong = list(faults_of(found, swept=swept, beside=beside))
    assert not wrong, "\n".join(wrong)


def faults_of(
    found: LocalFederation, *, swept: bool = True, beside: Collection[str] = ()
) -> Iterator[str]:
    """What is wrong with a state, in sentences."""
    yield from _of_fsck(found, swept=swept)
    with snapshot(found.flag("--database") or found.state / "state.sqlite3") as connection:
        folder = found.state / "versions"
        yield from _of_the_files(connection, folder, swept=swept, beside=beside)
        yield from _of_the_updates(connection, found.state / "updates", swept=swept)
        yield from _of_the_lineages(connection)
        yield from _of_the_attempts(connection)
        yield from _of_the_fences(connection)
        yield from _of_the_release(connection)


def _of_fsck(federation: LocalFederation, *, swept: bool) -> Iterator[str]:
    told = federation.run_command("fsck", "--format", "json")
    if told.returncode not in (CLEAN, FINDINGS):
        yield f"fsck ended with {told.returncode}: {told.stderr}"
        return
    for found in json.loads(told.stdout)["findings"]:
        if swept or not any(words in found["message"] for words in LEFT_BY_A_KILL):
            yield f"fsck: {found['check']}: {found['message']}"


def _of_the_files(
    connection: Connection, folder: Path, *, swept: bool, beside: Collection[str]
) -> Iterator[str]:
    kept = connection.execute(select(versions.c.sha256).where(versions.c.destroyed_at.is_(None)))
    wanted = {f"{sha256}{EXTENSION}" for sha256 in kept.scalars()}
    there = set(beside) or {path.name for path in folder.iterdir()}
    if swept:
        yield from (f"{name} is named by no version that is kept" for name in there - wanted)
    yield from (f"{name} is missing" for name in wanted - there)
    for name in wanted & there - set(beside):
        flat, _, _ = read(folder / name)
        if sha256_of(flat) != name.removesuffix(EXTENSION):
            yield f"{name} does not hold what its name says"


def _of_the_updates(connection: Connection, folder: Path, *, swept: bool) -> Iterator[str]:
    """What is kept of updates: every file has a row, every row a file that holds it."""
    kept = connection.execute(select(kept_updates).where(kept_updates.c.destroyed_by == "")).all()
    wanted = {f"{row.sha256}{EXTENSION}" for row in kept}
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if swept:
        yield from (f"no row names the update {name}" for name in there - wanted)
    yield from (f"the update {name} is missing" for name in wanted - there)
    for name in wanted & there:
        flat, _, _ = read(folder / name)
        if sha256_of(flat) != name.removesuffix(EXTENSION):
            yield f"the update {name} does not hold what its name says"


def _of_the_lineages(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(versions.c.number, versions.c.negated_tensors)):
        for tensor, times in Counter(row.negated_tensors).items():
            if times > 1:
                yield f"version {row.number}: {tensor} was negated {times} times"


def _of_the_attempts(connection: Connection) -> Iterator[str]:
    """One version for the start of each attempt and each of its steps, and one generation more with
    each start, and with a chosen one.
    """
    tried = connection.execute(select(attempts.c.start_version, attempts.c.steps)).all()
    starts = {row.start_version for row in tried}
    generation = 0
    for row in connection.execute(select(versions).order_by(versions.c.number)):
        generation += row.number in starts or row.origin == "chosen"
        if row.generation != generation:
            yield f"version {row.number} has generation {row.generation}, not {generation}"
    made = connection.execute(
        select(versions.c.number).where(UNLEARNING).order_by(versions.c.number)
    ).scalars()
    told = sorted(number for row in tried for number in (row.start_version, *row.steps))
    if told != list(made):
        yield f"the attempts made {told}, and other versions were made by unlearning"
    running = select(func.count()).where(rounds.c.outcome == "running")
    if (count := connection.execute(running).scalar_one()) > 1:
        yield f"{count} rounds run at once"


def _of_the_fences(connection: Connection) -> Iterator[str]:
    """A request stands behind a bar; after its job's base no round that its client was in counts.

    Rounds are told apart by their numbers, since a clock may jump.
    """
    standing = (
        select(tombstones.c.client, versions.c.round)
        .join(requests, requests.c.sequence == tombstones.c.request)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .join(versions, versions.c.number == jobs.c.base_version)
        .where(tombstones.c.lifted_at.is_(None))
    )
    for row in connection.execute(standing).all():
        later = select(rounds).where(rounds.c.number > row.round, rounds.c.result_version > 0)
        for each in connection.execute(later):
            if row.client in set(each.cohort) - set(each.missing):
                yield f"round {each.number} holds {row.client}, who was barred by then"
    unfenced = (
        select(requests.c.request_id)
        .join(jobs, jobs.c.id == requests.c.job_id)
        .join(tombstones, tombstones.c.request == requests.c.sequence, isouter=True)
        .where(OPEN, or_(tombstones.c.id.is_(None), tombstones.c.lifted_at.is_not(None)))
    )
    for request_id in connection.execute(unfenced).scalars():
        yield f"request {request_id} is open without a fence"


def _of_the_release(connection: Connection) -> Iterator[str]:
    released = connection.execute(select(federation.c.released_version)).scalar_one()
    count = connection.execute(select(func.count()).where(OPEN)).scalar_one()
    if released and count:
        yield f"version {released} is released while {count} jobs are open"
    gone = select(versions.c.number).where(
        versions.c.number == released, versions.c.destroyed_at.is_not(None)
    )
    if connection.execute(gone).first():
        yield f"version {released} is released and was destroyed"
