"""Unlearning methods by name; each is one file and pure."""

from __future__ import annotations

from typing import Final

from fednot.errors import FednotError, Reason
from server.methods.contrast import NegationWithContrast
from server.methods.fcu import Fcu
from server.methods.fed_eraser import FedEraser
from server.methods.filter_signs import FilterSigns
from server.methods.fine_tune import FineTune
from server.methods.fukd import Fukd
from server.methods.method import Method, Needs
from server.methods.mode import Mode
from server.methods.negation import Negation
from server.methods.noise import Noise
from server.methods.numbers import Numbered
from server.methods.pgd import Pgd
from server.methods.reinitialise import Reinitialise
from server.methods.retrain import Retrain
from server.methods.shrink_and_perturb import NegateAndPerturb, ShrinkAndPerturb

_SHARE: Final = "the share of the old weights"
NUMBERED: Final[dict[str, Numbered]] = {
    Noise.kind: Numbered(Noise, "a factor of twice the tensor's norm", 0.01, 100),
    ShrinkAndPerturb.kind: Numbered(ShrinkAndPerturb, _SHARE, 0.01, 0.99),
    NegateAndPerturb.kind: Numbered(NegateAndPerturb, _SHARE, 0.01, 0.99),
}
"""The methods that take a number."""
METHODS: Final[dict[str, Method]] = {
    Negation.name: Negation(),
    FineTune.name: FineTune(),
    Retrain.name: Retrain(),
    FedEraser.name: FedEraser(),
    Pgd.name: Pgd(),
    Mode.name: Mode(),
    Fcu.name: Fcu(),
    Fukd.name: Fukd(),
    NegationWithContrast.name: NegationWithContrast(),
    Noise.kind: Noise(),
    Reinitialise.name: Reinitialise(),
    FilterSigns.name: FilterSigns(),
    ShrinkAndPerturb.kind: ShrinkAndPerturb(),
    NegateAndPerturb.kind: NegateAndPerturb(),
}
"""The methods by what a request calls them, each with the number that it has unless told."""
DEFAULT: Final = Negation.name

__all__ = ["DEFAULT", "METHODS", "NUMBERED", "Method", "Needs", "method_named"]


def method_named(name: str) -> Method:
    """The method of NAME or NAME:NUMBER, the default for "".

    Raises FednotError (UNKNOWN_METHOD).
    """
    kind, colon, number = (name or DEFAULT).partition(":")
    method = METHODS.get(kind)
    if method is None:
        raise FednotError(
            Reason.UNKNOWN_METHOD,
            f"there is no method {name[:50]!r}; there are {', '.join(METHODS)}",
        )
    if not colon:
        return method
    if kind not in NUMBERED:
        raise FednotError(
            Reason.UNKNOWN_METHOD,
            f"{kind} takes no number; {', '.join(NUMBERED)} do",
        )
    return NUMBERED[kind].of(kind, number)
