"""What the demonstration found, as plain records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fednot.v1 import deletion_pb2


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
class Verdicts:
    """What verification said of a model: PASS, FAIL or NOT_POSSIBLE, each with its reason."""

    behaviour: str
    behaviour_reason: str
    depth: str
    depth_reason: str


def verdicts_of(found: deletion_pb2.Verification) -> Verdicts:
    """The verdicts as the server told them."""
    name = deletion_pb2.Verdict.Name
    return Verdicts(
        name(found.behaviour).removeprefix("VERDICT_"),
        found.behaviour_reason,
        name(found.depth).removeprefix("VERDICT_"),
        found.depth_reason,
    )


@dataclass(frozen=True)
class Course:
    """One course of rounds; `stop` counts the rounds after which its stop rule first held.

    `layers` are the tensors that were changed, none for a method that chooses none; `method` is
    what was done in the end, "" if that is what the label says.
    """

    label: str
    curve: tuple[Point, ...]
    stop: int
    verdicts: Verdicts | None = None
    layers: tuple[str, ...] = ()
    method: str = ""

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
            "layers": list(self.layers),
            "method": self.method,
            "curve": [asdict(point) for point in self.curve],
        }


@dataclass(frozen=True)
class Outcome:
    """The whole demonstration. `target` is the test accuracy that recovery aims at; `receipt` and
    `page` are the signed receipt of the deletion by NoT and its page, by path.
    """

    seed: int
    clients: int
    assurance: str
    secure_aggregation: bool
    target: float
    original: Course
    unlearned: Course
    fine_tuned: Course
    retrained: Course
    receipt: str
    page: str
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
            "assurance": self.assurance,
            "secure_aggregation": self.secure_aggregation,
            "target": self.target,
            "original": self.original.summary(),
            "unlearned": self.unlearned.summary(),
            "fine_tuned": self.fine_tuned.summary(),
            "retrained": self.retrained.summary(),
            "rounds_to_target": {
                "not": self.unlearned.rounds_to(self.target),
                "retrain": self.retrained.rounds_to(self.target),
            },
            "verdicts": {
                "not": _verdicts(self.unlearned),
                "fine-tune": _verdicts(self.fine_tuned),
                "retrain": _verdicts(self.retrained),
            },
            "receipt": self.receipt,
            "page": self.page,
            "seconds": self.seconds,
        }


def _verdicts(course: Course) -> dict[str, str]:
    return asdict(course.verdicts) if course.verdicts else {}
