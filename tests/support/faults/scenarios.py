"""The fault matrix: what is played while the server dies at each of its places."""

from __future__ import annotations

import atexit
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.faults import places
from support.faults.deletions import deletion_in_mid_round
from support.faults.maintenance import (
    LEDGER_ELSEWHERE,
    backed_up,
    failed_append,
    ledger_renewed,
    restored,
    resumed_round,
    torn_line,
)
from support.faults.mortal import MortalFederation
from support.faults.soundness import assert_sound
from support.faults.stepping import bereft, stepped
from support.faults.stories import (
    approved,
    cancelled,
    chosen,
    confirmed,
    deletion_in_a_bucket,
    denied,
    departure,
    enrolled,
    expired,
    failed_job,
    failing_run,
    fetched,
    held,
    key_left_over,
    key_rotated,
    overdue,
    readmitted,
    refused,
    renewed,
    stopped_run,
    unconfirmed,
    unnamed,
)
from support.ports import free_port
from support.s3 import BucketAsSeen, S3Server, served_s3

from server.state.commits import Commit

PREFIX = "federation"


@dataclass(frozen=True)
class Scenario:
    """What is done, the server's flags for it, and whether a command dies instead of the server."""

    play: Callable[[MortalFederation], None]
    flags: tuple[str, ...] = ()
    in_bucket: bool = False
    of_command: bool = False


MAIN = Scenario(deletion_in_mid_round)
TWICE = ("--require-approval",)
OVERDUE = ("--job-deadline", "0.5")
CHOOSING = (
    *("--probes", "{folder}/probes"),
    *("--ladder", "first*8", "--ladder", "first*1"),
)
KEEPING = ("--keep-updates", "1")
BACKUP = Scenario(backed_up, LEDGER_ELSEWHERE, of_command=True)
RESTORE = Scenario(restored, LEDGER_ELSEWHERE, of_command=True)

_OF_COMMITS: Mapping[Commit, Scenario] = {
    Commit.SCHEMA: MAIN,
    Commit.INITIAL_VERSION: MAIN,
    Commit.CLIENT_JOINED: MAIN,
    Commit.CLIENT_LEFT: Scenario(departure),
    Commit.CLIENTS_SEEN: MAIN,
    Commit.TRAINING_STARTED: MAIN,
    Commit.TRAINING_STOPPED: Scenario(stopped_run),
    Commit.RUN_FAILED: Scenario(failing_run, ("--round-retries", "0", "--min-clients", "1")),
    Commit.ROUND_BEGUN: MAIN,
    Commit.ROUND_COMPLETED: MAIN,
    Commit.ROUND_FAILED: Scenario(failing_run, ("--round-retries", "0", "--min-clients", "1")),
    Commit.ROUND_CLOSED: MAIN,
    Commit.ROUNDS_TAKEN_OVER: MAIN,
    Commit.ROUND_RESUMED: Scenario(resumed_round),
    Commit.DELETION_ACCEPTED: MAIN,
    Commit.DELETION_CANCELLED: Scenario(cancelled, TWICE),
    Commit.APPROVED: Scenario(approved, TWICE),
    Commit.REFUSED: Scenario(refused, TWICE),
    Commit.APPROVALS_EXPIRED: Scenario(expired, (*TWICE, "--approval-expiry", "1")),
    Commit.FORGETTING_CONFIRMED: Scenario(confirmed),
    Commit.CONFIRMATIONS_OVERDUE: Scenario(unconfirmed, ("--confirmation-wait", "1")),
    Commit.CLIENT_READMITTED: Scenario(readmitted, OVERDUE),
    Commit.BASE_PINNED: MAIN,
    Commit.ATTEMPT_BEGUN: MAIN,
    Commit.STEP_TAKEN: Scenario(stepped, KEEPING),
    Commit.ATTEMPT_ENDED: MAIN,
    Commit.ATTEMPT_VERIFIED: MAIN,
    Commit.ATTEMPT_CHOSEN: Scenario(chosen, CHOOSING),
    Commit.UPDATES_MISSED: Scenario(bereft, KEEPING),
    Commit.VERSIONS_DESTROYED: MAIN,
    Commit.HOLD_LIFTED: Scenario(held),
    Commit.DEADLINES_NOTED: Scenario(overdue),
    Commit.CACHES_DESTROYED: MAIN,
    Commit.JOB_COMPLETED: MAIN,
    Commit.JOB_FAILED: Scenario(failed_job, OVERDUE),
    Commit.VERSION_FETCHED: Scenario(fetched),
    Commit.RECEIPT_KEY_MADE: MAIN,
    Commit.RECEIPT_KEY_ROTATED: Scenario(key_rotated),
    Commit.TOKEN_MADE: Scenario(enrolled, ("--enrolment-address", "127.0.0.1:0")),
    Commit.TOKEN_USED: Scenario(enrolled, ("--enrolment-address", "127.0.0.1:0")),
    Commit.CERTIFICATE_RENEWED: Scenario(renewed),
    Commit.REFUSAL_NOTED: Scenario(denied),
    Commit.PSEUDONYM_DESTROYED: Scenario(unnamed, TWICE),
    Commit.STATE_NAMED: MAIN,
    Commit.LEDGER_RECONCILED: MAIN,
    Commit.LEDGER_NOTED: MAIN,
    Commit.LEDGER_RENEWED: Scenario(ledger_renewed, of_command=True),
    Commit.STATE_RESTORED: RESTORE,
}
_OF_FILES: Mapping[str, Scenario] = {
    "sync.version": MAIN,
    "rename.version": MAIN,
    "sync.versions": MAIN,
    "remove.version": MAIN,
    "sync.swept-versions": MAIN,
    "append.ledger-header": MAIN,
    "sync.ledger-header": MAIN,
    "rename.ledger": MAIN,
    "sync.ledger-directory": MAIN,
    "append.ledger": MAIN,
    "sync.ledger": MAIN,
    "truncate.ledger": Scenario(failed_append),
    "truncate.torn-ledger": Scenario(torn_line),
    "sync.torn-ledger": Scenario(torn_line),
    "append.receipt-key": MAIN,
    "sync.receipt-key": MAIN,
    "sync.next-receipt-key": MAIN,
    "rename.receipt-key": MAIN,
    "sync.receipt-key-directory": MAIN,
    "overwrite.old-receipt-key": Scenario(key_rotated),
    "sync.old-receipt-key": Scenario(key_rotated),
    "remove.next-receipt-key": Scenario(key_left_over),
    "sync.backup-rows": BACKUP,
    "sync.backup-page": BACKUP,
    "sync.backup": BACKUP,
    "rename.backup": BACKUP,
    "sync.backup-parent": BACKUP,
}
_IN_A_BUCKET = Scenario(deletion_in_a_bucket, in_bucket=True)
_OF_OBJECTS: Mapping[str, Scenario] = {
    "begin.version-upload": _IN_A_BUCKET,
    "complete.version-upload": _IN_A_BUCKET,
    "abort.version-upload": _IN_A_BUCKET,
    "delete.version-object": _IN_A_BUCKET,
}
SCENARIOS: Mapping[str, Scenario] = {
    **{f"commit.{commit}": scenario for commit, scenario in _OF_COMMITS.items()},
    **_OF_FILES,
    **_OF_OBJECTS,
}
"""The scenario of each name; tests/unit/test_durable_calls.py compares them with the sources."""

