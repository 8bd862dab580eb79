"""Deletion requests over RPC: refused, repeated, cancelled, watched, and by every method."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from google.protobuf import duration_pb2
from support.federation import CALL, LocalFederation, eventually, refusal

from fednot.errors import CATALOGUE, Reason
from fednot.model_file import read
from fednot.v1 import deletion_pb2, operator_pb2
from fednot.wire import checksum
from server.phases import MOVES
from server.records import JobPhase
from server.state.model_store import sha256_of

COMPLETED = deletion_pb2.JOB_PHASE_COMPLETED
ONE_ROUND = {"min_rounds": 1, "max_rounds": 1, "tolerance": 0.9}
"""With a tolerance of 0.9 every recovery is at its target, so the first attempt is accepted."""
CLIENTS = ["c0", "c1", "c2", "c3", "c4"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Five clients that have trained two rounds; c4, which no test forgets, can be held."""
    flags = ("--min-clients", "1")
    with LocalFederation(tmp_path_factory.mktemp("requests"), server_flags=flags) as found:
        found.start_server()
        for index in range(5):
            found.start_client(index, held=index == 4)
        found.release()
        found.await_connected(5)
        assert found.train(2).rounds_done == 2, found.log("server")
        yield found


@pytest.fixture
def free(federation: LocalFederation) -> Iterator[LocalFederation]:
    """The federation, with c4 free to train before and after."""
    federation.release()
    yield federation
    federation.release()


@dataclass
class Watch:
    """Reads a deletion's stream to its end, in a thread."""

    federation: LocalFederation
    request_id: str
    seen: list[deletion_pb2.WatchDeletionResponse] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        request = deletion_pb2.WatchDeletionRequest(request_id=self.request_id)
        for response in self.federation.deletions.WatchDeletion(request, timeout=90):
            self.seen.append(response)

    def to_its_end(self) -> list[deletion_pb2.WatchDeletionResponse]:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the stream did not end with the job"
        return self.seen


