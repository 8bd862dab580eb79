"""What `fednot` says when a command does not succeed."""

from __future__ import annotations

import math
from typing import Final

import grpc

from fednot.cli.exit_codes import ExitCode
from fednot.errors import CATALOGUE, REMEDY_KEY, FednotError, Reason
from fednot.rpc_errors import from_rpc_error, plain_cause

TIMED_OUT: Final = "TIMED_OUT"
UNREACHABLE: Final = "UNREACHABLE"
_CUT: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


class CliError(Exception):
    """An end other than success: a sentence, an exit code, and what can be done about it.

    `reason` is one of `fednot.errors.Reason`, or of this command's own (docs/cli.md). `lost` tells
    that the connection broke, so that a repeatable call may be tried again; `overdue`, that the
    call's own deadline passed. `call_id` is what the logs of server and clients call the command;
    "" if it failed of no call.
    """

    def __init__(
        self,
        message: str,
        code: ExitCode,
        *,
        reason: str = "",
        remedy: str = "",
        metadata: dict[str, str] | None = None,
        lost: bool = False,
        overdue: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.remedy = remedy
        self.metadata = metadata or {}
        self.lost = lost
        self.overdue = overdue
        self.call_id = ""

    def document(self) -> dict[str, object]:
        """The error as it is printed with `--format json`."""
        return {
            "error": self.message,
            "reason": self.reason,
            "remedy": self.remedy,
            "metadata": self.metadata,
            "exit_code": int(self.code),
            "call_id": self.call_id,
        }


def usage(message: str, remedy: str = "") -> CliError:
    """The command line is wrong in a way that the parser cannot see."""
    return CliError(message, ExitCode.USAGE, reason="USAGE", remedy=remedy)


def local(message: str, remedy: str = "") -> CliError:
    """Work on this machine failed."""
    return CliError(message, ExitCode.FAILED, reason="LOCAL", remedy=remedy)


def timed_out(message: str, remedy: str = "") -> CliError:
    """A wait reached its limit."""
    return CliError(message, ExitCode.TIMED_OUT, reason=TIMED_OUT, remedy=remedy)


def from_rpc(error: grpc.RpcError, address: str, timeout: float) -> CliError:
    """Reads a failed call: a refusal with its reason, or a server that was not reached."""
    refusal = from_rpc_error(error)
    if refusal is not None:
        return of_refusal(refusal)
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() if isinstance(error, grpc.Call) else None) or "no details"
    if code is grpc.StatusCode.UNAVAILABLE:
        return unreachable(f"the server at {address} cannot be reached: {plain_cause(details)}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return unreachable(
            f"the server at {address} did not answer within {timeout:g} s", overdue=True
        )
    return CliError(
        f"the call failed: {details}",
        ExitCode.REFUSED,
        reason=code.name,
        remedy=_remedy(code),
        lost=code in _CUT,
    )


def of_refusal(refusal: FednotError) -> CliError:
    """The error that tells of a refusal."""
    closing = refusal.reason is Reason.SHUTTING_DOWN
    wait = refusal.retry_after
    when = f" Come again in {math.ceil(wait)} s." if wait and not closing else ""
    return CliError(
        refusal.message,
        ExitCode.UNREACHABLE if closing else ExitCode.REFUSED,
        reason=refusal.reason,
        remedy=refusal.remedy + when,
        metadata={key: text for key, text in refusal.metadata.items() if key != REMEDY_KEY},
        lost=closing,
    )


def of_finding(finding: FednotError) -> CliError:
    """The error that tells what a look at the connection, or at an identity's files, has found."""
    broken = finding.reason is Reason.TLS_FAILED
    return CliError(
        finding.message,
        ExitCode.UNREACHABLE if broken else ExitCode.REFUSED,
        reason=finding.reason,
        remedy=finding.remedy,
        lost=broken,
    )


def unreachable(message: str, *, overdue: bool = False) -> CliError:
    """The server was not reached, or did not answer."""
    return CliError(
        message,
        ExitCode.UNREACHABLE,
        reason=UNREACHABLE,
        remedy=(
            "Check that fednot-server runs, that --server (or FEDNOT_SERVER) names its host and "
            "port, and that no firewall or TLS proxy stands between."
        ),
        lost=True,
        overdue=overdue,
    )


def _remedy(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            "Dial the server's main port: this may be its enrolment port (usually 50052), which "
            "only `fednot certs enroll` dials. Else the address is no fednot server, or one of "
            "another version; see `fednot --version`."
        )
    return CATALOGUE[Reason.INTERNAL].remedy
