"""One deletion over real processes, with a restart of the server: one call id, and one trace."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from support.federation import CALL, OFFICER, LocalFederation, eventually
from support.forked import FEDNOT, Command

from fednot import calls
from fednot.errors import Reason
from fednot.v1 import deletion_pb2

pytest.importorskip("opentelemetry.proto", reason="the extra tracing is not installed")

from support.collector import Collector, Told

CLIENTS = ("c0", "c1", "c2")


@dataclass
class Seen:
    """What one deletion left behind."""

    federation: LocalFederation
    collector: Collector
    errors: list[dict[str, Any]] = field(default_factory=list)
    refused: subprocess.CompletedProcess[str] | None = None
    spans: list[Told] = field(default_factory=list)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A process's log; every line of it is one of JSON."""
        return [json.loads(line) for line in self.federation.whole_log(name).splitlines()]

    @property
    def call_id(self) -> str:
        (found,) = {line["call_id"] for line in self.errors}
        return str(found)


def fednot(
    federation: LocalFederation, collector: Collector, *words: str
) -> subprocess.CompletedProcess[str]:
    arguments = (
        *("--log-level", "info", "--trace-endpoint", collector.endpoint, *words),
        *("--identity", str(federation.identity_of(*OFFICER)), "--format", "json"),
        *("--server", federation.address),
    )
    return Command(FEDNOT, arguments).ended(60)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with (
        Collector() as collector,
        LocalFederation(
            tmp_path_factory.mktemp("traces"),
            server_flags=("--task-arg", "trace=no", "--trace-endpoint", collector.endpoint),
        ) as federation,
    ):
        found = Seen(federation, collector)
        federation.start_server()
        for index in range(3):
            federation.start_client(
                index, held=True, flags=("--trace-endpoint", collector.endpoint)
            )
        federation.release()
        federation.await_connected(3)
        federation.train(1)
        federation.hold_from(2)
        asked = fednot(
            federation,
            collector,
            *("unlearn", "client", "c2", "--request-id", "r1"),
            *("--min-rounds", "1", "--max-rounds", "1"),
        )
        assert asked.returncode == 0, asked.stderr
        found.errors = [json.loads(row) for row in asked.stderr.splitlines() if row[:1] == "{"]
        recovering = "recovery round 2: training on version"
        eventually("c0 recovers", lambda: recovering in federation.whole_log("c0"))
        federation.kill("server", signal.SIGTERM)
        federation.start_server()
        federation.release()
        job = federation.await_job("r1").job
        assert job.phase == deletion_pb2.JOB_PHASE_COMPLETED, federation.log("server")
        found.refused = fednot(federation, collector, "unlearn", "client", "nobody")
        for name in (*CLIENTS, "server"):
            federation.kill(name, signal.SIGTERM)
        root = next(span for span in collector.spans if span.name == "fednot unlearning.client")
        found.spans = [span for span in collector.spans if span.trace == root.trace]
        federation.start_server()
        yield found


def test_the_call_id_is_in_the_logs_of_every_process(seen: Seen) -> None:
    assert len(seen.call_id) == 32
    server = [line for line in seen.lines("server") if line.get("call_id") == seen.call_id]
    told = " / ".join(line["event"] for line in server)
    for part in ("deletion r1 accepted", "attempt 1: negates", "completed with version"):
        assert part in told
    assert {line["job"] for line in server if "job" in line} == {server[0]["job"]}
    ended = [line for line in server if line.get("phase") == "recovery" and "outcome" in line]
    assert {"round", "seconds", "missing"} <= ended[-1].keys()
    counted = [line for line in server if line["event"].endswith("counts")]
    assert {line["client"] for line in counted} >= {"c0", "c1"}, "the upload told it"
    for name in ("c0", "c1"):
        own = [line for line in seen.lines(name) if line.get("call_id") == seen.call_id]
        assert any(" done: " in line["event"] for line in own), name


def test_a_job_and_a_run_tell_by_which_call_they_began(seen: Seen) -> None:
    """After restarts, too; the client whose deletion it is does not read what others chose."""
    assert seen.federation.deletion("r1").job.call_id == seen.call_id
    (begun,) = {
        line["call_id"] for line in seen.lines("c0") if "training round 1 done" in line["event"]
    }
    assert seen.federation.status().run.call_id == begun


