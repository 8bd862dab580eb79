"""What the demonstration found, as plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """The model after a round: test accuracy and backdoor success, ratios from 0 to 1."""

    round: int
    test_accuracy: float
    backdoor_success: float

    @classmethod
    def of(cls, index: int, metrics: Mapping[str, float]) -> Point:
        """The point of a round's evaluation."""
        return cls(index, metrics["accuracy"], metrics["backdoor_success"])


@dataclass(frozen=True)
class Course:
    """One course of rounds; `stop` counts the rounds after which its stop rule first held."""

    label: str
    curve: tuple[Point, ...]
    stop: int

    @property
    def at_stop(self) -> Point:
        """The model at the stop, or at the end if the rule never held."""
        return self.curve[(self.stop or len(self.curve)) - 1]

    def rounds_to(self, accuracy: float) -> int | None:
        """The rounds until the test accuracy was first reached; None if it never was."""
        return next((p.round for p in self.curve if p.test_accuracy >= accuracy), None)

    def summary(self) -> dict[str, Any]:
        """The course as it stands in summary.json."""
        return {
            "test_accuracy": self.at_stop.test_accuracy,
            "backdoor_success": self.at_stop.backdoor_success,
            "rounds": self.at_stop.round,
            "curve": [asdict(point) for point in self.curve],
        }


@dataclass(frozen=True)
class Outcome:
    """The whole demonstration. `target` is the test accuracy that recovery aims at."""

    seed: int
    clients: int
    target: float
    original: Course
    unlearned: Course
    fine_tuned: Course
    retrained: Course
    seconds: float

    @property
    def courses(self) -> Sequence[Course]:
        """The three courses after the deletion."""
        return (self.unlearned, self.fine_tuned, self.retrained)

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "seed": self.seed,
            "clients": self.clients,
            "target": self.target,
            "original": self.original.summary(),
            "unlearned": self.unlearned.summary(),
            "fine_tuned": self.fine_tuned.summary(),
            "retrained": self.retrained.summary(),
            "rounds_to_target": {
                "not": self.unlearned.rounds_to(self.target),
                "retrain": self.retrained.rounds_to(self.target),
            },
            "seconds": self.seconds,
        }
