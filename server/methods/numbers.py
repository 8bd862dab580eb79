"""The one number that a method may take: NAME:VALUE."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fednot.errors import FednotError, Reason
from server.methods.method import Method

_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
LONGEST: Final = 10
"""Characters of a number: names are kept in 32, the longest name and the colon included."""


@dataclass(frozen=True)
class Numbered:
    """A method that takes a number from `low` to `high`, both included; `what` says what it is."""

    make: Callable[[float], Method]
    what: str
    low: float
    high: float

    def of(self, name: str, text: str) -> Method:
        """The method of a number's text. Raises FednotError (UNKNOWN_METHOD)."""
        if len(text) > LONGEST or not _NUMBER.fullmatch(text):
            raise FednotError(
                Reason.UNKNOWN_METHOD,
                f"{text[:50]!r} is no number of at most {LONGEST} characters; {self._use(name)}",
            )
        value = float(text)
        if not self.low <= value <= self.high:
            raise FednotError(
                Reason.UNKNOWN_METHOD, f"{text} is out of range for {name}; {self._use(name)}"
            )
        return self.make(value)

    def _use(self, name: str) -> str:
        return f"use {name}:NUMBER, {self.what}, from {self.low:g} to {self.high:g}"


def named(name: str, value: float) -> str:
    """NAME:VALUE with the shortest text that reads back as the same number, such as `noise:1`."""
    return f"{name}:{repr(value).removesuffix('.0')}"
