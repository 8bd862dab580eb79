"""The exit codes of `fednot`: stable, and listed in docs/cli.md."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    INTERRUPTED = 130


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.DONE: "What was asked for is done.",
    ExitCode.FAILED: "The run or job ended FAILED, CANCELLED or STOPPED, or local work failed.",
    ExitCode.USAGE: "The command line is wrong.",
    ExitCode.REFUSED: "It was refused, or the identity is no good; reason and remedy are printed.",
    ExitCode.UNREACHABLE: "The server cannot be reached, or does not answer.",
    ExitCode.TIMED_OUT: "Waiting timed out; what was waited for goes on.",
    ExitCode.INTERRUPTED: "Interrupted from the keyboard; what was waited for goes on.",
}
