"""A federation under attack: what must not change, how much memory may go, who must be served."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.federation import CALL, LocalFederation
from support.ports import free_port
from support.raw_client import RawClient

from fednot.identity.subject import Role
from fednot.v1 import (
    audit_pb2,
    deletion_pb2,
    federation_pb2,
    operator_pb2,
)

MEBIBYTE: Final = 1 << 20
MEMORY: Final = 64 * MEBIBYTE
"""What the server's peak may grow by under one attack."""
FORGOTTEN: Final = "forgotten"
FORGET: Final = "forget"
"""The client that was forgotten before the first attack, and the request that asked for it."""
AUDITOR: Final = (Role.AUDITOR, "anna")
MALLORY: Final = "mallory"
"""A client with a certificate that is right, and hostile."""
REQUESTS, DELETIONS, JOINS = 2400, 240, 60
"""What one identity may ask for in a minute; the last is the server's default."""
PAGE: Final = 1000
REFUSED: Final = "AUDIT_OUTCOME_REFUSED"
_OUTCOMES: Final = audit_pb2.AuditOutcome.Name


@dataclass(frozen=True)
class Standing:
    """What no attack may change; refusals in the audit may be added."""

    version: tuple[int, str, int]
    rounds: tuple[tuple[int, int], ...]
    versions: frozenset[int]
    deletions: tuple[tuple[str, str, int], ...]
    clients: tuple[tuple[str, str], ...]
    audit: tuple[tuple[int, str, str], ...]

    def with_refusals(self, later: Standing) -> tuple[list[str], Standing]:
        """What the audit has more of that is no refusal, and this with the later one's audit."""
        known = {entry[0] for entry in self.audit}
        more = [entry for entry in later.audit if entry[0] not in known]
        wrong = [f"{action}: {outcome}" for _, action, outcome in more if outcome != REFUSED]
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return wrong, Standing(**(values | {"audit": later.audit}))


