"""Which torch device the client uses, and the way back to the CPU when CUDA memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

_log = logging.getLogger("client")

T = TypeVar("T")


class DeviceError(ValueError):
    """A device that this machine does not have."""


def choose(setting: str) -> torch.device:
    """The device of a setting auto, cpu, cuda or cuda:N. Raises DeviceError if it is not there."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(setting)
    if device.type == "cuda":
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= present:
            raise DeviceError(
                f"{setting} is not there: torch sees {present} CUDA devices; "
                "use --device auto or --device cpu"
            )
    return device


class Device:
    """The device in use now. Once CUDA memory ran out it is the CPU, for this and later work.

    `on_fall_back` is called, from the thread that works, with the new device.
    """

    def __init__(
        self, preferred: torch.device, on_fall_back: Callable[[torch.device], None]
    ) -> None:
        self.current = preferred
        self.degraded = False
        self._on_fall_back = on_fall_back

    def run(self, work: Callable[[torch.device], T]) -> T:
        """Does the work; if CUDA memory runs out, does it again, from its start, on the CPU."""
        try:
            return work(self.current)
        except torch.cuda.OutOfMemoryError as error:
            if self.current.type == "cpu":
                raise
            reason = str(error).partition("\n")[0][:200]
        # Only here, outside the handler, is the traceback gone that kept the tensors alive.
        self._fall_back(reason)
        return work(self.current)

    def _fall_back(self, reason: str) -> None:
        _log.warning("out of memory on %s, going on with the CPU: %s", self.current, reason)
        torch.cuda.empty_cache()
        self.current = torch.device("cpu")
        self.degraded = True
        self._on_fall_back(self.current)
