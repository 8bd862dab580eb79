"""The verb `console`: a link that opens the server's pages in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from fednot import address as addresses
from fednot.cli import panels
from fednot.cli.documents import document
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import usage
from fednot.cli.session import Session, verb
from fednot.v1 import identity_pb2

app = typer.Typer()

Address = Annotated[
    str,
    typer.Option(
        "--console",
        metavar="HOST:PORT",
        help="Where the browser reaches the console.",
        show_default="the host of --server, and the port that the server says",
    ),
]


@app.command(rich_help_panel=panels.IDENTITIES)
@verb
def console(session: Session, address: Address = "") -> ExitCode:
    """Print a link that opens the console in a browser, once, as --identity."""
    if address:
        _check(address)
    made = session.call(session.identity.CreateConsoleLink, identity_pb2.CreateConsoleLinkRequest())
    scheme = "https" if session.credentials is not None else "http"
    link = f"{scheme}://{address or _beside(session.address, made.port)}{made.path}"
    until = document(made).get("expires_at")
    if session.output.json:
        session.output.document({"link": link, "expires_at": until})
        return ExitCode.DONE
    session.output.line(link)
    if until is not None:
        session.output.note(f"good until {until}, once; whoever opens it acts as you")
    return ExitCode.DONE


def _check(address: str) -> None:
    try:
        addresses.split(address)
    except ValueError as error:
        raise usage(
            f"--console {address!r} is not HOST:PORT", "Write it as in 127.0.0.1:9466."
        ) from error


def _beside(server: str, port: int) -> str:
    host = "localhost" if server.startswith(addresses.UNIX) else addresses.split(server)[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
