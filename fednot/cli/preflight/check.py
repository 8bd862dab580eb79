"""What a check has found, and how checks are made one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, of_finding
from fednot.errors import FednotError


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check; `code` is the exit code of a failed one."""

    name: str
    outcome: Outcome
    message: str
    remedy: str = ""
    reason: str = ""
    code: ExitCode = ExitCode.DONE

    def document(self) -> dict[str, str]:
        """As it is printed with `--format json`."""
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            "message": self.message,
            "reason": self.reason,
            "remedy": self.remedy,
        }


Step = tuple[str, Callable[[], Check], tuple[str, ...]]
"""A check's name, what makes it, and the names of those that it builds on."""


def ok(name: str, message: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Outcome.OK, message)


def made(steps: Iterable[Step]) -> Iterator[Check]:
    """Makes each check in turn. One that others build on takes them with it when it fails."""
    bad: set[str] = set()
    for name, step, needs in steps:
        missing = [need for need in needs if need in bad]
        if missing:
            check = Check(name, Outcome.SKIPPED, f"not tried, since {missing[0]} failed")
        else:
            check = _tried(name, step)
        if check.outcome in (Outcome.FAILED, Outcome.SKIPPED):
            bad.add(name)
        yield check


def _tried(name: str, step: Callable[[], Check]) -> Check:
    try:
        return step()
    except FednotError as error:
        failure = of_finding(error)
    except CliError as error:
        failure = error
    return Check(
        name, Outcome.FAILED, failure.message, failure.remedy, failure.reason, failure.code
    )
