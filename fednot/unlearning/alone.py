"""Works under torchrun: those with a loop of their own run on rank 0, while the others wait."""

from __future__ import annotations

from torch import distributed

from fednot.task import Task


def alone(task: Task) -> Task:
    """The Task as one rank runs it by itself; any Task but that of torchrun's rank 0 is itself."""
    if not distributed.is_available():
        return task
    from fednot.distributed import Led

    return task.alone if isinstance(task, Led) else task
