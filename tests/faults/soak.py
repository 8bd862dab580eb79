"""`make soak`: training, deletions, kills and restarts, drawn from a seed, until the time is over.

After each step what is visible must be as it has to be (DESIGN.md, section 5); after each kill of
the server its state too. At the end everything is started and every job must complete. Half of the
time is for each database, if PostgreSQL is installed, or all of it for the one that is named.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from support.faults.mortal import KILLED, MortalFederation
from support.faults.scenarios import SCENARIOS, is_swept
from support.faults.soundness import assert_sound
from support.federation import CALL, ENDED
from support.postgres import Postgres, programs

from fednot.errors import FednotError, Reason
from fednot.rpc_errors import from_rpc_error
from fednot.v1 import deletion_pb2, operator_pb2
from server.failpoints import ARMED

CLIENTS = 5
ALWAYS = 2
"""So many clients are never asked to be forgotten, so that there is always somebody to train."""
ARMED_SHARE = 0.5
SIDES = ("before", "after")
PLACES = sorted(
    name for name, scene in SCENARIOS.items() if not scene.of_command and not scene.in_bucket
)
DATABASES = ("sqlite", "postgresql")
PLANS: tuple[dict[str, Any], ...] = (
    {"min_rounds": 1, "max_rounds": 2, "tolerance": 0.9},
    {"min_rounds": 1, "max_rounds": 2, "tolerance": 0.9},
    {"min_rounds": 1, "max_rounds": 3, "tolerance": 0.9, "method": "retrain"},
)
PATIENCE = 120.0
OVER = (*ENDED, deletion_pb2.JOB_PHASE_MERGED)


class SoakedFederation(MortalFederation):
    """Its server may die as often as it wants to, and is armed anew at about every other start."""

    def __init__(self, folder: Path, draw: random.Random, database: str) -> None:
        flags = ("--database", database) if database else ()
        super().__init__(folder, "", flags)
        self._draw = draw
        self.disarmed = False

    def arm(self) -> None:
        """Draws the next place to die at, or none."""
        armed = self._draw.random() < ARMED_SHARE and not self.disarmed
        side, name = self._draw.choice(SIDES), self._draw.choice(PLACES)
        place = f"{side} {name} @{self._draw.randint(1, 4)}"
        self.server_environment = {ARMED: place} if armed else {}

    def _note_death(self, code: int) -> None:
        assert code == KILLED, f"the server ended with {code}: {self.log('server')}"
        self.deaths.append(code)
        self.check_state(swept=False)
        self.arm()
        for stubs in self._stubs.values():
            stubs.channel.close()
        self._stubs.clear()

    def check_state(self, *, swept: bool) -> None:
        """Looks at the state, once there is one."""
        if self.sightings.versions:
            assert_sound(self, swept=swept)


class Soak:
    """The steps, and what must hold after each of them."""

    def __init__(self, federation: SoakedFederation, draw: random.Random) -> None:
        self.federation = federation
        self.draw = draw
        self.asked: dict[str, tuple[str, dict[str, Any]]] = {}
        self.barred: dict[str, int] = {}
        self.done: Counter[str] = Counter()
        self.steps: tuple[Callable[[], None], ...] = (
            *(self.train, self.delete, self.delete, self.repeat, self.cancel, self.readmit),
            *(self.kill_server, self.stop_server, self.kill_client, self.stop_client),
            *(self.start_clients, self.start_clients, self.rest, self.rest),
        )

    def names(self) -> list[str]:
        return [f"c{index}" for index in range(CLIENTS)]

    def tried(self, call: Callable[[], object], *refusals: Reason) -> FednotError | None:
        """Repeats a call until it is answered; gives the refusal, if it is one that may be."""
        try:
            self.federation.persist(call, PATIENCE)
        except grpc.RpcError as error:
            known = from_rpc_error(error)
            if known is None or known.reason not in refusals:
                raise
            return known
        return None

    def train(self) -> None:
        rounds = self.draw.randint(1, 3)
        self.tried(lambda: self.federation.start_training(rounds), Reason.TRAINING_ACTIVE)

    def delete(self) -> None:
        """Asks for somebody to be forgotten; requests of equal plans may share a job."""
        free = [name for name in self.names()[ALWAYS:] if name not in self.barred]
        if not free:
            return
        request = f"r{len(self.asked)}"
        name, plan = self.draw.choice(free), self.draw.choice(PLANS)
        self.tried(lambda: self.federation.unlearn(name, request, **plan))
        self.asked[request] = (name, plan)
        self.barred[name] = self.last_round()

    def repeat(self) -> None:
        """The same request again changes nothing, however it ended."""
        if self.asked:
            request, (name, plan) = self.draw.choice(sorted(self.asked.items()))
            before = dict(self.barred)
            self.tried(lambda: self.federation.unlearn(name, request, **plan))
            assert self.barred == before

    def cancel(self) -> None:
        if not self.asked:
            return
        request = self.draw.choice(sorted(self.asked))
        cancel = deletion_pb2.CancelDeletionRequest(request_id=request)
        self.tried(
            lambda: self.federation.deletions.CancelDeletion(cancel, timeout=CALL),
            Reason.NOT_CANCELLABLE,
        )
        found = self.federation.persist(lambda: self.federation.deletion(request))
        newest = [key for key, (name, _) in self.asked.items() if name == self.asked[request][0]]
        if found.job.phase == deletion_pb2.JOB_PHASE_CANCELLED and newest[-1] == request:
            self.barred.pop(self.asked[request][0], None)

    def readmit(self) -> None:
        if not self.barred:
            return
        name = self.draw.choice(sorted(self.barred))
        request = operator_pb2.ReadmitClientRequest(client=name)
        told = self.tried(
            lambda: self.federation.operator.ReadmitClient(request, timeout=CALL),
            *(Reason.DELETION_IN_PROGRESS, Reason.CLIENT_NOT_BARRED),
        )
        if told is None or told.reason is Reason.CLIENT_NOT_BARRED:
            del self.barred[name]

    def kill_server(self) -> None:
        """The next call starts it again."""
        self.federation.send("server", signal.SIGKILL)

    def stop_server(self) -> None:
        federation = self.federation
        federation.revive()
        code = federation.kill("server", signal.SIGTERM)
        assert code in (0, KILLED), f"the server ended with {code}"
        federation.check_state(swept=False)
        federation.arm()
        federation.launch_server()

    def kill_client(self) -> None:
        self.end_client(signal.SIGKILL)

    def stop_client(self) -> None:
        self.end_client(signal.SIGTERM)

    def end_client(self, how: signal.Signals) -> None:
        running = [name for name in self.names() if self.federation.runs(name)]
        if running:
            name = self.draw.choice(running)
            code = self.federation.kill(name, how)
            assert code in (0, -how), f"{name} ended with {code}"

    def start_clients(self) -> None:
        for index, name in enumerate(self.names()):
            if not self.federation.runs(name):
                self.federation.start_client(index)

    def rest(self) -> None:
        time.sleep(self.draw.uniform(0.2, 1.5))

    def last_round(self) -> int:
        rounds = self.federation.persist(self.federation.rounds, PATIENCE)
        return max((row.number for row in rounds), default=0)

    def check(self) -> None:
        """What anybody can see: nothing that was told is gone, and nobody barred takes part."""
        federation = self.federation
        federation.persist(lambda: federation.sightings.look(federation), PATIENCE)
        federation.persist(lambda: federation.sightings.assert_kept(federation), PATIENCE)
        clients = federation.persist(self.barred_clients, PATIENCE)
        assert clients == set(self.barred), f"barred are {clients}, and not {set(self.barred)}"
        for row in federation.persist(federation.rounds, PATIENCE):
            late = {name for name, since in self.barred.items() if row.number > since}
            assert not late & set(row.cohort), f"a barred client is in {row}"
        for version in federation.persist(federation.versions, PATIENCE).values():
            assert len(set(version.negated_tensors)) == len(version.negated_tensors), version
        status = federation.persist(federation.status, PATIENCE)
        assert not (status.HasField("released") and status.open_deletions), status

    def barred_clients(self) -> set[str]:
        request = operator_pb2.ListClientsRequest()
        found = self.federation.operator.ListClients(request, timeout=CALL).clients
        return {client.name for client in found if client.barred_by}

    def run(self, seconds: float) -> None:
        """Steps until the time is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            step = self.draw.choice(self.steps)
            self.done[step.__name__] += 1
            step()
            self.check()

    def settle(self) -> None:
        """Everything is started, and every job comes to its end."""
        federation = self.federation
        federation.disarmed, federation.server_environment = True, {}
        self.stop_server()
        self.start_clients()
        for request in self.asked:
            found = federation.await_that(
                f"{request} ends", lambda request=request: self.ended(request), PATIENCE
            )
            assert found.job.phase != deletion_pb2.JOB_PHASE_FAILED, found
        self.check()
        federation.run_ended()
        federation.await_that("every file is of a version", lambda: is_swept(federation))
        assert federation.kill("server", signal.SIGTERM) == 0
        federation.check_state(swept=True)

    def ended(self, request: str) -> deletion_pb2.Deletion | None:
        found = self.federation.deletion(request)
        return found if found.job.phase in OVER else None


