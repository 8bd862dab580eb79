"""fednot: a federation that can forget.

A user's code needs `Task`, and `SampleDataset` for its data; `TrainContext` and `TrainResult` if it
trains in its own way.
"""

from fednot.task import SampleDataset, Task
from fednot.training import TrainContext, TrainResult, WorkCancelledError

__version__ = "0.1.0"

__all__ = ["SampleDataset", "Task", "TrainContext", "TrainResult", "WorkCancelledError"]
