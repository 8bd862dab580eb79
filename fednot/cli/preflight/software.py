"""Whether this machine can run fednot and a Task: Python, torch, device, the Task itself."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from fednot.cli.failures import local
from fednot.cli.preflight.check import Check, Outcome, Step, ok

LEAST_PYTHON: Final = (3, 11)
LEAST_TORCH: Final = (2, 6)
_DRIVER: Final = Path("/proc/driver/nvidia/gpus")
_DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


def steps(device: str, task: str, arguments: Sequence[str], *, trains: bool) -> Iterator[Step]:
    """The checks; `device` and `task` may be "", and with `trains` the Task's data is asked for."""
    yield "python", python, ()
    yield "torch", torch_itself, ()
    if device:
        yield "device", lambda: device_is_there(device), ("torch",)
    if task:
        yield "task", lambda: task_loads(task, arguments, trains=trains), ("torch",)


def python(version: Sequence[int] = sys.version_info[:3]) -> Check:
    """Raises CliError (LOCAL) for a Python that is too old, or one of 32 bits."""
    shown = ".".join(str(part) for part in version)
    if tuple(version[:2]) < LEAST_PYTHON:
        raise local(
            f"this is Python {shown} ({sys.executable}), and fednot needs 3.11 or newer",
            "Install a newer Python and make the environment anew with it: python3.11 -m venv.",
        )
    if sys.maxsize < 2**32:
        raise local(f"{sys.executable} is of 32 bits", "Install a Python of 64 bits.")
    return ok("python", f"{platform.python_implementation()} {shown}, {sys.executable}")


def torch_itself() -> Check:
    """Raises CliError (LOCAL) if torch is not there, is broken, or is too old."""
    try:
        import torch  # noqa: F401

        found = metadata.version("torch")
    except ModuleNotFoundError as error:
        raise local(
            f"torch cannot be imported: {error}",
            f"Install it into the environment of {sys.executable}: pip install torch "
            "(docs/deployment.md tells of the index for the CPU alone).",
        ) from error
    except Exception as error:  # a library that is missing raises whatever it likes
        raise local(
            f"torch is installed and cannot be imported: {error} ({type(error).__name__})",
            "Install it again: pip install --force-reinstall torch.",
        ) from error
    if _numbers(found) < LEAST_TORCH:
        raise local(f"torch is {found}, and fednot needs 2.6 or newer", "pip install 'torch>=2.6'")
    return ok("torch", f"torch {found}")


def device_is_there(device: str) -> Check:
    """Raises CliError (LOCAL) for a device that this machine does not have."""
    if not _DEVICE.fullmatch(device):
        raise local(f"{device!r} is no device", "Write auto, cpu, cuda or cuda:N.")
    import torch

    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return _automatic(present, torch.version.cuda)
    number = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and number >= present:
        raise local(
            f"{device} was asked for, and torch sees {present} CUDA devices",
            "Check the driver by nvidia-smi, and that torch is a build for CUDA; in a container "
            "also that it was started with the GPUs. Or take --device cpu.",
        )
    return ok("device", f"{device} is there")


def _automatic(present: int, built_for: str | None) -> Check:
    if present or not any(_DRIVER.glob("*")):
        return ok("device", f"auto is {'cuda' if present else 'cpu'} here")
    told = "auto is cpu here, though this machine has an NVIDIA GPU: "
    if built_for is None:
        told += "torch is a build for CPUs alone"
        remedy = "Install the build for CUDA: pip install --force-reinstall torch. Or give cpu."
    else:
        told += f"torch is built for CUDA {built_for} and cannot use it"
        remedy = "See nvidia-smi: the driver may be too old for that CUDA. Or give --device cpu."
    return Check("device", Outcome.WARNING, told, remedy)


def task_loads(task: str, arguments: Sequence[str], *, trains: bool) -> Check:
    """Raises CliError (LOCAL) with what keeps a Task from loading, building and giving data."""
    from fednot.task_loading import TaskLoadError, calling, load_task

    try:
        with calling(task):
            loaded = load_task(task, tuple(arguments))
            model = loaded.build_model()
            count = len(loaded.train_data()) if trains else None
    except TaskLoadError as error:
        raise local(
            str(error), "Correct --task and --task-arg, or the Task; it was run as the daemon does."
        ) from error
    if count == 0:
        raise local(f"train_data() of {task} is empty", "Give this machine's data to the Task.")
    size = sum(each.numel() for each in model.parameters())
    data = "" if count is None else f" and {count} samples to train on"
    return ok("task", f"{task} loads: a model of {size} parameters{data}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
