"""The running sum in blocks: spilled it gives the same bits, and it refuses without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest_of, manifests
from support.manifests import random_flat as made

from fednot.codecs import NAMES, codec_of
from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest
from fednot.runs import PIECE_ELEMENTS
from fednot.tensors import empty, flatten, views
from server.aggregation import RunningAverage
from server.blocks import Block, Memory

PRECISIONS = (torch.float32, torch.float64)
LONG = 2 * PIECE_ELEMENTS + 3
"""Elements of a tensor that is three pieces long."""
MIXED = manifest_of(
    w=("F32", (LONG,)),
    steps=("I64", ()),
    mask=("BOOL", (5,)),
    half=("BF16", (LONG,)),
    double=("F64", (3,)),
    small=("I8", (9,)),
    bias=("F32", (1025,)),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _once(manifest: Manifest, seed: int) -> torch.Tensor:
    return made(manifest, seed)


def random_flat(manifest: Manifest, seed: int) -> torch.Tensor:
    return _once(manifest, seed).clone()


def copied(flat: torch.Tensor, memory: Memory) -> Block:
    block = memory.block(flat.numel())
    block.tensor.copy_(flat)
    return block


def averaged(
    manifest: Manifest, memory: Memory, precision: torch.dtype, codec: str = "none"
) -> torch.Tensor:
    """Three updates on a model, all of them in blocks of the memory."""
    average = RunningAverage(manifest, memory=memory, precision=precision)
    for seed, num_examples in enumerate((3, 1, 4)):
        payload = codec_of(codec).encode(random_flat(manifest, seed), manifest)
        average.add(copied(payload, memory), num_examples, codec_of(codec))
    return average.applied_to(copied(random_flat(manifest, 9), memory)).tensor


@settings(deadline=None)
@given(manifest=manifests(), precision=st.sampled_from(PRECISIONS))
def test_spilled_and_in_memory_any_model_gets_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, manifest: Manifest, precision: torch.dtype
) -> None:
    torch.set_num_threads(1)
    spilled = Memory(0, tmp_path_factory.getbasetemp() / "spill")
    found = averaged(manifest, spilled, precision)
    assert torch.equal(found, averaged(manifest, Memory(), precision))
    assert torch.equal(found, cleared(found, manifest))


def cleared(flat: torch.Tensor, manifest: Manifest) -> torch.Tensor:
    """The same tensors with padding of zeros."""
    return flatten(views(flat, manifest), manifest)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("budget", [0, 3 << 20])
def test_a_model_of_several_pieces_gets_the_same_bits(
    tmp_path: Path, codec: str, precision: torch.dtype, budget: int
) -> None:
    """With 3 MiB, some of the blocks are in memory and some are spilled."""
    memory = Memory(budget, tmp_path)
    found = averaged(MIXED, memory, precision, codec)
    assert torch.equal(found, averaged(MIXED, Memory(), precision, codec))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pieces_give_what_the_definition_says(precision: torch.dtype) -> None:
    """model + sum(n * u) / sum(n) in float64, to the rounding of what is summed and stored in."""
    found = views(averaged(MIXED, Memory(), precision), MIXED)
    updates = [views(random_flat(MIXED, seed), MIXED) for seed in range(3)]
    for name, before in views(random_flat(MIXED, 9), MIXED).items():
        weighted = zip(updates, (3, 1, 4), strict=True)
        mean = sum(update[name].double() * n for update, n in weighted) / 8
        if before.dtype is torch.bool:
            assert torch.equal(found[name], before)
        elif before.dtype.is_floating_point:
            expected = (before.double() + mean).to(before.dtype)
            torch.testing.assert_close(found[name], expected)
        else:
            assert torch.equal(found[name], before + mean.round().to(before.dtype)), name


def test_the_new_model_stands_where_the_float32_sums_stood() -> None:
    """F32, I64, F64 and bool: no item of the sums is larger than the model's."""
    manifest = manifest_of(w=("F32", (5,)), n=("I64", ()), d=("F64", (2,)), b=("BOOL", (3,)))
    memory = Memory()
    average = RunningAverage(manifest, memory=memory)
    average.add(random_flat(manifest, 1), 3)
    assert memory.in_use == manifest.nbytes
    kept = average.applied_to(random_flat(manifest, 2))
    assert memory.in_use == manifest.nbytes == kept.nbytes


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_wider_sums_are_free_once_the_mean_is_applied(dtype: str) -> None:
    manifest = manifest_of(w=(dtype, (64,)))
    memory = Memory()
    average = RunningAverage(manifest, memory=memory, precision=torch.float64)
    assert memory.in_use == 64 * 8
    average.add(random_flat(manifest, 1), 3)
    kept = average.applied_to(random_flat(manifest, 2))
    assert memory.in_use == manifest.nbytes == kept.nbytes


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["w", "half", "double", "bias"])
def test_a_refused_update_changes_no_bit(name: str, bad: float, precision: torch.dtype) -> None:
    """The last element of the tensor: all pieces before it are sound, and are not added either."""
    broken = random_flat(MIXED, 5)
    views(broken, MIXED)[name][-1] = bad
    average = RunningAverage(MIXED, precision=precision)
    average.add(random_flat(MIXED, 0), 3)
    with pytest.raises(FednotError, match=f"the update of {name} holds NaN or Inf") as refusal:
        average.add(broken, 2)
    assert refusal.value.reason is Reason.NOT_FINITE
    twin = RunningAverage(MIXED, precision=precision)
    twin.add(random_flat(MIXED, 0), 3)
    model = random_flat(MIXED, 9)
    assert torch.equal(average.applied_to(model).tensor, twin.applied_to(model).tensor)


