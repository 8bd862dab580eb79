"""Every error that fednot tells a caller, in one catalogue.

A reason is stable: programs may branch on it, and it travels as `google.rpc.ErrorInfo.reason` under
the domain `fednot`. The sentence is for a person and may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

DOMAIN: Final = "fednot"
REMEDY_KEY: Final = "remedy"
"""The metadata of an error under which a remedy for the one case is, instead of the catalogue's."""


class Code(StrEnum):
    """The gRPC status codes in use, by name: arithmetic raises errors and knows no network."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name

    INVALID_ARGUMENT = auto()
    FAILED_PRECONDITION = auto()
    NOT_FOUND = auto()
    ALREADY_EXISTS = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()
    RESOURCE_EXHAUSTED = auto()
    DEADLINE_EXCEEDED = auto()
    DATA_LOSS = auto()
    ABORTED = auto()
    UNAVAILABLE = auto()
    INTERNAL = auto()


class Reason(StrEnum):
    """Why a call was refused."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name

    INVALID_REQUEST = auto()
    INVALID_CLIENT_NAME = auto()
    INVALID_SELECTOR = auto()
    NO_SUCH_LAYER = auto()
    NOT_AN_ANTICHAIN = auto()
    OUTPUT_LAYER = auto()
    LAYER_NOT_NEGATABLE = auto()
    LAYER_ALREADY_NEGATED = auto()
    NO_ELIGIBLE_LAYER = auto()
    UNKNOWN_METHOD = auto()
    METHOD_NEEDS = auto()
    UNKNOWN_CLIENT = auto()
    UNKNOWN_DELETION = auto()
    UNKNOWN_VERSION = auto()
    UNKNOWN_SESSION = auto()
    CLIENT_CONNECTED = auto()
    UNKNOWN_WORK = auto()
    CLIENT_BARRED = auto()
    CLIENT_ALREADY_FORGOTTEN = auto()
    CLASS_ALREADY_FORGOTTEN = auto()
    UNSUPPORTED_SCOPE = auto()
    NO_RECEIPT = auto()
    DELETION_IN_PROGRESS = auto()
    REQUEST_ID_REUSED = auto()
    NOT_CANCELLABLE = auto()
    NO_HOLD = auto()
    TRAINING_ACTIVE = auto()
    TRAINING_NOT_ACTIVE = auto()
    NOT_RELEASED = auto()
    VERSION_DESTROYED = auto()
    MANIFEST_MISMATCH = auto()
    STALE_GENERATION = auto()
    WRONG_BASE_VERSION = auto()
    WRONG_SIZE = auto()
    WRONG_CHECKSUM = auto()
    WRONG_NUM_EXAMPLES = auto()
    NOT_FINITE = auto()
    INVALID_STREAM = auto()
    DUPLICATE_UPDATE = auto()
    ROUND_OVER = auto()
    SLOW_SENDER = auto()
    UPLOAD_REPLACED = auto()
    SERVER_BUSY = auto()
    TOO_MANY_REQUESTS = auto()
    TOO_MANY_CONNECTIONS = auto()
    MANIFEST_TOO_LARGE = auto()
    UPDATE_TOO_LARGE = auto()
    MASKING_REQUIRED = auto()
    MASKING_FAILED = auto()
    PRIVACY_SPENT = auto()
    SHUTTING_DOWN = auto()
    INVALID_IDENTITY = auto()
    NO_CERTIFICATE = auto()
    INVALID_CERTIFICATE = auto()
    UNTRUSTED_CERTIFICATE = auto()
    CERTIFICATE_EXPIRED = auto()
    CERTIFICATE_NOT_YET_VALID = auto()
    CERTIFICATE_REVOKED = auto()
    SERVER_UNTRUSTED = auto()
    SERVER_CERTIFICATE_EXPIRED = auto()
    SERVER_CERTIFICATE_NOT_YET_VALID = auto()
    SERVER_NAME_MISMATCH = auto()
    SERVER_SPEAKS_PLAINTEXT = auto()
    SERVER_SPEAKS_TLS = auto()
    TLS_FAILED = auto()
    WRONG_ROLE = auto()
    NOT_YOUR_NAME = auto()
    NOT_YOUR_DELETION = auto()
    INVALID_CERTIFICATE_REQUEST = auto()
    NO_AUTHORITY = auto()
    NO_CONSOLE = auto()
    INVALID_TOKEN = auto()
    TOKEN_EXPIRED = auto()
    TOKEN_USED = auto()
    CLIENT_HAS_CERTIFICATE = auto()
    UNKNOWN_APPROVAL = auto()
    APPROVAL_ENDED = auto()
    SECOND_PERSON_NEEDED = auto()
    CLIENT_NOT_BARRED = auto()
    AMBIGUOUS_REQUEST_ID = auto()
    UNKNOWN_NAME = auto()
    STATE_UNAVAILABLE = auto()
    NO_SPACE = auto()
    INTERNAL = auto()


