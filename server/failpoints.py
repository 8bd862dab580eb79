"""Named places at which a test makes the process die, or a call fail. Off unless it is asked for.

`FEDNOT_FAILPOINT` arms one: `before commit.round-completed` has the process end by SIGKILL there.
` @3` behind it waits for the third time; ` =ENOSPC` raises that OSError instead, each time, for as
long as the file that `FEDNOT_FAILPOINT_WHILE` names is there, if it names one.
`FEDNOT_FAILPOINT_TRACE` names a file to which each place that is reached appends a line.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ARMED: Final = "FEDNOT_FAILPOINT"
WHILE: Final = "FEDNOT_FAILPOINT_WHILE"
TRACE: Final = "FEDNOT_FAILPOINT_TRACE"
_TEXT: Final = re.compile(
    r"(?P<place>(before|after) [a-z0-9.-]+)( @(?P<nth>\d+))?( =(?P<error>\w+))?"
)


@dataclass
class _Armed:
    place: str
    nth: int
    error: int | None
    condition: Path | None
    reached: int = 0

    def at(self, place: str) -> None:
        if place != self.place:
            return
        self.reached += 1
        if self.reached < self.nth or (self.condition is not None and not self.condition.exists()):
            return
        if self.error is not None:
            raise OSError(self.error, f"{os.strerror(self.error)} (failpoint {place})")
        os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None
_trace: Path | None = None


def enable(environment: Mapping[str, str]) -> None:
    """Takes what the environment asks for. Raises ValueError for what names no place."""
    global _armed, _trace
    _armed, _trace = None, None
    if trace := environment.get(TRACE):
        _trace = Path(trace)
    text = environment.get(ARMED)
    if not text:
        return
    found = _TEXT.fullmatch(text)
    error = found["error"] if found else None
    if found is None or (error and not hasattr(errno, error)):
        raise ValueError(
            f"{ARMED} is {text!r}; write 'before NAME' or 'after NAME', ' @N', ' =ERRNO'"
        )
    condition = environment.get(WHILE)
    _armed = _Armed(
        place=found["place"],
        nth=int(found["nth"] or 1),
        error=getattr(errno, error) if error else None,
        condition=Path(condition) if condition else None,
    )


def reached(place: str) -> None:
    """Says that a place was reached; what is armed there happens."""
    if _trace is not None:
        with _trace.open("a", encoding="utf-8") as file:
            file.write(place + "\n")
    if _armed is not None:
        _armed.at(place)


@contextmanager
def around(name: str) -> Iterator[None]:
    """Stands around one durable call; what follows it is reached only if the call succeeded."""
    reached(f"before {name}")
    yield
    reached(f"after {name}")