BAD_REQUESTS = {
    "an unknown client": ({"client": "nobody"}, Reason.UNKNOWN_CLIENT, "nobody"),
    "no client": ({"client": ""}, Reason.INVALID_REQUEST, "scope.client"),
    "a bad selector": ({"layers": "lest"}, Reason.INVALID_SELECTOR, "lest"),
    "an unknown layer": ({"layers": "layers=conv9.weight"}, Reason.NO_SUCH_LAYER, "conv1"),
    "an index beyond": ({"layers": "index=9"}, Reason.NO_SUCH_LAYER, "from 0 to 3"),
    "a bias": ({"layers": "layers=conv1.bias"}, Reason.LAYER_NOT_NEGATABLE, "conv1.bias"),
    "the output layer": ({"layers": "layers=fc2.weight"}, Reason.OUTPUT_LAYER, "fc2"),
    "layers in series": ({"layers": "index=0,1"}, Reason.NOT_AN_ANTICHAIN, "conv1 feeds conv2"),
    "an unknown method": ({"method": "amnesia"}, Reason.UNKNOWN_METHOD, "fine-tune, retrain"),
    "no rounds": ({"max_rounds": 0}, Reason.INVALID_REQUEST, "recovery.max_rounds"),
    "a minimum of no rounds": ({"min_rounds": 0}, Reason.INVALID_REQUEST, "recovery.min_rounds"),
    "a minimum above the most": (
        {"min_rounds": 3, "max_rounds": 2},
        Reason.INVALID_REQUEST,
        "recovery.min_rounds",
    ),
    "a tolerance of 1": ({"tolerance": 1.0}, Reason.INVALID_REQUEST, "recovery.tolerance"),
    "a tolerance of NaN": (
        {"tolerance": float("nan")},
        Reason.INVALID_REQUEST,
        "recovery.tolerance",
    ),
    "no plateau": ({"plateau_rounds": 0}, Reason.INVALID_REQUEST, "recovery.plateau_rounds"),
    "no clients": ({"min_clients": 0}, Reason.INVALID_REQUEST, "recovery.min_clients"),
    "no time": (
        {"round_deadline": duration_pb2.Duration()},
        Reason.INVALID_REQUEST,
        "recovery.round_deadline",
    ),
    "a long request id": ({"request_id": "x" * 129}, Reason.INVALID_REQUEST, "request_id"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_its_reason(free: LocalFederation, what: str) -> None:
    changes, reason, text = BAD_REQUESTS[what]
    before = free.status()

    refused = refusal(lambda: _ask(free, **{"client": "c0", "request_id": "bad", **changes}))

    assert refused.reason is reason
    assert text in refused.message
    assert refused.metadata["remedy"] == CATALOGUE[reason].remedy
    after = free.status()
    assert after.open_deletions == 0
    assert after.clients_barred == before.clients_barred
    assert after.released == before.released
    unknown = refusal(lambda: free.deletion("bad"))
    assert unknown.reason is Reason.UNKNOWN_DELETION, "the id of a refused request is free"


def test_refused_requests_fence_nobody(free: LocalFederation) -> None:
    barred = {name for name in CLIENTS if free.client_info(name).barred_by}
    for changes, _, _ in BAD_REQUESTS.values():
        refusal(lambda changes=changes: _ask(free, **{"client": "c0", **changes}))

    free.train(1)

    assert list(free.rounds()[-1].cohort) == [name for name in CLIENTS if name not in barred]
    assert free.rounds()[-1].outcome == operator_pb2.ROUND_OUTCOME_COMPLETED


def test_cancelling_a_queued_deletion_leaves_the_job_in_front_alone(free: LocalFederation) -> None:
    free.hold.touch()
    free.unlearn("c0", "forget-c0", **ONE_ROUND)
    free.unlearn("c1", "undecided")
    number = eventually(
        "a recovery round waits for c4",
        lambda: list(free.status().round.missing) == ["c4"] and free.status().round.round,
    )

    request = deletion_pb2.CancelDeletionRequest(request_id="undecided")
    cancelled = free.deletions.CancelDeletion(request, timeout=CALL).deletion

    assert cancelled.job.phase == deletion_pb2.JOB_PHASE_CANCELLED
    assert free.client_info("c1").barred_by == ""
    assert free.status().round.round == number, "the round in flight is not the cancelled job's"
    free.release()
    assert free.await_job("forget-c0").job.phase == COMPLETED, free.log("server")
    row = next(row for row in free.rounds() if row.number == number)
    assert row.outcome == operator_pb2.ROUND_OUTCOME_COMPLETED
    assert all(row.HasField("ended_at") for row in free.rounds())
    assert free.status().released == free.status().current
    free.train(1)
    assert "c1" in free.rounds()[-1].cohort


def test_a_layer_that_was_negated_is_refused_with_the_eligible_ones(free: LocalFederation) -> None:
    """After c0's deletion, for which the first layer was negated."""
    if not free.client_info("c0").barred_by:
        free.unlearn("c0", "forget-c0", **ONE_ROUND)
        free.await_job("forget-c0")

    refused = refusal(lambda: _ask(free, client="c2", layers="layers=conv1.weight"))

    assert list(free.status().current.negated_tensors) == ["conv1.weight"]
    assert refused.reason is Reason.LAYER_ALREADY_NEGATED
    assert refused.message.endswith("Eligible: conv2 (conv2.weight), fc1 (fc1.weight).")
    assert free.client_info("c2").barred_by == ""


def test_a_repeated_request_is_the_same_deletion_for_ever(free: LocalFederation) -> None:
    free.hold.touch()
    first = _ask(free, client="c1", request_id="forget-c1", **ONE_ROUND)
    again = _ask(free, client="c1", request_id="forget-c1", **ONE_ROUND)
    other = refusal(lambda: _ask(free, client="c1", request_id="forget-c1", max_rounds=2))
    by_another = refusal(lambda: _ask(free, client="c1", request_id="another", **ONE_ROUND))

    assert again.job.id == first.job.id
    assert again.accepted_at == first.accepted_at
    assert other.reason is Reason.REQUEST_ID_REUSED
    assert other.code == grpc.StatusCode.ALREADY_EXISTS.name
    assert by_another.reason is Reason.DELETION_IN_PROGRESS
    assert by_another.metadata["request_id"] == "forget-c1"
    free.release()
    assert free.await_job("forget-c1").job.phase == COMPLETED
    ended = eventually("all have told what they destroyed", lambda: _destroyed(free, "forget-c1"))
    _assert_known_for_ever(free, ended)
    free.kill("server", signal.SIGKILL)
    free.start_server()
    _assert_known_for_ever(free, ended)
    free.await_connected(5)


def _destroyed(federation: LocalFederation, request_id: str) -> deletion_pb2.Deletion | None:
    """The deletion, once each client has said that it destroyed: later it changes no more."""
    found = federation.deletion(request_id)
    told = [each.HasField("acknowledged_at") for each in found.job.client_destructions]
    return found if all(told) else None


def _assert_known_for_ever(federation: LocalFederation, ended: deletion_pb2.Deletion) -> None:
    ask = {"client": "c1", "request_id": "forget-c1"}
    assert _ask(federation, **ask, **ONE_ROUND) == ended
    by_job = deletion_pb2.GetDeletionRequest(job_id=ended.job.id)
    assert federation.deletions.GetDeletion(by_job, timeout=CALL).deletion == ended
    reused = refusal(lambda: _ask(federation, **ask, method="retrain"))
    assert reused.reason is Reason.REQUEST_ID_REUSED
    forgotten = refusal(lambda: _ask(federation, client="c1", request_id="another"))
    assert forgotten.reason is Reason.CLIENT_ALREADY_FORGOTTEN
    assert forgotten.metadata["request_id"] == "forget-c1"


def test_fine_tuning_starts_from_the_base_and_can_be_watched(free: LocalFederation) -> None:
    base = free.status().current
    free.hold.touch()
    free.unlearn("c2", "forget-c2", method="fine-tune", min_rounds=2, max_rounds=2)
    watch = Watch(free, "forget-c2")
    eventually("the round in flight is seen", lambda: any(x.round.round for x in watch.seen))
    free.release()

    seen = watch.to_its_end()

    job = seen[-1].deletion.job
    assert (job.phase, job.base_version) == (COMPLETED, base.number)
    history = [JobPhase[deletion_pb2.JobPhase.Name(x.phase)[10:]] for x in job.history]
    assert history == ["queued", "negating", "recovering", "verifying", "completed"]
    assert all(later in MOVES[phase] for phase, later in pairwise(history))
    phases = [response.deletion.job.phase for response in seen]
    assert phases == sorted(phases), "the stream never goes back"
    rounds = [len(x.deletion.job.attempts[0].rounds) for x in seen if x.deletion.job.attempts]
    assert rounds == sorted(rounds)
    start = free.versions()[job.attempts[0].start_version]
    assert (start.sha256, start.lineage) == (base.sha256, base.lineage)
    assert list(start.negated_tensors) == list(base.negated_tensors)
    assert not job.attempts[0].tensors


def test_retraining_starts_a_new_lineage_from_the_first_version(free: LocalFederation) -> None:
    base = free.status().current

    free.unlearn("c3", "forget-c3", method="retrain", **ONE_ROUND)
    job = free.await_job("forget-c3").job

    versions = free.versions()
    start, initial = versions[job.attempts[0].start_version], versions[1]
    assert job.phase == COMPLETED, free.log("server")
    assert start.sha256 == initial.sha256
    assert start.lineage == base.lineage + 1
    assert start.generation == base.generation + 1
    assert not start.negated_tensors
    assert free.status().released.lineage == start.lineage
    assert free.version_file(initial.sha256).exists(), "the first version is kept under its hash"


def test_listings_come_in_pages_that_leave_nothing_out(free: LocalFederation) -> None:
    rounds = _paged(free.operator.ListRounds, operator_pb2.ListRoundsRequest, "rounds")
    versions = _paged(free.operator.ListVersions, operator_pb2.ListVersionsRequest, "versions")
    deletions = _paged(free.deletions.ListDeletions, deletion_pb2.ListDeletionsRequest, "deletions")

    assert [row.number for row in rounds] == list(range(len(rounds), 0, -1))
    assert rounds == list(reversed(free.rounds()))
    assert [row.number for row in versions] == list(range(len(versions), 0, -1))
    accepted = [deletion.accepted_at.ToNanoseconds() for deletion in deletions]
    assert accepted == sorted(accepted, reverse=True)
    for listing, request in (
        (free.operator.ListRounds, operator_pb2.ListRoundsRequest),
        (free.deletions.ListDeletions, deletion_pb2.ListDeletionsRequest),
    ):
        bad = refusal(lambda: listing(request(page_token="-1"), timeout=CALL))  # noqa: B023
        assert bad.reason is Reason.INVALID_REQUEST


def _paged(listing: grpc.UnaryUnaryMultiCallable, request: type, name: str) -> list[object]:
    found: list[object] = []
    token = ""
    while True:
        page = listing(request(page_size=2, page_token=token), timeout=CALL)
        rows = list(getattr(page, name))
        assert len(rows) <= 2
        found += rows
        token = page.next_page_token
        if not token:
            return found
        assert rows


def test_the_released_version_downloads_as_a_model_file(
    free: LocalFederation, tmp_path: Path
) -> None:
    released = free.status().released
    parts = list(free.operator.DownloadVersion(_download(), timeout=CALL))

    payload = b"".join(part.chunk for part in parts[1:-1])
    file = tmp_path / "released.safetensors"
    file.write_bytes(payload)
    flat, _, layers = read(file)
    assert parts[0].header.version == released
    assert parts[0].header.num_bytes == len(payload)
    assert parts[-1].trailer.xxh3_128 == checksum(memoryview(payload))
    assert sha256_of(flat) == released.sha256
    assert layers, "the file carries its layers"
    other = refusal(lambda: list(free.operator.DownloadVersion(_download(1), timeout=CALL)))
    assert other.reason is Reason.NOT_RELEASED


def _download(version: int = 0) -> operator_pb2.DownloadVersionRequest:
    return operator_pb2.DownloadVersionRequest(version=version)


def _ask(
    federation: LocalFederation, *, client: str, request_id: str = "", **values: object
) -> deletion_pb2.Deletion:
    return federation.unlearn(client, request_id, **values)  # type: ignore[arg-type]
