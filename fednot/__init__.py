"""fednot: a federation that can forget.

A user's code needs `Task`, and `SampleDataset` for its data; `TrainContext` and `TrainResult` if it
trains in its own way; `forget_samples` bars samples of a client for good. These names are imported
on first use, so that a control command need not wait for torch.
"""

import sys
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036 - a checkout runs without pip, which would refuse
    raise ImportError(
        f"fednot needs Python 3.11 or newer, and this is {sys.version.split()[0]} "
        f"({sys.executable}): make an environment with a newer one, python3.11 -m venv"
    )

if TYPE_CHECKING:
    from fednot.task import SampleDataset, Task
    from fednot.tombstones import forget_samples
    from fednot.training import TrainContext, TrainResult, WorkCancelledError
else:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'fednot' has no attribute {name!r}")
        homes = dict.fromkeys(("SampleDataset", "Task"), "fednot.task")
        homes["forget_samples"] = "fednot.tombstones"
        return getattr(import_module(homes.get(name, "fednot.training")), name)


__version__ = "0.1.0"

__all__ = [
    "SampleDataset",
    "Task",
    "TrainContext",
    "TrainResult",
    "WorkCancelledError",
    "forget_samples",
]