NOT_YET: Mapping[str, str] = {}
"""Names that stand in the enumeration and are written by nobody."""

LATER: Mapping[str, tuple[int, ...]] = {
    "commit.round-begun": (4,),
    "commit.round-completed": (3,),
    "commit.step-taken": (2,),
    "sync.version": (4,),
    "rename.version": (4,),
    "remove.version": (2,),
}
"""Where a scenario passes a place again with something else at stake. The versions of MAIN are the
initial one, two of training, the negated one, one or two of recovery and one of training; its
third round is the one that the deletion aborts, and its fourth the first of recovery. The second
step of an attempt is a round of clients.
"""


def cases() -> list[str]:
    """Every failpoint of the matrix, as FEDNOT_FAILPOINT takes it."""
    found = []
    for name in SCENARIOS.keys() - NOT_YET.keys():
        for nth in ("", *(f" @{number}" for number in LATER.get(name, ()))):
            found += [f"{side} {name}{nth}" for side in places.SIDES]
    return sorted(found, key=lambda place: place.split()[1:])


def play(place: str, folder: Path) -> None:
    """Plays the scenario of a place, in which the server must die there once."""
    scenario = SCENARIOS[place.split()[1]]
    flags = tuple(
        f"127.0.0.1:{free_port()}" if flag == "127.0.0.1:0" else flag.format(folder=folder)
        for flag in scenario.flags
    )
    bucket = a_bucket() if scenario.in_bucket else None
    if bucket is not None:
        flags += ("--versions", f"s3://{bucket.name}/{PREFIX}")
    arms_server = not scenario.of_command
    with MortalFederation(folder, place, flags, arms_server=arms_server) as federation:
        federation.server_environment |= bucket.server.environment if bucket is not None else {}
        federation.begin()
        scenario.play(federation)
        assert federation.deaths == [-9], "nobody passed that place"
        federation.sightings.assert_kept(federation)
        federation.await_that(
            "every file is that of a version that is kept", lambda: is_swept(federation, bucket)
        )
        assert federation.kill("server", signal.SIGTERM) == 0
        assert_sound(federation, beside=objects_of(bucket) if bucket is not None else ())


def a_bucket() -> BucketAsSeen:
    """One with an upload that was begun and left, as SIGKILL leaves it."""
    bucket = _s3().new_bucket()
    bucket.begin_upload(f"{PREFIX}/{'0' * 64}.safetensors")
    return bucket


@cache
def _s3() -> S3Server:
    """One for all cases of this process, whose end ends it."""
    served = ExitStack()
    atexit.register(served.close)
    return served.enter_context(served_s3(Path(tempfile.mkdtemp(prefix="fednot-s3-")) / "log"))


def objects_of(bucket: BucketAsSeen) -> set[str]:
    return {name.removeprefix(f"{PREFIX}/") for name in bucket.names()}


def is_swept(federation: MortalFederation, bucket: BucketAsSeen | None = None) -> bool:
    """Whether what is stored are the versions that are kept, and no upload is left."""
    found = federation.versions().values()
    kept = {f"{each.sha256}.safetensors" for each in found if not each.HasField("destroyed_at")}
    if bucket is not None:
        return objects_of(bucket) == kept and not bucket.uploads()
    return {path.name for path in (federation.state / "versions").iterdir()} == kept
