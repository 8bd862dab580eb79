"""What must hold of a state directory that no server has open, whatever the last one died of."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

from support.forked import SERVER, Command

from fednot.audit_chain import BrokenChainError, Entry, check
from fednot.model_file import read
from server.state.model_store import sha256_of

FSCK_IS_THERE = False
"""The lead sets it once `fednot-server fsck` is merged, and then takes it out."""


def assert_sound(state: Path, *, swept: bool = True, beside: Collection[str] = ()) -> None:
    """Fails with everything that is wrong with a state directory.

    Unless it is `swept`, as after SIGKILL, files may be there that no version names. Versions that
    are kept `beside` the directory are compared by their names.
    """
    wrong = list(faults_of(state, swept=swept, beside=beside))
    assert not wrong, "\n".join(wrong)
    if FSCK_IS_THERE:
        told = Command(SERVER, ("fsck", "--state-dir", str(state))).ended(60)
        assert told.returncode == 0, told.stderr


def faults_of(state: Path, *, swept: bool = True, beside: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with a state directory, in sentences."""
    with closing(sqlite3.connect(f"file:{state / 'state.sqlite3'}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield from (
            f"foreign key: {tuple(row)}" for row in database.execute("PRAGMA foreign_key_check")
        )
        yield from (
            f"integrity: {row[0]}"
            for row in database.execute("PRAGMA integrity_check")
            if row[0] != "ok"
        )
        yield from _of_the_audit(database)
        yield from _of_the_files(database, state / "versions", swept=swept, beside=beside)
        yield from _of_the_lineages(database)
        yield from _of_the_attempts(database)
        yield from _of_the_fences(database)
        yield from _of_the_release(database)


def _of_the_audit(database: sqlite3.Connection) -> Iterator[str]:
    rows = database.execute("SELECT * FROM audit ORDER BY sequence")
    try:
        check(Entry(**dict(row)) for row in rows)
    except BrokenChainError as error:
        yield f"audit: {error}"


def _of_the_files(
    database: sqlite3.Connection, versions: Path, *, swept: bool, beside: Collection[str]
) -> Iterator[str]:
    kept = database.execute("SELECT sha256 FROM versions WHERE destroyed_at IS NULL")
    wanted = {f"{row['sha256']}.safetensors" for row in kept}
    there = set(beside) or {path.name for path in versions.iterdir()}
    if swept:
        yield from (f"{name} is named by no version that is kept" for name in there - wanted)
    yield from (f"{name} is missing" for name in wanted - there)
    for name in wanted & there - set(beside):
        flat, _, _ = read(versions / name)
        if sha256_of(flat) != name.removesuffix(".safetensors"):
            yield f"{name} does not hold what its name says"


def _of_the_lineages(database: sqlite3.Connection) -> Iterator[str]:
    for row in database.execute("SELECT number, negated_tensors FROM versions"):
        for tensor, times in Counter(json.loads(row["negated_tensors"])).items():
            if times > 1:
                yield f"version {row['number']}: {tensor} was negated {times} times"


def _of_the_attempts(database: sqlite3.Connection) -> Iterator[str]:
    """One version for each attempt, and one generation more with each."""
    rows = database.execute("SELECT number, generation, origin FROM versions ORDER BY number")
    generation = 0
    for row in rows:
        generation += row["origin"] == "unlearning"
        if row["generation"] != generation:
            yield f"version {row['number']} has generation {row['generation']}, not {generation}"
    attempts = database.execute("SELECT start_version FROM attempts ORDER BY start_version")
    starts = [row["start_version"] for row in attempts]
    negated = database.execute("SELECT number FROM versions WHERE origin = 'unlearning'")
    if starts != [row["number"] for row in negated.fetchall()]:
        yield f"the attempts start from {starts}, and other versions were made by unlearning"
    running = database.execute("SELECT count(*) FROM rounds WHERE outcome = 'running'")
    if (count := running.fetchone()[0]) > 1:
        yield f"{count} rounds run at once"


def _of_the_fences(database: sqlite3.Connection) -> Iterator[str]:
    """A request stands behind a bar; after its job's base no round that its client was in counts.

    Rounds are told apart by their numbers, since a clock may jump.
    """
    standing = database.execute(
        "SELECT tombstones.client, versions.round FROM tombstones "
        "JOIN requests ON requests.sequence = tombstones.request "
        "JOIN jobs ON jobs.id = requests.job_id "
        "JOIN versions ON versions.number = jobs.base_version WHERE lifted_at IS NULL"
    ).fetchall()
    for row in standing:
        rounds = database.execute(
            "SELECT number, cohort, missing FROM rounds WHERE number > ? AND result_version > 0",
            (row["round"],),
        )
        for each in rounds:
            counted = set(json.loads(each["cohort"])) - set(json.loads(each["missing"]))
            if row["client"] in counted:
                yield f"round {each['number']} holds {row['client']}, who was barred by then"
    open_without = database.execute(
        "SELECT requests.request_id FROM requests JOIN jobs ON jobs.id = requests.job_id "
        "LEFT JOIN tombstones ON tombstones.request = requests.sequence "
        "WHERE jobs.phase NOT IN ('cancelled', 'completed', 'failed', 'merged') "
        "AND (tombstones.id IS NULL OR tombstones.lifted_at IS NOT NULL)"
    )
    yield from (f"request {row['request_id']} is open without a fence" for row in open_without)


def _of_the_release(database: sqlite3.Connection) -> Iterator[str]:
    released = database.execute("SELECT released_version FROM federation").fetchone()[0]
    ended = "('cancelled', 'completed', 'failed', 'merged')"
    open_jobs = database.execute(f"SELECT count(*) FROM jobs WHERE phase NOT IN {ended}")
    if released and (count := open_jobs.fetchone()[0]):
        yield f"version {released} is released while {count} jobs are open"
    gone = database.execute(
        "SELECT count(*) FROM versions WHERE number = ? AND destroyed_at IS NOT NULL", (released,)
    )
    if gone.fetchone()[0]:
        yield f"version {released} is released and was destroyed"
