"""Blocks: the budget decides where they lie, spilled ones give pages back and leave no file."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fednot.pages import HUGE_PAGE
from server.blocks import TRAIL, Block, Memory, Trail

PAGE = mmap.PAGESIZE
SIZES = (0, 1, PAGE - 1, PAGE, 3 * PAGE + 5, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spill"


def resident(block: Block) -> int:
    """Bytes of a block's mapping that this process has in memory, by /proc/self/smaps."""
    address, found = block.tensor.data_ptr(), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(" ", 1)[0]
        if not head.endswith(":"):
            low, high = (int(end, 16) for end in head.split("-"))
            found = low <= address < high
        elif found and head == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("the block is mapped nowhere")


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("budget", [None, 0])
def test_a_new_block_is_zero_and_can_be_written(
    folder: Path, nbytes: int, budget: int | None
) -> None:
    block = Memory(budget, folder).block(nbytes)
    assert block.tensor.dtype is torch.uint8
    assert block.tensor.shape == (nbytes,)
    assert block.nbytes == nbytes
    assert not block.tensor.any()
    block.tensor.fill_(7)
    assert int(block.tensor.sum(dtype=torch.int64)) == 7 * nbytes


def test_blocks_are_in_memory_until_the_budget_is_spent(folder: Path) -> None:
    """A budget of 100: 60 fits, 41 more do not, 40 more do, and then not even 1; 0 always does."""
    memory = Memory(100, folder)
    made = [memory.block(nbytes) for nbytes in (60, 41, 40, 1, 0)]
    assert [block.spilled for block in made] == [False, True, False, True, False]
    assert memory.in_use == 100


def test_a_closed_blocks_share_comes_back_once(folder: Path) -> None:
    memory = Memory(100, folder)
    first, second = memory.block(60), memory.block(40)
    first.close()
    first.close()
    assert memory.in_use == 40
    assert not memory.block(60).spilled
    assert second.tensor.shape == (40,)


def test_a_forgotten_blocks_share_comes_back(folder: Path) -> None:
    memory = Memory(100, folder)
    memory.block(100)
    assert memory.in_use == 0


def test_a_share_stays_taken_while_a_view_reads_on(folder: Path) -> None:
    """The memory is not free either: a download of the version before may still need it."""
    memory = Memory(100, folder)
    block = memory.block(80)
    block.tensor.fill_(3)
    view = block.tensor[8:16].view(torch.float32)
    block.close()
    assert memory.in_use == 80
    assert view.view(torch.uint8).tolist() == [3] * 8
    del view
    assert memory.in_use == 0


def test_a_spilled_block_outlives_its_closing_in_a_view(folder: Path) -> None:
    block = Memory(0, folder).block(3 * PAGE)
    view = block.tensor[PAGE:]
    view.fill_(5)
    block.close()
    assert view.tolist() == [5] * (2 * PAGE)


def test_spilled_blocks_take_no_share(folder: Path) -> None:
    memory = Memory(100, folder)
    kept = memory.spilled_block(100)
    assert kept.spilled
    assert memory.in_use == 0


def test_a_closed_block_says_so(folder: Path) -> None:
    block = Memory(None, folder).block(8)
    block.close()
    with pytest.raises(ValueError, match="the block is closed"):
        _ = block.tensor
    block.release()


def test_spill_files_have_no_name_and_their_folder_is_private(folder: Path) -> None:
    """What a crash leaves of an update that a client asked to forget would be its data."""
    block = Memory(0, folder).block(PAGE)
    block.tensor.fill_(1)
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode & 0o777 == 0o700


def test_releasing_gives_pages_back_and_loses_nothing(folder: Path) -> None:
    block = Memory(0, folder).block(8 * PAGE + 100)
    block.tensor.copy_(torch.arange(block.nbytes) % 251)
    before = block.tensor.clone()
    assert resident(block) >= block.nbytes
    block.release()
    assert resident(block) == 0
    assert torch.equal(block.tensor, before)


def test_a_range_is_released_by_whole_pages_inside_it(folder: Path) -> None:
    """Bytes 1 to 4 pages - 1: pages 1 and 2 go; what a neighbour may use, 0 and 3, stays."""
    block = Memory(0, folder).block(8 * PAGE)
    block.tensor.fill_(1)
    full = resident(block)
    block.release(1, 4 * PAGE - 1)
    assert full - resident(block) == 2 * PAGE
    block.release(2 * PAGE + 1, 3 * PAGE - 1)
    assert full - resident(block) == 2 * PAGE


