"""The verbs of the audit: `audit`, `audit verify` and `audit forget`."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final

import typer

from fednot import sentences
from fednot.audit_chain import BrokenChainError, Entry, check
from fednot.cli import listing, options, tables
from fednot.cli.documents import documents
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, usage
from fednot.cli.groups import unless_below
from fednot.cli.session import Session, verb
from fednot.v1 import audit_pb2

app = typer.Typer(help="Show who asked what and what was refused; check that nothing was changed.")

_HASH: Final = re.compile(r"[0-9a-f]{64}")
BROKEN: Final = "AUDIT_BROKEN"


def _hash(value: str) -> str:
    if value and not _HASH.fullmatch(value):
        raise typer.BadParameter("give the 64 hexadecimal digits that `audit verify` printed")
    return value


Newest = Annotated[
    int, typer.Option("--limit", min=1, max=1_000_000, help="How many to list, newest last.")
]
Head = Annotated[
    str,
    typer.Option(
        metavar="HASH",
        callback=_hash,
        help="A head that was noted earlier, which the chain must still hold.",
        show_default=False,
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="ROLE/NAME", help="Such as client/clinic-a or officer/dora.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether you are sure.")]


@app.callback(invoke_without_command=True)
@unless_below
@verb
def audit(session: Session, limit: Newest = options.DEFAULT_LIMIT) -> ExitCode:
    """Show who asked what and what was refused, newest last."""
    found = listing.last_audit_entries(session, limit)
    if session.output.json:
        session.output.document({"entries": documents(found)})
    else:
        session.output.show(tables.audit(found))
    return ExitCode.DONE


@app.command()
@verb
def verify(session: Session, head: Head = "") -> ExitCode:
    """Fetch every entry, check the chain, and print its head: keep that where the server is not."""
    try:
        found = check(map(entry_of, listing.audit_entries(session)), known=head)
    except BrokenChainError as error:
        raise CliError(
            f"the audit is not whole: {error}",
            ExitCode.FAILED,
            reason=BROKEN,
            remedy="Keep a copy of the state, and ask who may write to the server's database.",
        ) from error
    if session.output.json:
        session.output.document({"entries": found.entries, "head": found.hash})
    else:
        session.output.line(f"{found.entries} entries, none changed, missing or moved")
        session.output.line(f"head: {found.hash}")
    return ExitCode.DONE


@app.command()
@verb
def forget(session: Session, name: Name, yes: Yes = False) -> ExitCode:
    """Destroy the key that ties a name to its pseudonym in the audit; it cannot be undone."""
    if not yes:
        _confirm(name)
    request = audit_pb2.DestroyPseudonymRequest(name=name)
    pseudonym = session.call(session.audit.DestroyPseudonym, request).pseudonym
    if session.output.json:
        session.output.document({"pseudonym": pseudonym})
    else:
        session.output.line(f"{pseudonym} names nobody any more")
    return ExitCode.DONE


def entry_of(message: audit_pb2.AuditEntry) -> Entry:
    """The entry that a message tells of, as it is hashed."""
    return Entry(
        sequence=message.sequence,
        at_microseconds=message.at.ToMicroseconds(),
        actor=message.actor,
        role=sentences.role(message.role),
        action=message.action,
        subject=message.subject,
        outcome=sentences.audit_outcome(message.outcome),
        reason=message.reason,
        job_id=message.job_id,
        version=message.version,
        count=message.count,
        previous_hash=message.previous_hash,
        hash=message.hash,
    )


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise usage("nobody is here to confirm it", "Pass --yes if you are sure.")
    typer.confirm(
        f"From now on nobody can tell that entries of the audit are about {name}. Go on?",
        abort=True,
        err=True,
    )
