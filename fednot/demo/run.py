"""The demonstration: train, delete a client over RPC, and compare three ways to forget it.

A real server and real clients on loopback, over mutual TLS with throwaway certificates. An operator
trains. Then the server's state is copied, and an officer asks for each method through the same RPC,
on a copy of its own; the clients stay up throughout and reconnect to the restarted server.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fednot.cli import progress, views
from fednot.cli.deletion_following import follow_deletion
from fednot.cli.failures import CliError
from fednot.cli.output import Format, Output
from fednot.cli.run_following import RUN_ENDS, follow_run
from fednot.cli.session import Session
from fednot.cli.waiting import Patience
from fednot.demo import report
from fednot.demo.digits import DigitsTask
from fednot.demo.identities import HOST, Identities
from fednot.demo.outcome import Course, Outcome, Point, verdicts_of
from fednot.demo.processes import Process, ProcessError, free_port, start_client, start_server
from fednot.identity.subject import Role
from fednot.receipt import page_of, verified
from fednot.v1 import deletion_pb2, operator_pb2, receipt_pb2

LABELS: Final = {"not": "NoT", "fine-tune": "fine-tuning", "retrain": "retraining"}
RECEIPT: Final = "receipt.jws"
KEY: Final = "receipt-key.pem"
PAGE: Final = "receipt.html"
PATIENCE: Final = 600.0
START_SECONDS: Final = 120.0


def run_demo(
    *,
    seed: int,
    rounds: int,
    clients: int,
    assurance: str,
    out: Path,
    secure_aggregation: bool = False,
) -> int:
    """Runs the demonstration and writes its results into a folder; returns an exit code.

    `assurance` is "behaviour" or "deep" and is asked for with the deletion by NoT. With
    `secure_aggregation` clients mask their updates in every round.
    """
    begun = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fednot-demo-") as folder, ExitStack() as stack:
        stage = _Stage(seed, clients, Path(folder), out, stack, masked=secure_aggregation)
        try:
            original = stage.train(rounds)
            courses = {
                method: stage.forget(method, rounds, assurance if method == "not" else "behaviour")
                for method in LABELS
            }
        except ProcessError as error:
            stage.output.note(f"error: {error}")
            return 1
    target = courses["not"][1]
    outcome = Outcome(
        seed=seed,
        clients=clients,
        assurance=assurance,
        secure_aggregation=secure_aggregation,
        target=target,
        original=original,
        unlearned=courses["not"][0],
        fine_tuned=courses["fine-tune"][0],
        retrained=courses["retrain"][0],
        receipt=str(out / RECEIPT),
        page=str(out / PAGE),
        seconds=round(time.monotonic() - begun, 1),
    )
    summary, plot = report.write(outcome, out)
    stage.output.show(report.table(outcome))
    stage.output.line(report.meaning(outcome))
    stage.output.line(f"{outcome.receipt} is the signed receipt of it, {outcome.page} its page")
    stage.output.line(f"{summary} and {plot} hold the whole course; it took {outcome.seconds} s")
    return 0


@dataclass(frozen=True)
class _Callers:
    operator: Session
    officer: Session


class _Stage:
    """The processes, and what is asked of them."""

    def __init__(
        self, seed: int, clients: int, folder: Path, out: Path, stack: ExitStack, *, masked: bool
    ) -> None:
        self._masked = masked
        self.output = Output(Format.TABLE)
        self._seed = seed
        self._names = [f"client-{index}" for index in range(clients)]
        self._folder, self._out = folder, out
        self._address = f"{HOST}:{free_port()}"
        self._identities = Identities(folder / "authority")
        self._task = [f"clients={clients}", f"seed={seed}"]
        self._probes = folder / "probes"
        self._probes.mkdir()
        DigitsTask(seed=str(seed)).write_probe(self._probes / f"client-{self._names[0]}.npz")
        self._clients: list[Process] = []
        for index, name in enumerate(self._names):
            client = start_client(
                self._address,
                self._identities.client(name),
                folder / name,
                out / f"{name}.log",
                [*self._task, f"client={index}"],
            )
            stack.callback(client.stop)
            self._clients.append(client)

    def train(self, rounds: int) -> Course:
        """Trains the federation, backdoored client included."""
        with self._serving("trained") as callers:
            session = callers.operator
            masked = " on masked updates" if self._masked else ""
            self.output.line(f"{len(self._names)} clients train{masked}; client-0 is backdoored")
            request = operator_pb2.StartTrainingRequest(rounds=rounds)
            request.policy.min_clients = len(self._names)
            run = session.call(session.operator.StartTraining, request).run
            state = run.state
            with views.opened(self.output) as view:
                for update in follow_run(session, run, Patience(PATIENCE, "training"), view.tell):
                    view.show(progress.of_run(update))
                    state = update.run.state
            if RUN_ENDS.get(state) != 0:
                raise ProcessError(f"training failed; see {self._out / 'server-trained.log'}")
            found = session.call(
                session.operator.ListRounds, operator_pb2.ListRoundsRequest(page_size=1000)
            ).rounds
        ended = [row for row in reversed(found) if row.result_version]
        curve = tuple(Point.of(index, row.metrics) for index, row in enumerate(ended, 1))
        return Course("before the deletion", curve, len(curve))

    def forget(self, method: str, rounds: int, assurance: str) -> tuple[Course, float]:
        """Deletes client-0 by a method, from the trained state; also gives the target accuracy."""
        shutil.copytree(self._folder / "trained", self._folder / method)
        with self._serving(method) as callers:
            session = callers.officer
            self.output.line(f"client-0 is deleted by {LABELS[method]}")
            request = deletion_pb2.UnlearnRequest(
                request_id=f"demo-{method}",
                scope=deletion_pb2.Scope(client=self._names[0]),
                method=method,
                assurance=deletion_pb2.Assurance.Value(f"ASSURANCE_{assurance.upper()}"),
                recovery=deletion_pb2.RecoveryPolicy(
                    max_rounds=rounds, full_budget=True, min_clients=len(self._names) - 1
                ),
            )
            deletion = session.call(session.deletions.Unlearn, request).deletion
            watch = deletion_pb2.WatchDeletionRequest(request_id=deletion.request_id)
            with views.opened(self.output) as view:
                patience = Patience(PATIENCE, f"the deletion by {method}")
                for response in follow_deletion(session, watch, patience, view.tell):
                    view.show(progress.of_deletion(response))
                    deletion = response.deletion
            if deletion.job.phase != deletion_pb2.JOB_PHASE_COMPLETED:
                raise ProcessError(f"the deletion by {method} failed: {deletion.job.failure}")
            if method == "not":
                self._write_receipt(session, deletion.job.id)
        attempt = deletion.job.attempts[deletion.job.chosen_attempt - 1]
        if attempt.method != method or attempt.number > 1:
            self.output.note(f"{LABELS[method]}, attempt {attempt.number}: {attempt.explanation}")
        curve = tuple(Point.of(index, row.metrics) for index, row in enumerate(attempt.rounds, 1))
        climbed = attempt.method if attempt.method != method else ""
        course = Course(
            f"{LABELS[method]}, deep" if climbed else LABELS[method],
            curve,
            attempt.stopped_at,
            verdicts_of(attempt.verification),
            tuple(attempt.tensors),
            climbed,
        )
        return course, deletion.job.target_accuracy

    def _write_receipt(self, session: Session, job_id: str) -> None:
        request = receipt_pb2.GetReceiptRequest(job_id=job_id)
        given = session.call(session.receipts.GetReceipt, request)
        (self._out / RECEIPT).write_text(given.jws + "\n", encoding="utf-8")
        (self._out / KEY).write_text(given.key.pem, encoding="utf-8")
        payload = verified(given.jws, given.key.pem)
        (self._out / PAGE).write_text(page_of(payload), encoding="utf-8")

    @contextmanager
    def _serving(self, name: str) -> Iterator[_Callers]:
        log = self._out / f"server-{name}.log"
        state = self._folder / name
        identity = self._identities.server
        server = start_server(
            self._address, identity, state, log, self._probes, self._task, masked=self._masked
        )
        try:
            with closing(self._call_as(Role.OPERATOR)) as operator:
                self._await_clients(operator, server)
                with closing(self._call_as(Role.OFFICER)) as officer:
                    yield _Callers(operator, officer)
        finally:
            server.stop()

    def _call_as(self, role: Role) -> Session:
        credentials = self._identities.credentials(role)
        return Session(self._address, timeout=30.0, output=self.output, credentials=credentials)

    def _await_clients(self, session: Session, server: Process) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            for process in (server, *self._clients):
                process.check()
            try:
                status = session.call(session.operator.GetStatus, operator_pb2.GetStatusRequest())
            except CliError as error:
                if not error.lost:
                    raise
            else:
                if status.clients_connected == len(self._names):
                    return
            time.sleep(0.2)
        raise ProcessError(
            f"not all of {len(self._names)} clients joined within {START_SECONDS:g} s; "
            f"see the logs in {self._out}"
        )
