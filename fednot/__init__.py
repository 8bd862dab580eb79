"""fednot: a federation that can forget.

A user's code needs `Task`, and `SampleDataset` for its data; `TrainContext` and `TrainResult` if it
trains in its own way. These names are imported on first use, so that a control command need not
wait for torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fednot.task import SampleDataset, Task
    from fednot.training import TrainContext, TrainResult, WorkCancelledError
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'fednot' has no attribute {name!r}")
        home = "fednot.task" if name in ("SampleDataset", "Task") else "fednot.training"
        return getattr(import_module(home), name)


__version__ = "0.1.0"

__all__ = ["SampleDataset", "Task", "TrainContext", "TrainResult", "WorkCancelledError"]
