"""A gRPC server of canned answers, and the command line run against it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from grpc_status import rpc_status
from support.identities import Identities, mutual_tls
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.errors import FednotError
from fednot.identity.subject import Role
from fednot.rpc_errors import to_status
from fednot.v1 import deletion_pb2_grpc
from fednot.v1 import operator_pb2_grpc as operator_grpc

CUT = object()
BROKEN = object()
"""What a proxy makes of a connection that it loses."""
SILENCE = object()


class Script(operator_grpc.OperatorServiceServicer, deletion_pb2_grpc.DeletionServiceServicer):
    """Answers each call from a list; the last answer stays. Requests are kept by call."""

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        self.answers = {call: list(rows) for call, rows in answers.items()}
        self.requests: dict[str, list[Any]] = {}

    def next(self, call: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.setdefault(call, []).append(request)
        rows = self.answers[call]
        answer = rows.pop(0) if len(rows) > 1 else rows[0]
        self.check(answer, context)
        return answer

    def check(self, answer: Any, context: grpc.ServicerContext) -> None:
        if isinstance(answer, FednotError):
            context.abort_with_status(rpc_status.to_status(to_status(answer)))
        if answer is CUT:
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if answer is BROKEN:
            context.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")
        while answer is SILENCE and context.is_active():
            time.sleep(0.02)

    def stream(self, call: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for part in self.next(call, request, context):
            self.check(part, context)
            if part is not SILENCE:
                yield part


def _unary(call: str) -> Callable[..., Any]:
    return lambda self, request, context: self.next(call, request, context)


def _streaming(call: str) -> Callable[..., Any]:
    return lambda self, request, context: self.stream(call, request, context)


for _call in (
    *("StartTraining", "StopTraining", "GetStatus", "ListClients", "ListRounds", "ListVersions"),
    *("Unlearn", "GetDeletion", "ListDeletions", "CancelDeletion"),
):
    setattr(Script, _call, _unary(_call))
for _call in ("DownloadVersion", "WatchDeletion"):
    setattr(Script, _call, _streaming(_call))


class ScriptedServer:
    """Serves a script, and calls the command line in this process against it.

    Over mutual TLS, as a server and an operator that one authority issued; over plaintext without.
    """

    def __init__(
        self, answers: dict[str, list[Any]], identities: Identities | None, port: int = 0
    ) -> None:
        self.script = Script(answers)
        self._grpc = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        operator_grpc.add_OperatorServiceServicer_to_server(self.script, self._grpc)
        deletion_pb2_grpc.add_DeletionServiceServicer_to_server(self.script, self._grpc)
        address = f"127.0.0.1:{port}"
        if identities is None:
            self.port = self._grpc.add_insecure_port(address)
            identity = ["--insecure"]
        else:
            self.port = self._grpc.add_secure_port(address, mutual_tls(identities.server))
            identity = ["--identity", str(identities.of(Role.OPERATOR, "olga"))]
        self._grpc.start()
        self.where = [*identity, "--server", f"127.0.0.1:{self.port}"]

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, *self.where], catch_exceptions=False)

    def json(self, *arguments: str, code: int = 0) -> Any:
        result = self.run(*arguments, "--format", "json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def lines(self, *arguments: str, code: int = 0) -> list[Any]:
        result = self.run(*arguments, "--format", "json")
        assert result.exit_code == code, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    def stop(self) -> None:
        self._grpc.stop(None).wait()
