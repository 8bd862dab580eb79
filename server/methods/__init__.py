"""Unlearning methods by name; each is one file and pure."""

from __future__ import annotations

from typing import Final

from fednot.errors import FednotError, Reason
from server.methods.fine_tune import FineTune
from server.methods.method import Method, Needs
from server.methods.negation import Negation
from server.methods.retrain import Retrain

METHODS: Final[dict[str, Method]] = {
    method.name: method for method in (Negation(), FineTune(), Retrain())
}
DEFAULT: Final = Negation.name

__all__ = ["DEFAULT", "METHODS", "Method", "Needs", "method_named"]


def method_named(name: str) -> Method:
    """The method of a name, the default for "". Raises FednotError (UNKNOWN_METHOD)."""
    method = METHODS.get(name or DEFAULT)
    if method is None:
        raise FednotError(
            Reason.UNKNOWN_METHOD, f"there is no method {name!r}; there are {', '.join(METHODS)}"
        )
    return method
