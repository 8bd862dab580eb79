"""The one table of who may call what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.subject import Role
from server.records import Caller

_CLIENT: Final = frozenset({Role.CLIENT})
_OFFICER: Final = frozenset({Role.OFFICER})
_OPERATOR: Final = frozenset({Role.OPERATOR})
_WATCHERS: Final = frozenset({Role.OFFICER, Role.OPERATOR, Role.AUDITOR})
_PEOPLE_AND_CLIENTS: Final = _WATCHERS | _CLIENT
_EVERYBODY: Final = frozenset(Role)

_ROWS: Final[Mapping[str, Mapping[str, frozenset[Role]]]] = {
    "fednot.v1.FederationService": {
        "Join": _CLIENT,
        "PollWork": _CLIENT,
        "DownloadModel": _CLIENT,
        "UploadUpdate": _CLIENT,
        "ReportEvaluation": _CLIENT,
        "ReportFailure": _CLIENT,
        "ReportDestruction": _CLIENT,
        "ReportForgetting": _CLIENT,
        "ReportProfile": _CLIENT,
        "Heartbeat": _CLIENT,
        "Leave": _CLIENT,
    },
    "fednot.v1.SecureAggregationService": {
        "AdvertiseKeys": _CLIENT,
        "ShareKeys": _CLIENT,
        "GetSurvivors": _CLIENT,
        "ConfirmSurvivors": _CLIENT,
        "Unmask": _CLIENT,
    },
    "fednot.v1.DeletionService": {
        "Unlearn": _CLIENT | _OFFICER,
        "CancelDeletion": _CLIENT | _OFFICER,
        "LiftHold": _OFFICER,
        "GetDeletion": _PEOPLE_AND_CLIENTS,
        "ListDeletions": _PEOPLE_AND_CLIENTS,
        "WatchDeletion": _PEOPLE_AND_CLIENTS,
    },
    "fednot.v1.OperatorService": {
        "StartTraining": _OPERATOR,
        "StopTraining": _OPERATOR,
        "ReadmitClient": _OPERATOR,
        "DownloadVersion": _OPERATOR,
        "GetStatus": _WATCHERS,
        "ListClients": _WATCHERS,
        "ListRounds": _WATCHERS,
        "ListVersions": _WATCHERS,
    },
    "fednot.v1.ApprovalService": {
        "ListApprovals": _WATCHERS,
        "Approve": _OFFICER,
        "Refuse": _OFFICER,
    },
    "fednot.v1.ReceiptService": {
        "GetReceipt": _PEOPLE_AND_CLIENTS,
        "ListReceiptKeys": _PEOPLE_AND_CLIENTS,
        "RotateReceiptKey": _OPERATOR,
    },
    "fednot.v1.AuditService": {
        "ListAuditEntries": frozenset({Role.OFFICER, Role.AUDITOR}),
        "DestroyPseudonym": _OFFICER,
    },
    "fednot.v1.IdentityService": {
        "GetIdentity": _PEOPLE_AND_CLIENTS,
        "CreateToken": _OPERATOR,
        "RenewCertificate": _PEOPLE_AND_CLIENTS,
        "CreateConsoleLink": _PEOPLE_AND_CLIENTS,
    },
    "grpc.health.v1.Health": {"Check": _EVERYBODY, "List": _EVERYBODY, "Watch": _EVERYBODY},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _EVERYBODY},
}

PERMISSIONS: Final[Mapping[str, frozenset[Role]]] = {
    f"/{service}/{method}": roles
    for service, rows in _ROWS.items()
    for method, roles in rows.items()
}
"""Each method of the main listener and the roles that may call it; one without a row is closed."""

ENROLMENT: Final = frozenset({"/fednot.v1.EnrolmentService/Enroll"})
"""What the enrolment listener serves: to everybody, since nobody there has a certificate yet."""


def check(method: str, caller: Caller) -> None:
    """Raises FednotError (WRONG_ROLE) unless the caller may call a method of the main listener.

    A caller without a role came over plaintext on loopback and may call whatever has a row.
    """
    allowed = PERMISSIONS.get(method, frozenset())
    if caller.role in allowed or (caller.role is None and allowed):
        return
    name = method_name(method)
    if not allowed:
        raise FednotError(Reason.WRONG_ROLE, f"nobody may call {name}: it has no row of roles")
    raise FednotError(
        Reason.WRONG_ROLE,
        f"{caller.key} may not call {name}; these roles may: {', '.join(sorted(allowed))}",
    )


def check_enrolment(method: str, caller: Caller) -> None:
    """Raises FednotError (WRONG_ROLE) for whatever the enrolment listener does not serve."""
    if method not in ENROLMENT:
        raise FednotError(
            Reason.WRONG_ROLE,
            f"{method_name(method)} is not served here; this address is for enrolment only",
        )


def permitted(caller: Caller) -> tuple[str, ...]:
    """The methods that a caller may call, sorted."""
    everything = caller.role is None
    return tuple(
        sorted(name for name, roles in PERMISSIONS.items() if everything or caller.role in roles)
    )


def method_name(method: str) -> str:
    """A method as people and the audit call it: `DeletionService.Unlearn`."""
    service, _, name = method.strip("/").partition("/")
    return f"{service.rpartition('.')[2]}.{name}"
