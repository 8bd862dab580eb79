"""The order of the server's system calls: what a commit names is on the disk before it.

SIGKILL says nothing of that, since a killed process leaves the system's buffers behind; a power cut
does not. strace writes the calls down, and the trace of the failpoints, which the server writes as
well, says between which of them a transaction is committed.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from support.faults.system_calls import STRACE, Order, SystemCall, TracedFederation

from fednot.v1 import deletion_pb2

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(STRACE is None, reason="needs strace (apt-get install strace)"),
]
SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "writev", "pwritev")


@dataclass
class Traced:
    """What a server did for one round and one deletion."""

    order: Order
    versions: str
    hashes: dict[int, str]
    initial: str

    def place(self, name: str, after: int = 0) -> SystemCall:
        """When the server says that it is at a failpoint."""
        text = f'"{name}\\n"'
        return self.order.after(
            after, name, lambda call: call.name == "write" and text in call.given
        )


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    flags = ("--task-arg", "trace=no", "--min-clients", "1", "--destruction-wait", "0.5")
    with TracedFederation(tmp_path_factory.mktemp("traced"), server_flags=flags) as federation:
        federation.start_server()
        for index in range(2):
            federation.start_client(index)
        federation.await_connected(2)
        federation.train(1)
        federation.unlearn("c0", "forget-c0", min_rounds=1, tolerance=0.9)
        ended = federation.await_job("forget-c0")
        assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED
        assert len(ended.job.attempts) == 1
        hashes = {number: each.sha256 for number, each in federation.versions().items()}
        federation.kill("server", signal.SIGTERM)
        order, folder = Order(federation.calls()), str(federation.state / "versions")
        yield Traced(order, folder, hashes, hashes[1])


def is_wal(call: SystemCall) -> bool:
    return call.path.endswith("state.sqlite3-wal")


def on(path: str, *names: str) -> Callable[[SystemCall], bool]:
    return lambda call: call.name in names and call.path == path


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_version_is_on_the_disk_before_a_commit_names_it(traced: Traced, number: int) -> None:
    """Written, synced, renamed, its folder synced; then the log is written and synced.

    The versions are the initial one, one of training, the negated one and one of recovery.
    """
    sha256, order = traced.hashes[number], traced.order
    final = f"{traced.versions}/{sha256}.safetensors"
    renamed = order.after(0, "rename", on(final, "rename"))
    partial = renamed.given.split('"')[1]
    wrote = list(order.all(on(partial, *WRITES)))
    assert wrote, "the partial file is written"
    synced = order.after(wrote[-1].ends, "fsync of the file", on(partial, *SYNCS), renamed.begins)
    listed = order.after(renamed.ends, "fsync of the folder", on(traced.versions, *SYNCS))
    named = order.after(
        0, "commit that names it", lambda call: is_wal(call) and sha256 in call.given
    )
    assert wrote[-1].ends < synced.begins <= synced.ends < renamed.begins
    assert renamed.ends < listed.begins
    assert listed.ends < named.begins, f"{listed} ends behind {named}"
    order.after(named.ends, "sync of the log", lambda call: is_wal(call) and call.name in SYNCS)


def test_a_commit_is_on_the_disk_when_it_is_over(traced: Traced) -> None:
    """Each transaction of the deletion: the log is written and synced between its two places."""
    for name in ("deletion-accepted", "attempt-begun", "round-completed", "job-completed"):
        begins = traced.place(f"before commit.{name}")
        ends = traced.place(f"after commit.{name}", begins.ends)
        wrote = traced.order.after(
            begins.ends,
            f"write of {name}",
            lambda call: is_wal(call) and call.name in WRITES,
            ends.begins,
        )
        traced.order.after(
            wrote.ends,
            f"sync of {name}",
            lambda call: is_wal(call) and call.name in SYNCS,
            ends.begins,
        )


def test_nothing_is_destroyed_before_the_commit_that_says_so(traced: Traced) -> None:
    """Marked, removed, its folder synced, and only then is the job completed."""
    marked = traced.place("after commit.versions-destroyed")
    completed = traced.place("before commit.job-completed")
    for number in (2, 3):
        path = f"{traced.versions}/{traced.hashes[number]}.safetensors"
        gone = traced.order.after(0, "unlink", on(path, "unlink"))
        assert marked.ends < gone.begins
        traced.order.after(
            gone.ends, "fsync of the folder", on(traced.versions, *SYNCS), completed.begins
        )
    kept = f"{traced.versions}/{traced.initial}.safetensors"
    assert list(traced.order.all(on(kept, "unlink"))) == [], "the initial version holds no data"


def test_a_wrong_order_is_seen() -> None:
    rename = SystemCall("rename", 1, '"/v/a.partial", "/v/a.safetensors") = 0', 1)
    sync = SystemCall("fsync", 2, "7</v>) = 0", 2)
    order = Order([rename, sync])
    assert order.after(rename.ends, "fsync", on("/v", "fsync")) is sync
    with pytest.raises(AssertionError, match="no fsync between the lines 2 and"):
        order.after(sync.ends, "fsync", on("/v", "fsync"))
    with pytest.raises(AssertionError, match="no rename"):
        order.after(sync.ends, "rename", on("/v/a.safetensors", "rename"))