def test_pages_are_made_resident_before_they_are_written(folder: Path) -> None:
    """Bytes 1 to 2 pages + 1 lie in three pages; the fourth stays out."""
    block = Memory(0, folder).block(4 * PAGE)
    block.release()
    block.prefault(1, 2 * PAGE + 1)
    assert resident(block) == 3 * PAGE
    block.prefault(3 * PAGE, 3 * PAGE)
    assert resident(block) == 3 * PAGE
    assert not block.tensor.any()


def test_prefaulting_is_only_a_gain_where_the_kernel_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Memory(0, folder).block(PAGE)
    monkeypatch.setattr("server.blocks._POPULATE_WRITE", 12345)
    block.prefault(0, PAGE)
    block.tensor.fill_(1)
    Block.of(torch.zeros(8, dtype=torch.uint8)).prefault(0, 8)


def test_releasing_memory_does_nothing(folder: Path) -> None:
    for block in (Memory(None, folder).block(4 * PAGE), Block.of(torch.zeros(8).byte())):
        block.tensor.fill_(9)
        block.release()
        assert block.tensor.eq(9).all()


def test_a_trail_gives_back_what_was_passed(folder: Path) -> None:
    """Two pieces of half of TRAIL: nothing is given back after the first, all after the second."""
    block = Memory(0, folder).block(2 * PAGE)
    trail = Trail(block, Block.of(torch.zeros(8, dtype=torch.uint8)))
    for left in (2 * PAGE, 0):
        block.tensor.fill_(1)
        trail.passed(TRAIL // 2)
        assert resident(block) == left
    block.tensor.fill_(1)
    trail.end()
    assert resident(block) == 0


def test_memory_without_a_folder_spills_into_the_systems() -> None:
    block = Memory(0).block(PAGE)
    block.tensor.fill_(1)
    assert block.spilled


@settings(deadline=None)
@given(data=st.data(), size=st.integers(0, 5 * PAGE))
def test_no_release_changes_a_byte(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    block = Memory(0, tmp_path_factory.getbasetemp() / "spill").block(size)
    block.tensor.copy_(torch.arange(size) % 251)
    before = block.tensor.clone()
    for _ in range(3):
        start = data.draw(st.integers(0, size))
        block.release(start, data.draw(st.integers(start, size)))
    assert torch.equal(block.tensor, before)


def test_a_full_disk_is_an_error_when_the_block_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(10, folder)
    open_before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        memory.block(11)
    with pytest.raises(OSError, match="No space left"):
        memory.spill_file(11)
    assert memory.in_use == 0
    assert set(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
    assert not memory.block(10).spilled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_spill_file_gives_what_was_written(folder: Path, dtype: torch.dtype) -> None:
    """All else is zeros; nothing of it has a name, and no byte is read beyond its end."""
    file = Memory(None, folder).spill_file(1000)
    values = torch.arange(20).to(dtype)
    file.write(400, values)
    found = torch.ones(20, dtype=dtype)
    file.read(400, found)
    assert torch.equal(found, values)
    file.read(0, found)
    assert not found.any()
    with pytest.raises(OSError, match="ends before byte 1000"):
        file.read(1000 - 8, torch.empty(2, dtype=torch.int64))
    assert list(folder.iterdir()) == []
    assert Memory(None, folder).spill_file(0).nbytes == 0
    file.close()
    file.close()


def test_a_spill_files_space_is_taken_at_once(folder: Path) -> None:
    """A sparse file would be a SIGBUS in the middle of an upload when the disk fills up."""
    block = Memory(0, folder).block(8 << 20)
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    [file] = [link for link in links if str(link.readlink()).startswith(str(folder))]
    assert file.stat().st_blocks * 512 >= 8 << 20
    block.close()
    assert not file.is_symlink()


def test_an_existing_tensor_is_wrapped_without_a_copy() -> None:
    tensor = torch.zeros(16, dtype=torch.uint8)
    block = Block.of(tensor)
    assert block.tensor.data_ptr() == tensor.data_ptr()
    assert not block.spilled
    for wrong in (torch.zeros(4), tensor.view(4, 4), tensor[::2]):
        with pytest.raises(ValueError, match="a block is a run of uint8"):
            Block.of(wrong)


def test_threads_share_one_budget(folder: Path) -> None:
    """8 threads of 200 blocks: never more than the budget, and nothing taken at the end."""
    memory = Memory(10 * PAGE, folder)
    most: list[int] = []

    def take_and_give() -> None:
        for turn in range(200):
            block = memory.block((1 + turn % 4) * PAGE)
            most.append(memory.in_use)
            block.close()

    threads = [threading.Thread(target=take_and_give) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(most) <= 10 * PAGE
    assert memory.in_use == 0