def test_other_calls_have_other_ids(seen: Seen) -> None:
    trained = [line for line in seen.lines("c0") if "training round 1 done" in line["event"]]
    assert trained[0]["call_id"] != seen.call_id


def test_a_failure_tells_its_call_id(seen: Seen) -> None:
    refused = seen.refused
    assert refused is not None
    assert refused.returncode != 0
    rows = [json.loads(row) for row in refused.stderr.splitlines() if row[:1] == "{"]
    error = next(row for row in rows if "exit_code" in row)
    assert error["reason"] == Reason.UNKNOWN_CLIENT
    lines = [line for line in seen.lines("server") if line.get("call_id") == error["call_id"]]
    assert [(line["method"], line["reason"]) for line in lines] == [
        ("DeletionService.Unlearn", "UNKNOWN_CLIENT")
    ]


@pytest.mark.parametrize(
    ("told", "taken"), [("ticket-4711", True), ('x","level":"error', False), ("y" * 65, False)]
)
def test_the_server_gives_back_the_id_that_it_took_or_made(
    seen: Seen, told: str, taken: bool
) -> None:
    deletions = seen.federation.reconnect(*OFFICER).deletions
    request = deletion_pb2.GetDeletionRequest(request_id="r1")
    metadata = [(calls.CALL_ID_KEY, told)]
    _, call = deletions.GetDeletion.with_call(request, timeout=CALL, metadata=metadata)
    found = dict(call.trailing_metadata())[calls.CALL_ID_KEY]
    assert (found == told) is taken
    unknown = deletion_pb2.GetDeletionRequest(request_id="r2")
    with pytest.raises(grpc.RpcError) as caught:
        deletions.GetDeletion(unknown, timeout=CALL, metadata=metadata)
    failed = dict(caught.value.trailing_metadata())
    assert (failed[calls.CALL_ID_KEY] == told) is taken
    assert failed[calls.CALL_ID_KEY].encode() in failed["grpc-status-details-bin"]


def test_one_deletion_is_one_trace(seen: Seen) -> None:
    spans = seen.spans
    names = Counter((span.service, span.name) for span in spans)
    for name in ("queued", "negation", "recovery round", "aggregation", "verifying"):
        assert names["fednot-server", name], name
    for name in ("verification", "release", "fednot.v1.DeletionService/Unlearn"):
        assert names["fednot-server", name], name
    assert names["fednot-server", "fednot.v1.FederationService/UploadUpdate"] >= 2
    for name in ("client works", "training", "upload"):
        assert names["fednot-client", name] >= 2, name
    assert names["fednot-server", "recovery round"] >= 2, "one for each start of the server"


def test_its_spans_are_a_tree(seen: Seen) -> None:
    by_id = {span.id: span for span in seen.spans}
    assert len(by_id) == len(seen.spans)
    roots = [span for span in seen.spans if not span.parent]
    assert [(root.service, root.name) for root in roots] == [("fednot", "fednot unlearning.client")]
    for span in seen.spans:
        assert span.began <= span.ended
        if span.parent:
            assert by_id[span.parent].began <= span.began + 1_000_000, span.name
    parents = {(span.name, by_id[span.parent].name) for span in seen.spans if span.parent in by_id}
    assert {
        ("fednot.v1.DeletionService/Unlearn", "fednot unlearning.client"),
        ("recovery round", "fednot.v1.DeletionService/Unlearn"),
        ("aggregation", "recovery round"),
        ("client works", "recovery round"),
        ("training", "client works"),
        ("upload", "client works"),
        ("fednot.v1.FederationService/UploadUpdate", "upload"),
        ("verification", "verifying"),
        ("release", "verifying"),
    } <= parents


def test_no_span_names_anybody(seen: Seen) -> None:
    said = {value for span in seen.collector.spans for value in span.attributes.values()}
    assert said
    assert not said & {*CLIENTS, "dora", "officer/dora", "r1", "nobody"}


def test_nothing_but_deletions_and_runs_begins_a_trace(seen: Seen) -> None:
    """Heartbeats and polls would drown them."""
    roots = {span.name for span in seen.collector.spans if not span.parent}
    assert roots == {"fednot unlearning.client", "fednot.v1.OperatorService/StartTraining"}