@dataclass(frozen=True)
class Entry:
    """What a reason means: its gRPC status code and what the caller can do about it."""

    code: Code
    remedy: str


_INVALID = Code.INVALID_ARGUMENT
_STATE = Code.FAILED_PRECONDITION
_NOT_FOUND = Code.NOT_FOUND
_WHO = Code.UNAUTHENTICATED
_DENIED = Code.PERMISSION_DENIED

CATALOGUE: Final[dict[Reason, Entry]] = {
    Reason.INVALID_REQUEST: Entry(_INVALID, "Correct the named field."),
    Reason.INVALID_CLIENT_NAME: Entry(
        _INVALID, "Use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit."
    ),
    Reason.INVALID_SELECTOR: Entry(
        _INVALID, "Use first, layers=NAME,..., index=N,..., all-but-last, last or all."
    ),
    Reason.NO_SUCH_LAYER: Entry(_INVALID, "Take one of the layers that the message lists."),
    Reason.NOT_AN_ANTICHAIN: Entry(
        _INVALID, "Choose layers of which none feeds another, or allow unsafe layers."
    ),
    Reason.OUTPUT_LAYER: Entry(_INVALID, "Leave the output layer out, or allow unsafe layers."),
    Reason.LAYER_NOT_NEGATABLE: Entry(_INVALID, "Choose a weight that the message lists."),
    Reason.LAYER_ALREADY_NEGATED: Entry(
        _STATE,
        "Negating it again restores what was forgotten; take an eligible layer.",
    ),
    Reason.NO_ELIGIBLE_LAYER: Entry(_STATE, "Ask for the method retrain."),
    Reason.UNKNOWN_METHOD: Entry(_INVALID, "Take one of the methods that the message lists."),
    Reason.METHOD_NEEDS: Entry(
        _STATE, "Give the server what the message names, or take another method."
    ),
    Reason.UNKNOWN_CLIENT: Entry(_NOT_FOUND, "`fednot clients` lists the names."),
    Reason.UNKNOWN_DELETION: Entry(_NOT_FOUND, "`fednot jobs` lists requests and jobs."),
    Reason.UNKNOWN_VERSION: Entry(_NOT_FOUND, "Take a version that the server lists."),
    Reason.UNKNOWN_SESSION: Entry(_STATE, "Join again; the server restarted or lost the client."),
    Reason.CLIENT_CONNECTED: Entry(
        Code.ALREADY_EXISTS,
        "Stop the other process of this name, or give this machine an identity of its own.",
    ),
    Reason.UNKNOWN_WORK: Entry(_STATE, "Drop the work and poll for new work."),
    Reason.CLIENT_BARRED: Entry(
        Code.PERMISSION_DENIED, "The client was forgotten and may not train."
    ),
    Reason.CLIENT_ALREADY_FORGOTTEN: Entry(_STATE, "Nothing is left to do; see the named request."),
    Reason.CLASS_ALREADY_FORGOTTEN: Entry(_STATE, "Nothing is left to do; see the named request."),
    Reason.UNSUPPORTED_SCOPE: Entry(
        _STATE, "Forget the whole client, or give it a Task that can forget this."
    ),
    Reason.NO_RECEIPT: Entry(_STATE, "Only a completed deletion has one; wait for its end."),
    Reason.DELETION_IN_PROGRESS: Entry(
        Code.ALREADY_EXISTS, "Follow the request that the message names."
    ),
    Reason.REQUEST_ID_REUSED: Entry(
        Code.ALREADY_EXISTS, "Use a new request id for another payload."
    ),
    Reason.NOT_CANCELLABLE: Entry(_STATE, "Only a job that waits can be cancelled."),
    Reason.NO_HOLD: Entry(_STATE, "Nothing is held for it; there is nothing to lift."),
    Reason.TRAINING_ACTIVE: Entry(_STATE, "Wait for the run, or stop it first."),
    Reason.TRAINING_NOT_ACTIVE: Entry(_STATE, "Start a run first."),
    Reason.NOT_RELEASED: Entry(_STATE, "The message says what to do."),
    Reason.VERSION_DESTROYED: Entry(_STATE, "Take a later version."),
    Reason.MANIFEST_MISMATCH: Entry(_STATE, "Give server and client the same Task."),
    Reason.STALE_GENERATION: Entry(_STATE, "Drop the update and poll for new work."),
    Reason.WRONG_BASE_VERSION: Entry(_STATE, "Train from the version that the work names."),
    Reason.WRONG_SIZE: Entry(_INVALID, "Send exactly the bytes that the manifest describes."),
    Reason.WRONG_CHECKSUM: Entry(Code.DATA_LOSS, "Send the update again."),
    Reason.WRONG_NUM_EXAMPLES: Entry(
        _INVALID, "Send a count from 1 to the number of examples stated at join."
    ),
    Reason.NOT_FINITE: Entry(
        _INVALID, "Find why training made NaN or Inf, or lower the learning rate."
    ),
    Reason.INVALID_STREAM: Entry(_INVALID, "Send a header, then chunks, then a trailer."),
    Reason.DUPLICATE_UPDATE: Entry(
        Code.ALREADY_EXISTS, "The update was counted already; poll for new work."
    ),
    Reason.ROUND_OVER: Entry(
        Code.ABORTED, "The round ended or was aborted; drop the work and poll again."
    ),
    Reason.SLOW_SENDER: Entry(
        Code.DEADLINE_EXCEEDED, "Check the link; the next round will ask again."
    ),
    Reason.UPLOAD_REPLACED: Entry(
        Code.ABORTED, "Nothing is to be done: a newer connection goes on with the upload."
    ),
    Reason.SERVER_BUSY: Entry(
        Code.RESOURCE_EXHAUSTED, "Send it again after the time that RetryInfo says."
    ),
    Reason.TOO_MANY_REQUESTS: Entry(
        Code.RESOURCE_EXHAUSTED, "Ask less often; the time that RetryInfo says is enough."
    ),
    Reason.TOO_MANY_CONNECTIONS: Entry(
        Code.RESOURCE_EXHAUSTED, "Close connections that are not used, and dial one at a time."
    ),
    Reason.MANIFEST_TOO_LARGE: Entry(
        _INVALID, "Give server and client the same Task; the client's model is far larger."
    ),
    Reason.UPDATE_TOO_LARGE: Entry(
        _INVALID, "Take a smaller encoding (--codec), or raise --max-update on the server."
    ),
    Reason.MASKING_REQUIRED: Entry(
        _STATE, "Update the client: this server takes masked updates only."
    ),
    Reason.MASKING_FAILED: Entry(
        Code.ABORTED, "Drop the masked update and poll again; the next round masks anew."
    ),
    Reason.PRIVACY_SPENT: Entry(
        _STATE, "Raise --dp-epsilon, or let the client take no further part in training."
    ),
    Reason.SHUTTING_DOWN: Entry(Code.UNAVAILABLE, "Reconnect after a short wait."),
    Reason.INVALID_IDENTITY: Entry(
        _INVALID,
        "Take a folder with cert.pem, key.pem and ca.pem of one identity (`fednot certs`).",
    ),
    Reason.NO_CERTIFICATE: Entry(_WHO, "Show a certificate: --identity FOLDER."),
    Reason.INVALID_CERTIFICATE: Entry(
        _WHO, "Take a certificate that `fednot certs` made for this federation."
    ),
    Reason.UNTRUSTED_CERTIFICATE: Entry(
        _WHO, "Take a certificate of the authority that the server trusts."
    ),
    Reason.CERTIFICATE_EXPIRED: Entry(
        _WHO,
        "Have a new one issued: `fednot certs issue`, or enrol again. If that day is yet to come, "
        "set the clock.",
    ),
    Reason.CERTIFICATE_NOT_YET_VALID: Entry(_WHO, "Set the clock of this machine."),
    Reason.CERTIFICATE_REVOKED: Entry(
        _WHO, "Ask whoever keeps the authority for a new certificate."
    ),
    Reason.SERVER_UNTRUSTED: Entry(
        _WHO, "Check the address; if it is right, take the ca.pem of that server's authority."
    ),
    Reason.SERVER_CERTIFICATE_EXPIRED: Entry(
        _WHO, "Renew the server's certificate: `fednot certs issue server` where the authority is."
    ),
    Reason.SERVER_CERTIFICATE_NOT_YET_VALID: Entry(_WHO, "Set the clocks of both machines."),
    Reason.SERVER_NAME_MISMATCH: Entry(
        _WHO, "Dial a name of the certificate, or issue it for this one: --host."
    ),
    Reason.SERVER_SPEAKS_PLAINTEXT: Entry(
        _STATE, "Start the server with its identity, or pass --insecure on loopback."
    ),
    Reason.SERVER_SPEAKS_TLS: Entry(_STATE, "Show a certificate: --identity FOLDER."),
    Reason.TLS_FAILED: Entry(
        Code.UNAVAILABLE, "Check host and port, and what stands between: something else answers."
    ),
    Reason.WRONG_ROLE: Entry(_DENIED, "Take an identity of a role that the message names."),
    Reason.NOT_YOUR_NAME: Entry(_DENIED, "Take the name of the certificate, or leave it out."),
    Reason.NOT_YOUR_DELETION: Entry(
        _DENIED, "A client may ask only for its own deletion; an officer may for any."
    ),
    Reason.INVALID_CERTIFICATE_REQUEST: Entry(_INVALID, "Make it by `fednot certs request`."),
    Reason.NO_AUTHORITY: Entry(
        _STATE, "Sign where the authority is (`fednot certs sign`), or start with --authority."
    ),
    Reason.NO_CONSOLE: Entry(_STATE, "Start the server with --console-address 0.0.0.0:9466."),
    Reason.INVALID_TOKEN: Entry(_WHO, "Copy the whole token, or have a new one made."),
    Reason.TOKEN_EXPIRED: Entry(_WHO, "Have a new token made: `fednot certs token`."),
    Reason.TOKEN_USED: Entry(
        _DENIED, "Have a new token made; if it was not you who used it, revoke what was signed."
    ),
    Reason.CLIENT_HAS_CERTIFICATE: Entry(
        _STATE, "Let it renew by itself, or revoke it first: `fednot certs revoke`."
    ),
    Reason.UNKNOWN_APPROVAL: Entry(_NOT_FOUND, "`fednot approvals` lists them."),
    Reason.APPROVAL_ENDED: Entry(_STATE, "Nothing is left to decide; ask again if it is needed."),
    Reason.SECOND_PERSON_NEEDED: Entry(_DENIED, "Have another identity decide."),
    Reason.CLIENT_NOT_BARRED: Entry(_STATE, "Nothing is left to do."),
    Reason.AMBIGUOUS_REQUEST_ID: Entry(_INVALID, "Name the job that the message lists."),
    Reason.UNKNOWN_NAME: Entry(_NOT_FOUND, "Take a name that the audit shows."),
    Reason.STATE_UNAVAILABLE: Entry(
        Code.UNAVAILABLE, "Try again later; the server cannot reach or write its state now."
    ),
    Reason.NO_SPACE: Entry(
        Code.RESOURCE_EXHAUSTED,
        "Make room on the disk that holds the server's state; it goes on by itself then.",
    ),
    Reason.INTERNAL: Entry(Code.INTERNAL, "See the server's log."),
}


class FednotError(Exception):
    """A refusal with a reason of the catalogue.

    `metadata` travels in ErrorInfo; `retry_after` (seconds) travels as RetryInfo if set.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata or {}
        self.retry_after = retry_after

    @property
    def code(self) -> Code:
        """The gRPC status code of the reason."""
        return CATALOGUE[self.reason].code

    @property
    def remedy(self) -> str:
        """What to do about it: what `metadata` says of this case, else what the catalogue does."""
        return self.metadata.get(REMEDY_KEY) or CATALOGUE[self.reason].remedy

    @property
    def advice(self) -> str:
        """The message and the remedy, as sentences of which each has its full stop."""
        end = "" if self.message.endswith((".", "!", "?")) else "."
        return f"{self.message}{end} {self.remedy}"