def test_a_stream_that_is_no_payload_changes_no_bit() -> None:
    """The padding after `bias`, the last tensor, is only looked at when all else was read."""
    average = RunningAverage(MIXED)
    broken = random_flat(MIXED, 5)
    broken[-1] = 1
    with pytest.raises(FednotError) as refusal:
        average.add(broken, 2)
    assert refusal.value.reason is Reason.INVALID_STREAM
    average.add(random_flat(MIXED, 0), 3)
    twin = RunningAverage(MIXED)
    twin.add(random_flat(MIXED, 0), 3)
    model = random_flat(MIXED, 9)
    assert torch.equal(average.applied_to(model).tensor, twin.applied_to(model).tensor)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_finite_values_whose_sum_is_not_are_no_reason_to_refuse(dtype: str) -> None:
    manifest = manifest_of(w=(dtype, (100,)))
    update = empty(manifest)
    top = torch.finfo(manifest["w"].torch_dtype).max / 4
    views(update, manifest)["w"].fill_(top)
    average = RunningAverage(manifest, precision=torch.float64)
    average.add(update, 1)
    found = average.applied_to(empty(manifest)).tensor
    assert views(found, manifest)["w"].eq(views(update, manifest)["w"]).all()


def test_a_mean_that_makes_the_model_infinite_is_told_with_the_tensors_name() -> None:
    """60000 + 60000 is no float16."""
    manifest = manifest_of(a=("F16", (LONG,)), b=("F16", (3,)))
    update, model = empty(manifest), empty(manifest)
    views(update, manifest)["b"][1] = 60000
    views(model, manifest)["b"][1] = 60000
    average = RunningAverage(manifest)
    average.add(update, 1)
    with pytest.raises(FednotError, match="the mean of the updates makes b NaN or Inf") as told:
        average.applied_to(model)
    assert told.value.reason is Reason.NOT_FINITE


def test_a_float32_sum_beyond_float32_is_told_and_float64_holds_it() -> None:
    """3e38 of 2 examples: 6e38 is no float32, the mean is one."""
    manifest = manifest_of(w=("F32", (1,)))
    update = flatten({"w": torch.tensor([3e38])}, manifest)
    for precision, sound in zip(PRECISIONS, (False, True), strict=True):
        average = RunningAverage(manifest, precision=precision)
        average.add(update, 2)
        if sound:
            assert torch.equal(average.applied_to(empty(manifest)).tensor, update)
        else:
            with pytest.raises(FednotError, match="makes w NaN or Inf"):
                average.applied_to(empty(manifest))


def test_sums_of_another_precision_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not torch\.float16"):
        RunningAverage(MIXED, precision=torch.float16)


PEAK = """
import sys, threading, time, torch
from pathlib import Path
from fednot.manifest import Manifest
from fednot.tensors import empty
from server.aggregation import RunningAverage
from server.blocks import Memory, Trail
from server.state.stores.directory import DirectoryStore

torch.set_num_threads(1)
folder, megabytes, budget = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
manifest = Manifest.of(torch.nn.Linear(1 << 10, megabytes << 8, bias=False, device="meta"))
memory = Memory(budget << 20, folder / "spill")

def resident():
    rows = Path("/proc/self/status").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("RssAnon", "RssFile")))

def filled(value):
    block = memory.block(manifest.nbytes)
    trail, floats = Trail(block), block.tensor.view(torch.float32)
    for start in range(0, len(floats), 1 << 20):
        floats[start : start + (1 << 20)] = value
        trail.passed(4 << 20)
    trail.end()
    return block

def watch():
    while not done.wait(0.002):
        most.append(resident() - idle)

RunningAverage(manifest, memory=Memory(0, folder / "spill"))
done, most, idle = threading.Event(), [], resident()
watcher = threading.Thread(target=watch)
watcher.start()
average = RunningAverage(manifest, memory=memory)
for value in (1.0, 4.0):
    average.add(filled(value), 1)
model = average.applied_to(filled(0.5))
store = DirectoryStore(folder / "versions")
again = store.read(store.write(model, manifest, ""), manifest, memory)
done.set()
watcher.join()
floats = again.tensor.view(torch.float32)
assert float(floats[0]) == float(floats[-1]) == 3.0
assert model.spilled and again.spilled
print(max(most) >> 10)
"""


def test_a_model_of_three_budgets_is_aggregated_and_stored_within_the_budget(
    tmp_path: Path,
) -> None:
    """144 MB by 48 MB: two updates of 1 and 4 on a model of 0.5 make 3; all it holds is counted."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PEAK, str(tmp_path), "144", "48"]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=280)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) < 48
