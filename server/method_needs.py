"""Whether what a method needs is there: looked at when it is asked for and when it begins."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from fednot.errors import FednotError, Reason
from server.aggregation import RuleName
from server.aggregation.clipping import UNLIMITED
from server.federation import Federation
from server.methods import Method
from server.methods.method import WithoutSteps
from server.records import RoundPhase, Scope, ScopeKind


def check_needs(
    federation: Federation,
    method: Method,
    scopes: Sequence[Scope],
    connection: Connection,
    version: int,
) -> None:
    """Raises FednotError (METHOD_NEEDS) if something is missing to take scopes out of a version."""
    missing = _missing(federation, method, scopes, connection, version)
    if missing:
        raise FednotError(Reason.METHOD_NEEDS, f"the method {method.name} {missing}")


def _averages(federation: Federation) -> bool:
    """Whether a round adds the plain mean of its updates, so that they tell what it added."""
    rules = (federation.defaults.aggregation_of(phase) for phase in RoundPhase)
    return all(each.rule is RuleName.MEAN and each.clip_norm == UNLIMITED for each in rules)


def _missing(
    federation: Federation,
    method: Method,
    scopes: Sequence[Scope],
    connection: Connection,
    version: int,
) -> str:
    needs = method.needs
    if federation.masking is not None and not isinstance(method, WithoutSteps):
        return "works on single updates, which --secure-aggregation hides"
    if needs.target and any(scope.kind is ScopeKind.CLASS for scope in scopes):
        return "works with the client whose data goes, and a class is every client's"
    if needs.history and any(scope.kind is not ScopeKind.CLIENT for scope in scopes):
        return "takes whole clients out of the kept updates, and nothing less"
    if needs.history and not _averages(federation):
        return (
            "needs updates that were averaged as they came; --aggregation, --recovery-aggregation "
            "or --clip-norm does something else"
        )
    if needs.proxy and federation.server_data.proxy is None:
        return (
            "distils on data of the server's own; start it with --task whose proxy_data() gives it"
        )
    if needs.history and not federation.history.is_complete(connection, version):
        return (
            "needs the updates that made the model; start the server with --keep-updates 1 before "
            "training, and note that a deletion by another method destroys them"
        )
    return ""
