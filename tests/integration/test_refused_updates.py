"""Bad updates over a real socket: each is refused with its own reason and changes nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from support.federation import CALL, LocalFederation, eventually, refusal
from support.raw_client import (
    Part,
    RawClient,
    chunks_of,
    constant_update,
    parts_of,
    trailer_of,
    update_with,
)
from support.replay import MANIFEST, assert_close, mean_of_clients, stored

from fednot.errors import Reason
from fednot.v1 import deletion_pb2, federation_pb2, model_pb2, operator_pb2
from server.anomalies import kind_of

GOOD = constant_update(0.001)


@dataclass
class OpenRound:
    """A round that waits for two real clients, which are held, and for two by hand."""

    federation: LocalFederation
    bad: RawClient
    work: federation_pb2.TrainWork
    other: RawClient
    others_work: federation_pb2.TrainWork

    def counted(self, sample: str) -> float:
        return self.federation.metrics().get(sample, 0.0)

    def anomalies(self) -> Counter[str]:
        return Counter(dict(self.federation.client_info(self.bad.name).anomalies))

    def end(self) -> operator_pb2.Round:
        """Lets the real clients train, and gives the round once it has ended."""
        number = self.federation.status().round.round
        self.federation.release()
        self.federation.await_run()
        return next(row for row in self.federation.rounds() if row.number == number)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Two held clients, on a model of generation 1, so that an update can be of an older one.

    Heartbeats are rare, so that a client by hand, which sends none, counts as there.
    """
    flags = ("--heartbeat-interval", "60", "--task-arg", "trace=no")
    with LocalFederation(tmp_path_factory.mktemp("refused"), server_flags=flags) as found:
        found.start_server()
        for index in range(2):
            found.start_client(index, held=True)
        found.release()
        found.await_connected(2)
        RawClient(found, "forgotten").leave()
        found.unlearn("forgotten", "forget", min_rounds=1, max_rounds=1)
        assert found.await_job("forget").job.phase == deletion_pb2.JOB_PHASE_COMPLETED
        yield found


@pytest.fixture(scope="module")
def by_hand(federation: LocalFederation) -> tuple[RawClient, RawClient]:
    return RawClient(federation, "bad"), RawClient(federation, "other")


@pytest.fixture
def opened(federation: LocalFederation, by_hand: tuple[RawClient, RawClient]) -> OpenRound:
    """The round in flight, or a new one; work that was not answered is given again."""
    if not federation.status().HasField("round"):
        federation.hold.touch()
        federation.start_training(1)
    bad, other = by_hand
    return OpenRound(federation, bad, bad.train_work(), other, other.train_work())


def header_with(**changes: object) -> Callable[[OpenRound], list[Part]]:
    return lambda opened: parts_of(opened.bad.header(opened.work, **changes), GOOD)


def header_moved(field: str, by: int) -> Callable[[OpenRound], list[Part]]:
    def build(opened: OpenRound) -> list[Part]:
        header = opened.bad.header(opened.work)
        setattr(header, field, getattr(header, field) + by)
        return parts_of(header, GOOD)

    return build