def soak(seconds: float, seed: int, database: str) -> None:
    """Soaks a federation of its own. Raises AssertionError, and says how to replay it."""
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="fednot-soak-"))
    with url_of(database) as url, SoakedFederation(folder, draw, url) as federation:
        found = Soak(federation, draw)
        try:
            federation.begin()
            found.start_clients()
            federation.await_clients(*found.names())
            federation.run_through(1)
            found.run(seconds)
            found.settle()
        except BaseException:
            sys.stderr.write(f"seed {seed} failed after {dict(found.done)}; logs are in {folder}\n")
            replay = f"make soak SECONDS={seconds:g} SEED={seed} DATABASE={database}"
            sys.stderr.write(f"replay: {replay}\n")
            raise
        jobs, deaths = len(federation.sightings.jobs), len(federation.deaths)
        rounds = len(federation.sightings.rounds)
    print(
        f"{database}, seed {seed}: {sum(found.done.values())} steps, {rounds} rounds, "
        f"{jobs} requests, {deaths} deaths of the server: {dict(found.done)}",
        flush=True,
    )


@contextmanager
def url_of(database: str) -> Iterator[str]:
    """What `--database` takes; for PostgreSQL a new database in a server that ends with this."""
    if database == "sqlite":
        yield ""
        return
    postgres = Postgres()
    try:
        postgres.start()
        yield postgres.url(postgres.new_database())
    finally:
        postgres.remove()


def chosen(database: str) -> tuple[str, ...]:
    """The databases to soak: the named one, or all that are installed."""
    if database or programs() is not None:
        return (database,) if database else DATABASES
    print("no PostgreSQL is installed (apt-get install postgresql): SQLite only", flush=True)
    return DATABASES[:1]


def main() -> int:
    """Runs one seed from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=("", *DATABASES), default="", help="both if empty")
    given = parser.parse_args()
    databases = chosen(given.database)
    try:
        for database in databases:
            soak(given.seconds / len(databases), given.seed, database)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
