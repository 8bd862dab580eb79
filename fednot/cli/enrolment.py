"""The verbs `certs ...` that talk to a server: `token`, `enroll` and `renew`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer

from fednot.cli import certs_views as views
from fednot.cli import options
from fednot.cli.credentials import check_address
from fednot.cli.documents import document
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import UNREACHABLE, CliError, from_rpc, local, of_finding, usage
from fednot.cli.output import Output
from fednot.cli.session import Session, local_verb, verb
from fednot.errors import FednotError
from fednot.identity.diagnosis import DEFAULT_SECONDS, diagnose_enrolment
from fednot.identity.enrolment import Renewal
from fednot.identity.enrolment import enroll as trade
from fednot.identity.folder import Credentials, write_private
from fednot.identity.token import MAX_CHARACTERS, Token
from fednot.v1 import identity_pb2

TOKEN_VARIABLE: Final = "FEDNOT_TOKEN"  # noqa: S105 - the name of a variable
STDIN: Final = Path("-")

app = typer.Typer()

Client = Annotated[str, typer.Argument(metavar="CLIENT", help="The client that is to enrol.")]
ValidFor = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        callback=options.token_seconds,
        help="How long the token is good for, up to 30 days.",
        show_default="the server's: an hour",
    ),
]
TokenOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="A new file for the token, which only you can read.",
        show_default="standard output",
    ),
]
Enrolment = Annotated[
    str,
    typer.Option(
        "--server", metavar="HOST:PORT", help="Where the server enrols, usually its port 50052."
    ),
]
Folder = Annotated[
    Path,
    typer.Option("--out", "--identity", metavar="FOLDER", help="Where the new identity goes."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A file with the token, or - for standard input.",
        show_default=f"{TOKEN_VARIABLE}, else standard input",
    ),
]


@app.command()
@verb
def token(
    session: Session, client: Client, valid_for: ValidFor = None, out: TokenOut = None
) -> ExitCode:
    """Make a one-time token with which a client's machine gets its certificate."""
    if out is not None:
        options.writable(out, force=False, otherwise="name another file")
    request = identity_pb2.CreateTokenRequest(client=client, valid_for=options.duration(valid_for))
    made = session.call(session.identity.CreateToken, request)
    until = str(document(made)["expires_at"])
    if out is not None:
        try:
            write_private(out, f"{made.token}\n".encode())
        except OSError as error:
            raise local(f"{out} cannot be written: {error.strerror}") from error
    if session.output.json:
        given = {"token": made.token} if out is None else {"file": str(out)}
        session.output.document({**given, "expires_at": until})
        return ExitCode.DONE
    session.output.line(made.token if out is None else str(out))
    session.output.note(
        f"good until {until}, for one machine: `fednot certs enroll` takes it there"
    )
    return ExitCode.DONE


@app.command()
@local_verb
def enroll(
    output: Output,
    server: Enrolment,
    folder: Folder,
    token_file: TokenFile = None,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> ExitCode:
    """Get this machine's certificate for a token. The key is made here and stays here.

    The token goes by a file, a variable or standard input, since others see command lines.
    """
    check_address(server)
    try:
        given = Token.parse(_token_text(token_file))
        found = _enrolled(server, given, folder, timeout)
    except FednotError as error:
        raise of_finding(error) from error
    except OSError as error:
        raise local(f"{folder} cannot be written: {error.strerror}") from error
    return _report(output, found)


@app.command()
@verb
def renew(session: Session) -> ExitCode:
    """Replace the certificate of --identity by a new one with a new key."""
    if session.credentials is None:
        raise usage("--insecure has no certificate to renew", "Give --identity FOLDER.")
    folder = session.credentials.folder
    if not os.access(folder, os.W_OK):
        raise local(f"{folder} cannot be written", "Renew as its owner.")
    renewal = Renewal.of(session.credentials)
    signed = session.call(session.identity.RenewCertificate, renewal.request).certificate
    try:
        return _report(session.output, renewal.take(signed))
    except FednotError as error:
        raise of_finding(error) from error
    except OSError as error:
        raise local(f"{folder} cannot be written: {error.strerror}") from error


def _enrolled(server: str, token: Token, folder: Path, timeout: float) -> Credentials:
    try:
        return trade(server, token, folder, timeout=timeout)
    except grpc.RpcError as error:
        failure = from_rpc(error, server, timeout)
        if failure.reason == UNREACHABLE and not failure.overdue:
            within = min(DEFAULT_SECONDS, timeout)
            finding = diagnose_enrolment(server, token.trust, source="the token", timeout=within)
            failure = of_finding(finding) if finding is not None else failure
        raise _repeatable(failure, folder) from error


def _repeatable(failure: CliError, folder: Path) -> CliError:
    if failure.lost:
        failure.remedy += (
            f" The token may have been used: repeat the command with the same --out {folder}, "
            "whose key the server then knows."
        )
    return failure


def _token_text(place: Path | None) -> str:
    given = os.environ.get(TOKEN_VARIABLE, "")
    if place is None and given:
        return given
    try:
        if place is not None and place != STDIN:
            with place.open(encoding="utf-8", errors="replace") as file:
                return file.read(MAX_CHARACTERS + 1)
        if sys.stdin.isatty():
            raise usage(
                "there is no token",
                f"Give --token-file FILE or {TOKEN_VARIABLE}, or pipe the token in.",
            )
        return sys.stdin.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise usage(f"the token cannot be read from {place}: {error.strerror}") from error


def _report(output: Output, found: Credentials) -> ExitCode:
    if output.json:
        certificate = views.credentials_document(found)
        output.document({"folder": str(found.folder), "certificate": certificate})
    else:
        output.line(views.until(found.folder, found))
    return ExitCode.DONE
