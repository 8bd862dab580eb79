"""The client under torchrun: rank 0 is the client, every other rank trains as it is told."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Final

import torch

from client.device import DeviceError, choose
from client.settings import PROGRAM, ClientSettings
from fednot.distributed import Led, RankLostError, Ranks, follow, world_size
from fednot.flower import FlowerTask
from fednot.loop import Script
from fednot.settings import USAGE_ERROR
from fednot.task import SampleDataset, Task
from fednot.task_loading import TaskLoadError, calling, load_task

FAILED: Final = 1
REPORT_SECONDS: Final = 2.0
SCRIPT_SECONDS: Final = 5.0

_log = logging.getLogger("client")
lost: Final = threading.Event()
"""Set once the ranks are out of step: the client ends with FAILED, for torchrun to start anew."""


def shared(task: Task, train_data: SampleDataset, device: torch.device) -> Task:
    """A Task that trains on every rank that torchrun started; the Task itself without torchrun.

    Raises RankLostError if the ranks do not come together, and TaskLoadError for a Task that
    cannot be shared out, or whose samples share ids.
    """
    if world_size() == 1:
        return task
    _check_shareable(task)
    if len({train_data.sample_id(i) for i in range(len(train_data))}) < len(train_data):
        raise TaskLoadError("two training samples have the same id; each needs its own")
    return Led(task, Ranks.joined(device), train_data, _end_soon)


def device_of_rank(name: str) -> str:
    """The device of this rank: of several GPUs each rank has its own."""
    local = os.environ.get("LOCAL_RANK", "")
    several = world_size() > 1 and torch.cuda.is_available()
    return f"cuda:{local}" if several and local and name in ("auto", "cuda") else name


def followed(settings: ClientSettings) -> int:
    """Trains with rank 0 until that ends; gives the exit code."""
    torch.set_num_threads(settings.torch_threads)
    try:
        device = choose(device_of_rank(settings.device))
        with calling(settings.task):
            task = load_task(settings.task, settings.task_arg)
        _check_shareable(task)
        ranks = Ranks.joined(device)
    except (TaskLoadError, DeviceError, RankLostError) as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return USAGE_ERROR
    _log.info("rank %d of %d follows rank 0 on %s", ranks.rank, ranks.size, device)
    try:
        follow(task, ranks)
    except RankLostError as error:
        _log.error("%s", error)
        return FAILED
    return 0


def dismiss(task: Task) -> None:
    """Ends what trains beside this thread: the ranks that follow, or a script's loop."""
    if isinstance(task, Led):
        task.dismiss()
    if isinstance(task, Script) and not task.end(SCRIPT_SECONDS):
        _log.warning("the script did not come to its end in %g s", SCRIPT_SECONDS)


def _check_shareable(task: Task) -> None:
    if isinstance(task, Script | FlowerTask):
        raise TaskLoadError("a script or a Flower client trains in one process, without torchrun")


def _end_soon() -> None:
    """Ends the client once it had time to report that the work failed."""
    lost.set()
    timer = threading.Timer(REPORT_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
