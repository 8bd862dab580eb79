"""What only the store of versions in S3 has to do, against a server that speaks it."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.manifests import manifest_of, random_flat
from support.s3 import BucketAsSeen, S3Server

from server import failpoints
from server.state import stores
from server.state.database import StateError
from server.state.model_store import ModelStore, name_of
from server.state.stores import open_store

MANIFEST = manifest_of(w=("F32", (5,)))
URL = "s3://{}/federation"


@pytest.fixture
def bucket(s3_variables: S3Server) -> BucketAsSeen:
    return s3_variables.new_bucket()


@pytest.fixture
def store(bucket: BucketAsSeen) -> ModelStore:
    return open_store(URL.format(bucket.name))


@pytest.fixture
def armed() -> Iterator[Any]:
    """Arms failpoints in this process, and lays them off at the end of the test."""
    yield lambda **variables: failpoints.enable(
        {f"FEDNOT_FAILPOINT{name}": value for name, value in variables.items()}
    )
    failpoints.enable({})


def written(store: ModelStore, *seeds: int) -> list[str]:
    return [store.write(random_flat(MANIFEST, seed), MANIFEST, "") for seed in seeds]


def versioning(bucket: BucketAsSeen, status: str) -> None:
    bucket.call("put_bucket_versioning", VersioningConfiguration={"Status": status})


def test_a_bucket_that_keeps_old_versions_is_refused(bucket: BucketAsSeen) -> None:
    versioning(bucket, "Enabled")
    with pytest.raises(StateError, match=r"keeps old versions of objects.*never had versioning"):
        open_store(URL.format(bucket.name))


def test_a_bucket_whose_versioning_was_suspended_must_hold_no_old_version(
    bucket: BucketAsSeen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another prefix is another's; from the suspension on, nothing is kept."""
    monkeypatch.setattr("server.state.stores.bucket.PAGE", 1)
    versioning(bucket, "Enabled")
    for key in ("federation/a", "federation/a", "else/a"):
        bucket.call("put_object", Key=key, Body=b"x")
    versioning(bucket, "Suspended")
    with pytest.raises(StateError, match="delete every old version under federation/"):
        open_store(URL.format(bucket.name))

    for row in bucket.call("list_object_versions", Prefix="federation/")["Versions"]:
        bucket.call("delete_object", Key=row["Key"], VersionId=row["VersionId"])
    store = open_store(URL.format(bucket.name))
    written(store, 1)
    assert store.delete_all_but(()) == 1
    assert "Versions" not in bucket.call("list_object_versions", Prefix="federation/")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/x", "there is no bucket s3://no-such-bucket: make it"),
        ("s3:///x", "is not s3://BUCKET/PREFIX"),
        ("s3://a b/x", "is not s3://BUCKET/PREFIX"),
    ],
)
@pytest.mark.usefixtures("s3_variables")
def test_a_place_that_is_none_is_told(url: str, said: str) -> None:
    with pytest.raises(StateError, match=said):
        open_store(url)


def test_without_s3fs_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_spec", lambda name: None)
    with pytest.raises(StateError, match=r"pip install 'fednot\[s3\]'"):
        open_store("s3://bucket/prefix")