def stream_of(*names: str) -> Callable[[OpenRound], list[Part]]:
    """A stream of the named parts in that order."""

    def build(opened: OpenRound) -> list[Part]:
        parts = {
            "header": [Part(header=opened.bad.header(opened.work))],
            "chunks": list(chunks_of(GOOD)),
            "half": [Part(chunk=GOOD.numpy().tobytes()[: MANIFEST.nbytes // 2])],
            "byte": [Part(chunk=b"\0")],
            "trailer": [trailer_of(GOOD)],
            "wrong trailer": [trailer_of(constant_update(0.002))],
            "nothing": [Part()],
        }
        return [part for name in names for part in parts[name]]

    return build


def as_another_session(opened: OpenRound) -> list[Part]:
    session = federation_pb2.Session(client=opened.bad.name, id="no such session")
    return parts_of(opened.bad.header(opened.work, session=session), GOOD)


def with_anothers_work(opened: OpenRound) -> list[Part]:
    return parts_of(opened.bad.header(opened.others_work), GOOD)


REFUSED: dict[str, tuple[Callable[[OpenRound], list[Part]], Reason]] = {
    "a wrong size": (header_moved("num_bytes", -8), Reason.WRONG_SIZE),
    "a huge size": (header_with(num_bytes=1 << 60), Reason.WRONG_SIZE),
    "too many bytes": (stream_of("header", "chunks", "byte", "trailer"), Reason.WRONG_SIZE),
    "too few bytes": (stream_of("header", "half", "trailer"), Reason.WRONG_SIZE),
    "another checksum": (stream_of("header", "chunks", "wrong trailer"), Reason.WRONG_CHECKSUM),
    "another manifest": (header_with(manifest_digest="0" * 64), Reason.MANIFEST_MISMATCH),
    "an older generation": (header_moved("generation", -1), Reason.STALE_GENERATION),
    "an older base version": (header_moved("base_version", -1), Reason.WRONG_BASE_VERSION),
    "no examples": (header_with(num_examples=0), Reason.WRONG_NUM_EXAMPLES),
    "more examples than joined with": (
        header_with(num_examples=201),
        Reason.WRONG_NUM_EXAMPLES,
    ),
    "another encoding": (
        header_with(codec=model_pb2.UPDATE_CODEC_INT8),
        Reason.INVALID_REQUEST,
    ),
    "a score that is no ratio": (
        header_with(metrics={"accuracy": 7.0}),
        Reason.INVALID_REQUEST,
    ),
    "a chunk before the header": (
        stream_of("chunks", "header", "trailer"),
        Reason.INVALID_STREAM,
    ),
    "no trailer": (stream_of("header", "chunks"), Reason.INVALID_STREAM),
    "two headers": (stream_of("header", "header"), Reason.INVALID_STREAM),
    "an empty part": (stream_of("header", "nothing"), Reason.INVALID_STREAM),
    "no parts": (stream_of(), Reason.INVALID_STREAM),
    "another client's work": (with_anothers_work, Reason.UNKNOWN_WORK),
    "unknown work": (header_with(work_id="no such work"), Reason.UNKNOWN_WORK),
    "an unknown session": (as_another_session, Reason.UNKNOWN_SESSION),
}


FROM_NOBODY = {"a chunk before the header", "no parts"}
"""Without a header nobody is known to whom it could be counted."""


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_upload_is_refused_with_its_reason_and_counted(opened: OpenRound, what: str) -> None:
    build, reason = REFUSED[what]
    sample = f'fednot_refusals_total{{reason="{reason}"}}'
    before, odd = opened.counted(sample), opened.anomalies()

    refused = refusal(lambda: opened.bad.upload(build(opened)))

    assert refused.reason is reason, refused.message
    assert refused.message
    assert refused.metadata["remedy"]
    assert opened.counted(sample) == before + 1
    kind = None if what in FROM_NOBODY else kind_of(refused)
    assert opened.anomalies() == (odd + Counter([str(kind)]) if kind else odd)
    assert opened.federation.status().round.updates == 0
    assert "bad" in opened.federation.status().round.missing
    beat = federation_pb2.HeartbeatRequest(session=opened.bad.session, work_id=opened.work.work_id)
    answer = opened.bad.stub.Heartbeat(beat, timeout=CALL)
    assert answer.work_stands, "a stream that was refused may be sent again, made right"


def test_a_client_that_is_cut_off_in_an_upload_has_sent_nothing_odd(opened: OpenRound) -> None:
    receiving = 'fednot_uploads{state="receiving"}'
    refused = 'fednot_updates_total{outcome="refused"}'
    before, odd = opened.counted(refused), opened.anomalies()
    over = threading.Event()

    def parts() -> Iterator[Part]:
        yield from stream_of("header", "half")(opened)
        over.wait(CALL)

    call = opened.bad.stub.UploadUpdate.future(parts(), timeout=CALL)
    eventually("it is on its way", lambda: opened.counted(receiving) == 1)
    call.cancel()
    over.set()
    eventually("it is cut", lambda: opened.counted(receiving) == 0)
    assert (opened.counted(refused), opened.anomalies()) == (before, odd)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_spoils_only_its_own_update(
    opened: OpenRound, value: float
) -> None:
    counts = 'fednot_updates_total{outcome="%s"}'
    before = {name: opened.counted(counts % name) for name in ("accepted", "refused", "missing")}
    odd = opened.anomalies()
    opened.other.report_failure(opened.others_work.work_id, "no power")

    refused = refusal(
        lambda: opened.bad.upload(parts_of(opened.bad.header(opened.work), update_with(value)))
    )
    row = opened.end()

    assert refused.reason is Reason.NOT_FINITE
    assert opened.anomalies() == odd + Counter(["not_finite"])
    assert "conv1.bias" in refused.message
    assert row.outcome == operator_pb2.ROUND_OUTCOME_DEGRADED
    missing = {entry.client: entry.reason for entry in row.missing}
    assert set(missing) == {"bad", "other"}
    assert missing["bad"].startswith("NOT_FINITE: ")
    assert missing["other"] == "it failed: no power"
    _assert_result_is_the_mean(opened.federation, row)
    after = {name: opened.counted(counts % name) - before[name] for name in before}
    assert after == {"accepted": 2, "refused": 1, "missing": 1}


def test_an_update_that_is_sent_twice_counts_once(opened: OpenRound) -> None:
    header = opened.bad.header(opened.work, num_examples=100)
    opened.other.report_failure(opened.others_work.work_id, "no power")

    counted = opened.bad.upload(parts_of(header, GOOD))
    again = refusal(lambda: opened.bad.upload(parts_of(header, GOOD)))
    row = opened.end()
    late = refusal(lambda: opened.bad.upload(parts_of(header, GOOD)))

    assert counted.round == row.number
    assert again.reason is Reason.DUPLICATE_UPDATE
    assert late.reason is Reason.UNKNOWN_WORK
    assert [entry.client for entry in row.missing] == ["other"]
    _assert_result_is_the_mean(opened.federation, row, (GOOD, 100))


def _assert_result_is_the_mean(
    federation: LocalFederation, row: operator_pb2.Round, *others: tuple[torch.Tensor, int]
) -> None:
    """c0 and c1 with 200 examples each, and what was sent by hand with its own weight."""
    expected = mean_of_clients(stored(federation, row.base_version), row, (0, 1), others)
    assert_close(stored(federation, row.result_version), expected)
