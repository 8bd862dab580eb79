"""A command's connection to the server, and the decorators that make functions into verbs."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import grpc
import typer

from fednot import calls, tracing
from fednot.channel import open_channel
from fednot.cli import interrupts, options
from fednot.cli.credentials import credentials_for
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import UNREACHABLE, CliError, from_rpc, of_finding
from fednot.cli.output import Format, Output
from fednot.identity.diagnosis import DEFAULT_SECONDS, diagnose
from fednot.identity.folder import Credentials
from fednot.v1 import (
    approval_pb2_grpc,
    audit_pb2_grpc,
    deletion_pb2_grpc,
    identity_pb2_grpc,
    operator_pb2_grpc,
    receipt_pb2_grpc,
)

_log = logging.getLogger("fednot.cli")

P = ParamSpec("P")
Request = TypeVar("Request")
Response = TypeVar("Response")


class Session:
    """A channel to the server; each call has a deadline and raises CliError.

    Without credentials it is plaintext.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: Credentials | None,
        timeout: float,
        output: Output,
    ) -> None:
        self.address: Final = address
        self.credentials: Final = credentials
        self.timeout: Final = timeout
        self.output: Final = output
        self._channel: Final = open_channel(address, credentials)
        self.operator: Final = operator_pb2_grpc.OperatorServiceStub(self._channel)
        self.deletions: Final = deletion_pb2_grpc.DeletionServiceStub(self._channel)
        self.approvals: Final = approval_pb2_grpc.ApprovalServiceStub(self._channel)
        self.audit: Final = audit_pb2_grpc.AuditServiceStub(self._channel)
        self.identity: Final = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self.receipts: Final = receipt_pb2_grpc.ReceiptServiceStub(self._channel)
        self._looked = False

    def call(
        self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        """Makes a unary call. Raises CliError."""
        name, begun = _name_of(method), time.monotonic()
        try:
            with tracing.span(name, kind="client"):
                metadata = calls.current().metadata()
                response = method(request, timeout=self.timeout, metadata=metadata)
        except grpc.RpcError as error:
            failure = self._failure(error, self.timeout)
            _log.info("a call failed", extra={"method": name, "reason": failure.reason})
            raise failure from error
        _log.info("called", extra={"method": name, "seconds": round(time.monotonic() - begun, 3)})
        self._looked = False
        return response

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        timeout: float,
    ) -> Iterator[Response]:
        """Yields the responses of a streaming call. Raises CliError."""
        metadata = calls.current().metadata()
        responses = method(request, timeout=timeout, metadata=metadata)
        _log.info("called", extra={"method": _name_of(method)})
        try:
            for response in responses:
                self._looked = False
                yield response
        except grpc.RpcError as error:
            raise self._failure(error, timeout) from error
        finally:
            responses.cancel()

    def _failure(self, error: grpc.RpcError, timeout: float) -> CliError:
        failure = self._found(error, timeout)
        failure.call_id = calls.current().call_id
        return failure

    def _found(self, error: grpc.RpcError, timeout: float) -> CliError:
        failure = from_rpc(error, self.address, timeout)
        if failure.reason != UNREACHABLE or failure.overdue or self._looked:
            return failure
        self._looked = True
        within = min(DEFAULT_SECONDS, timeout)
        finding = diagnose(self.address, self.credentials, timeout=within)
        return of_finding(finding) if finding is not None else failure

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


def _name_of(method: object) -> str:
    """The full name of a call; grpc keeps it with the stub's method."""
    name = getattr(method, "_method", b"")
    return (name.decode() if isinstance(name, bytes) else str(name)).strip("/")


def _shown(function: Callable[..., Any]) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def verb(function: Callable[Concatenate[Session, P], ExitCode]) -> Callable[..., None]:
    """Makes a verb that talks to the server: adds connection options, exits with its code."""

    def command(
        *,
        server: options.Server = options.SERVER_DEFAULT,
        identity: options.Identity = None,
        insecure: options.Insecure = False,
        timeout: options.Timeout = options.DEFAULT_TIMEOUT,
        format_: options.OutputFormat = Format.TABLE,
        **arguments: Any,
    ) -> None:
        output = Output(format_)

        def work() -> ExitCode:
            credentials = credentials_for(server, identity, insecure=insecure, output=output)
            session = Session(server, credentials=credentials, timeout=timeout, output=output)
            span = tracing.span(f"fednot {_shown(function)}", root=True)
            with calls.bound(calls.Origin(calls.new_id())), span, closing(session):
                return function(session, **arguments)  # type: ignore[call-arg]

        raise typer.Exit(_guarded(output, work))

    return _merged(command, function)


def local_verb(function: Callable[Concatenate[Output, P], ExitCode]) -> Callable[..., None]:
    """Makes a verb that needs no server: adds `--format`, and exits with its code."""

    def command(*, format_: options.OutputFormat = Format.TABLE, **arguments: Any) -> None:
        output = Output(format_)
        raise typer.Exit(_guarded(output, lambda: function(output, **arguments)))  # type: ignore[call-arg]

    return _merged(command, function)


def _guarded(output: Output, work: Callable[[], ExitCode]) -> int:
    try:
        return int(work())
    except CliError as error:
        output.error(error)
        return int(error.code)
    except KeyboardInterrupt:
        with interrupts.last_words():
            output.note("interrupted")
        return int(ExitCode.INTERRUPTED)


def _merged(command: Callable[..., None], function: Callable[..., ExitCode]) -> Callable[..., None]:
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    shared = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own + shared
    ]
    functools.update_wrapper(command, function)
    command.__annotations__ = {item.name: item.annotation for item in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
