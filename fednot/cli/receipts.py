"""The verbs of receipts: `receipt`, `receipt-keys` and `verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from fednot.cli import options, panels
from fednot.cli.documents import documents
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, local
from fednot.cli.output import Output
from fednot.cli.session import Session, local_verb, verb
from fednot.naming import JOB_ID
from fednot.v1 import receipt_pb2

if TYPE_CHECKING:
    from fednot.receipt import Receipt

app = typer.Typer()

INVALID: Final = "RECEIPT_INVALID"

Name = Annotated[str, typer.Argument(metavar="JOB_OR_REQUEST", help="A job id or a request id.")]
Page = Annotated[
    Path | None,
    typer.Option("--html", metavar="PAGE", help="Write the page for a file, too.", dir_okay=False),
]
PublicKeys = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PUB", help="Write the public keys, as PEM.", dir_okay=False
    ),
]
Rotate = Annotated[
    bool, typer.Option("--rotate", help="Make a new key first, and destroy the private one before.")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The receipt.")]
Key = Annotated[
    Path,
    typer.Option(
        "--key", metavar="PUB", help="The public keys to trust, as PEM; one of them signed it."
    ),
]


@app.command(rich_help_panel=panels.PROOF)
@verb
def receipt(
    session: Session,
    name: Name,
    output: options.Target,
    html: Page = None,
    force: options.Force = False,
) -> ExitCode:
    """Fetch the signed receipt of a completed deletion, and check it."""
    for path in (output, *([html] if html else [])):
        options.writable(path, force=force)
    by = {"job_id": name} if JOB_ID.fullmatch(name) else {"request_id": name}
    request = receipt_pb2.GetReceiptRequest(**by)
    found = session.call(session.receipts.GetReceipt, request)
    checked = _checked(found.jws, found.key.pem)
    _write(output, found.jws)
    if html:
        _write_page(html, checked)
    _show(session.output, checked)
    session.output.note(f"written to {output}" + (f" and {html}" if html else ""))
    return ExitCode.DONE


@app.command("receipt-keys", rich_help_panel=panels.PROOF)
@verb
def receipt_keys(
    session: Session,
    rotate: Rotate = False,
    output: PublicKeys = None,
    force: options.Force = False,
) -> ExitCode:
    """Show the public keys that receipts were ever signed with, newest first."""
    if output:
        options.writable(output, force=force)
    if rotate:
        session.call(session.receipts.RotateReceiptKey, receipt_pb2.RotateReceiptKeyRequest())
    request = receipt_pb2.ListReceiptKeysRequest()
    keys = session.call(session.receipts.ListReceiptKeys, request).keys
    if output:
        _write(output, "".join(key.pem for key in keys))
        session.output.note(f"{len(keys)} public key{'s' * (len(keys) != 1)} written to {output}")
    if session.output.json:
        session.output.document({"keys": documents(keys)})
    else:
        from fednot.cli.receipt_tables import keys_table

        session.output.show(keys_table(keys))
    return ExitCode.DONE


@app.command(rich_help_panel=panels.PROOF)
@local_verb
def verify(
    output: Output, file: File, key: Key, html: Page = None, force: options.Force = False
) -> ExitCode:
    """Check the signature of a receipt without a network, and print what it says."""
    if html:
        options.writable(html, force=force)
    checked = _checked(_read(file), _read(key))
    if html:
        _write_page(html, checked)
    _show(output, checked)
    return ExitCode.DONE


def _checked(jws: str, pem: str) -> Receipt:
    from fednot.receipt import ReceiptError, verified

    try:
        return verified(jws, pem)
    except ReceiptError as error:
        raise CliError(
            f"the receipt is not to be trusted: {error}",
            ExitCode.REFUSED,
            reason=INVALID,
            remedy="Fetch it again, and take the public key from whoever runs the server.",
        ) from error


def _show(output: Output, checked: Receipt) -> None:
    if output.json:
        payload: Mapping[str, Any] = checked.model_dump(mode="json", exclude_defaults=True)
        output.document({"verified": True, "receipt": payload})
        return
    from fednot.cli.receipt_tables import receipt_table

    output.line(f"The signature verifies: key {checked.key_id}")
    output.show(receipt_table(checked))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", errors="replace")
    except OSError as error:
        raise local(f"{path} cannot be read: {error}") from error


def _write_page(path: Path, checked: Receipt) -> None:
    from fednot.receipt import page_of

    _write(path, page_of(checked))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise local(f"{path} cannot be written: {error}") from error
