"""How long a deletion is waited for when many ask at once, several of them for the same one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from grpc import aio

from benchmarks.contest import Work
from benchmarks.models import manifest_of_bytes
from benchmarks.round import Federation
from fednot.channel import open_aio_channel
from fednot.manifest import Manifest
from fednot.v1 import deletion_pb2, deletion_pb2_grpc, federation_pb2, federation_pb2_grpc
from fednot.wire import manifest_message

REQUESTS: Final = 1000
CONNECTIONS: Final = 16
IDS: Final = 200
"""Each request id is asked for five times, from different connections."""
ANSWER_SECONDS: Final = 60.0


@dataclass
class Answers:
    """The jobs that each request id was told of, and the seconds that each answer took."""

    jobs: dict[str, set[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def milliseconds(self, share: float) -> float:
        """What so large a share of the answers took at the most."""
        found = sorted(self.seconds)
        return 1000 * found[int(share * (len(found) - 1))]


async def join(address: str, manifest: Manifest, count: int) -> None:
    """Has so many clients join over plaintext, so that they can be asked to be forgotten."""
    async with open_aio_channel(address, None) as channel:
        stub = federation_pb2_grpc.FederationServiceStub(channel)
        for index in range(count):
            request = federation_pb2.JoinRequest(
                client=client_name(index),
                manifest=manifest_message(manifest),
                num_train_examples=1,
            )
            await stub.Join(request, timeout=ANSWER_SECONDS)


async def load(
    address: str, *, requests: int = REQUESTS, connections: int = CONNECTIONS, ids: int = IDS
) -> Answers:
    """Asks for deletions over so many connections at once, and keeps every answer."""
    answers = Answers()
    asks = [deletion_of(number % ids) for number in range(requests)]
    channels = [open_aio_channel(address, None) for _ in range(connections)]
    try:
        work = [
            _ask(channel, asks[first::connections], answers)
            for first, channel in enumerate(channels)
        ]
        await asyncio.gather(*work)
    finally:
        for channel in channels:
            await channel.close()
    return answers


async def _ask(
    channel: aio.Channel, asks: list[deletion_pb2.UnlearnRequest], answers: Answers
) -> None:
    stub = deletion_pb2_grpc.DeletionServiceStub(channel)
    for ask in asks:
        begun = time.perf_counter()
        answer = await stub.Unlearn(ask, timeout=ANSWER_SECONDS)
        answers.seconds.append(time.perf_counter() - begun)
        answers.jobs.setdefault(ask.request_id, set()).add(answer.deletion.job.id)


def deletion_of(index: int) -> deletion_pb2.UnlearnRequest:
    """A request by its own id; each has a plan of its own, so that no two are served by one job."""
    return deletion_pb2.UnlearnRequest(
        request_id=f"load-{index}",
        scope=deletion_pb2.Scope(client=client_name(index)),
        recovery=deletion_pb2.RecoveryPolicy(min_rounds=1, max_rounds=2 + index),
    )


def client_name(index: int) -> str:
    """The name of a client that is asked to be forgotten."""
    return f"load-{index}"


def figures() -> Iterator[str]:
    """Milliseconds that answers took. Raises BenchmarkError."""
    with Federation(Work(1, 0.001), joining=0) as federation:
        asyncio.run(join(federation.address, manifest_of_bytes(federation.work.nbytes), IDS))
        begun = time.perf_counter()
        answers = asyncio.run(load(federation.address))
        seconds = time.perf_counter() - begun
    yield (
        f"deletion_load: {REQUESTS} requests of {IDS} ids over {CONNECTIONS} connections: "
        f"p50 {answers.milliseconds(0.5):.1f} ms, p99 {answers.milliseconds(0.99):.1f} ms, "
        f"{REQUESTS / seconds:.0f} a second"
    )
    jobs = sum(len(found) for found in answers.jobs.values())
    yield f"deletion_load: {jobs} jobs for {len(answers.jobs)} ids"


if __name__ == "__main__":
    for line in figures():
        print(line)