@dataclass
class Latencies:
    """How long calls took that somebody with a right to an answer made meanwhile, in seconds."""

    taken: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.taken)

    @property
    def median(self) -> float:
        return sorted(self.taken)[len(self.taken) // 2]

    def __str__(self) -> str:
        if not self.taken:
            return "no call served"
        count = len(self.taken)
        return f"{count} calls served, median {self.median:.3f} s, worst {self.worst:.3f} s"


@dataclass
class OpenRound:
    """A round in flight, in which Mallory has work beside the two clients, who are held."""

    mallory: RawClient
    work: federation_pb2.TrainWork
    others: list[tuple[RawClient, federation_pb2.TrainWork]] = field(default_factory=list)


class Stage:
    """A server over mutual TLS with every listener that there is, and two honest clients."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.enrolment_port = free_port()
        self.data_port = free_port()
        self.notes: list[str] = []
        more = (
            *("--enrolment-address", f"127.0.0.1:{self.enrolment_port}"),
            *("--data-address", f"127.0.0.1:{self.data_port}"),
            *("--task-arg", "trace=no", "--heartbeat-interval", "5", "--destruction-wait", "1"),
            *("--requests-per-minute", str(REQUESTS), "--deletions-per-minute", str(DELETIONS)),
        )
        self.federation = LocalFederation(folder, server_flags=(*more, *flags))

    def begin(self) -> None:
        """Starts everybody, trains, and forgets a client, so that there is something to lose."""
        federation = self.federation
        federation.start_server()
        for index in range(2):
            federation.start_client(index, held=True)
        federation.release()
        federation.await_connected(2)
        federation.train(1)
        RawClient(federation, FORGOTTEN).leave()
        federation.unlearn(FORGOTTEN, FORGET, min_rounds=1, max_rounds=1)
        ended = federation.await_job(FORGET)
        assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, federation.log("server")

    @property
    def enrolment_address(self) -> str:
        return f"127.0.0.1:{self.enrolment_port}"

    @property
    def trust(self) -> bytes:
        return self.federation.identities.authority.trust_pem

    def identity(self, role: Role = Role.CLIENT, name: str = MALLORY) -> Path:
        return self.federation.identity_of(role, name)

    def note(self, text: str) -> None:
        """Notes something measured for the table that is printed in the end."""
        self.notes.append(text)

    def standing(self) -> Standing:
        federation = self.federation
        status = federation.status()
        listed = federation.deletions.ListDeletions(
            deletion_pb2.ListDeletionsRequest(page_size=PAGE), timeout=CALL
        ).deletions
        clients = federation.operator.ListClients(
            operator_pb2.ListClientsRequest(), timeout=CALL
        ).clients
        return Standing(
            version=(status.current.number, status.current.sha256, status.current.generation),
            rounds=tuple((row.number, row.outcome) for row in federation.rounds()),
            versions=frozenset(federation.versions()),
            deletions=tuple((each.request_id, each.job.id, each.job.phase) for each in listed),
            clients=tuple((each.name, each.barred_by) for each in clients),
            audit=tuple(
                (each.sequence, each.action, _OUTCOMES(each.outcome)) for each in self.audit()
            ),
        )

    def audit(self) -> list[Any]:
        stub = self.federation.stubs_for(*AUDITOR).audit
        request = audit_pb2.ListAuditEntriesRequest(page_size=PAGE)
        found = []
        while True:
            answer = stub.ListAuditEntries(request, timeout=CALL)
            found += answer.entries
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    @contextmanager
    def unmoved(self, memory: int = MEMORY) -> Iterator[None]:
        """Around an attack: afterwards the same process stands where it stood, and no fatter."""
        federation = self.federation
        before, pid = self.standing(), federation.pid("server")
        resident = begin_peak(pid)
        yield
        assert federation.runs("server"), federation.log("server")
        grown = max(0, peak(pid) - resident)
        self.note(f"the server's peak grew by {grown / MEBIBYTE:.1f} MiB")
        after = self.standing()
        assert federation.pid("server") == pid
        wrong, allowed = before.with_refusals(after)
        assert wrong == []
        assert after == allowed
        assert grown <= memory, f"{grown} bytes more at the peak"

    @contextmanager
    def open_round(self, *more: str) -> Iterator[OpenRound]:
        """A round that stays open, and ends well afterwards without Mallory and the others."""
        federation = self.federation
        federation.hold.touch()
        hostile = [RawClient(federation, name) for name in (MALLORY, *more)]
        try:
            federation.start_training(1)
            mallory, *others = [(client, client.train_work()) for client in hostile]
            yield OpenRound(*mallory, others)
        finally:
            for client in hostile:
                client.leave()
            federation.release()
            run = federation.await_run()
        assert run.rounds_done == 1, federation.log("server")

    def complete_round(self) -> None:
        """A round of the honest clients, from its start to its end."""
        run = self.federation.train(1)
        assert run.state == operator_pb2.RUN_STATE_COMPLETED, self.federation.log("server")
        assert run.rounds_done == 1

    @contextmanager
    def others_served(self, every: float = 0.05) -> Iterator[Latencies]:
        """Has somebody else ask for the status all the while, over a connection of before."""
        stub, found, stop = self.federation.operator, Latencies(), threading.Event()
        stub.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)

        def ask() -> None:
            while not stop.wait(every):
                start = time.monotonic()
                try:
                    stub.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
                    found.taken.append(time.monotonic() - start)
                except Exception as error:
                    found.failed.append(repr(error))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        try:
            yield found
        finally:
            stop.set()
            asking.join(CALL + 1)
        self.note(f"others meanwhile: {found}")


def begin_peak(pid: int) -> int:
    """Forgets the peak that a process had, and gives what it holds now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _field(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that a process has held since `begin_peak`, in bytes."""
    return _field(pid, "VmHWM")


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name} of process {pid}")