@pytest.mark.parametrize(
    ("stalled", "wait", "longest", "said"),
    [
        (False, 60, 60, "Could not connect"),
        (True, 1, 60, "Read timeout"),
        (True, 60, 2, "no answer in 2 s"),
    ],
)
def test_a_server_that_does_not_answer_is_not_waited_for_without_bound(
    s3_variables: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    stalled: bool,
    wait: int,
    longest: float,
    said: str,
) -> None:
    """A port where nobody listens, and one where nobody answers."""
    monkeypatch.setattr("server.state.stores.bucket.READ_TIMEOUT", wait)
    monkeypatch.setattr("server.state.stores.bucket.LONGEST", longest)
    monkeypatch.setattr("server.state.stores.bucket.ATTEMPTS", 2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if stalled:
            listener.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(StateError, match=f"s3://bucket cannot be used: .*{said}"):
            open_store("s3://bucket/x")
    assert time.monotonic() - started < 20


def test_the_credentials_are_those_of_the_environment(
    bucket: BucketAsSeen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StateError, match="Unable to locate credentials"):
        open_store(URL.format(bucket.name))


def test_each_call_that_makes_something_last_has_a_name(
    bucket: BucketAsSeen, store: ModelStore, tmp_path: Path, armed: Any
) -> None:
    armed(_TRACE=str(tmp_path / "trace"))
    written(store, 1, 1)
    bucket.begin_upload(f"federation/{name_of('0' * 64)}")
    assert store.delete_all_but(()) == 2
    assert store.delete_all_but(()) == 0
    names = (
        "begin.version-upload",
        "complete.version-upload",
        "abort.version-upload",
        "delete.version-object",
    )
    expected = [f"{when} {name}" for name in names for when in ("before", "after")]
    assert (tmp_path / "trace").read_text().splitlines() == expected


@pytest.mark.parametrize("at", ["before complete", "after begin"])
def test_an_upload_that_fails_leaves_nothing(
    bucket: BucketAsSeen, store: ModelStore, armed: Any, at: str
) -> None:
    armed(**{"": f"{at}.version-upload =EIO"})
    with pytest.raises(OSError, match="Input/output error"):
        written(store, 1)
    assert bucket.names() == []
    if at == "before complete":
        assert bucket.uploads() == []
    armed()
    store.delete_all_but(())
    assert bucket.uploads() == []


def test_a_completion_whose_answer_was_lost_is_one(
    bucket: BucketAsSeen, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try is told that there is no such upload."""
    system = store._bucket._system
    real, calls = system.call_s3, []

    def twice(method: str, **arguments: Any) -> Any:
        calls.append(method)
        if method == "complete_multipart_upload":
            real(method, **arguments)
        return real(method, **arguments)

    monkeypatch.setattr(system, "call_s3", twice)
    [sha256] = written(store, 1)
    assert "complete_multipart_upload" in calls
    assert "abort_multipart_upload" not in calls
    store.verify(sha256)


def test_an_object_of_another_size_is_written_again(
    bucket: BucketAsSeen, store: ModelStore
) -> None:
    [sha256] = written(store, 1)
    bucket.call("put_object", Key=f"federation/{name_of(sha256)}", Body=b"cut")
    written(store, 1)
    store.verify(sha256)


def test_more_than_a_page_is_listed_to_the_end(
    bucket: BucketAsSeen, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.state.stores.bucket.PAGE", 2)
    hashes = written(store, *range(5))
    for number in range(5):
        bucket.begin_upload(f"federation/{name_of(f'{number:064x}')}")
    bucket.begin_upload(f"else/{name_of('0' * 64)}")
    assert store.hashes() == set(hashes)
    assert store.delete_all_but(hashes[:1]) == 9
    assert bucket.names() == [f"federation/{name_of(hashes[0])}"]
    assert bucket.uploads() == [f"else/{name_of('0' * 64)}"]


def test_nothing_is_listed_while_nothing_can_have_changed(
    bucket: BucketAsSeen, store: ModelStore
) -> None:
    """An object of somebody else shows when the store looked: not again for the same versions."""
    kept, other = written(store, 1, 2)
    key = f"federation/{name_of('0' * 64)}"
    looks = []
    for versions in ({kept, other}, {kept, other}, {kept}, {kept}):
        bucket.call("put_object", Key=key, Body=b"x")
        store.delete_all_but(versions)
        looks.append(key not in bucket.names())
    assert looks == [True, False, True, False]
    written(store, 3)
    assert store.delete_all_but({kept}) == 2


def test_what_cannot_be_deleted_is_told_after_all_else_was_and_tried_again(
    bucket: BucketAsSeen, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = sorted(written(store, 1, 2, 3))
    real, stubborn = store._bucket.delete, f"federation/{name_of(hashes[0])}"

    def delete(key: str) -> None:
        if key == stubborn:
            raise OSError(errno.EACCES, key)
        real(key)

    with monkeypatch.context() as patch:
        patch.setattr(store._bucket, "delete", delete)
        for _ in range(2):
            with pytest.raises(OSError, match=hashes[0]):
                store.delete_all_but(())
            assert bucket.names() == [stubborn]
    assert store.delete_all_but(()) == 1
    assert bucket.names() == []


PEAK = """
import sys, threading, torch
from pathlib import Path
from fednot.manifest import Manifest
from server import malloc
from server.blocks import Memory
from server.state.stores import open_store

malloc.tune()
torch.set_num_threads(1)
url, megabytes = sys.argv[1], int(sys.argv[2])
store = open_store(url)

def resident():
    rows = Path("/proc/self/status").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("RssAnon", "RssFile")))

def model_of(megabytes):
    manifest = Manifest.of(torch.nn.Linear(1 << 10, megabytes << 8, bias=False, device="meta"))
    block = Memory().block(manifest.nbytes)
    block.tensor.view(torch.float32)[:] = 1.0
    return manifest, block

def peak(work):
    def watch():
        while not done.wait(0.002):
            most.append(resident() - idle)
    done, most = threading.Event(), [0]
    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work()
    done.set()
    watcher.join()
    return result, max(most) >> 10

manifest, block = model_of(1)
store.read(store.write(block, manifest, ""), manifest)
idle = resident()
manifest, block = model_of(megabytes)
sha256, writing = peak(lambda: store.write(block, manifest, ""))
block.close()
again, reading = peak(lambda: store.read(sha256, manifest))
assert float(again.tensor.view(torch.float32)[-1]) == 1.0
again.close()
_, verifying = peak(lambda: store.verify(sha256))
print(writing - megabytes, reading - megabytes, verifying)
"""


def test_a_large_model_goes_there_and_back_in_little_memory(bucket: BucketAsSeen) -> None:
    """64 MB, and beside that 48: three parts of 8 MB each way, in two copies at most.

    A second copy of the model would be more. Seen: 31 MB, and 39 MB for a model of 256 MB.
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PEAK, URL.format(bucket.name), "64"]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert told.returncode == 0, told.stderr
    assert max(int(part) for part in told.stdout.split()) < 48
