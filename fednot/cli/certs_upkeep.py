"""The verbs `certs ...` that look after what was issued, and after the authority itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fednot.cli import certs_views as views
from fednot.cli.certs_options import DEFAULT_AUTHORITY, AuthorityDays, AuthorityPlace
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import usage
from fednot.cli.output import Output
from fednot.cli.session import local_verb
from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.authority import AUTHORITY_DAYS, Authority
from fednot.identity.description import Description
from fednot.identity.folder import Credentials, read_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.trust import Trust

app = typer.Typer()


@app.command()
@local_verb
def revoke(
    output: Output,
    role: Annotated[
        Role | None, typer.Argument(metavar="ROLE", help=f"One of {', '.join(Role)}.")
    ] = None,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose certificates.")] = "",
    serial: Annotated[
        str, typer.Option(metavar="HEX", help="One certificate: its serial number begins so.")
    ] = "",
    authority: AuthorityPlace = DEFAULT_AUTHORITY,
) -> ExitCode:
    """Revoke all certificates of a name, or the one with a serial number."""
    if (not role or not name) == (not serial) or bool(role) != bool(name):
        raise usage("give ROLE and NAME, or --serial HEX")
    with views.faults_told():
        keeper = Authority.open(authority)
        found = keeper.revoke(Subject(role, name, keeper.domain) if role else serial)
    if output.json:
        rows = [views.issued_document(each) for each in found]
        output.document({"revoked": rows, "revocations": str(keeper.revocations)})
        return ExitCode.DONE
    for each in found:
        output.line(f"revoked: {each.subject}, serial {each.serial:x}")
    output.line(f"the server reads the list from {keeper.revocations}")
    if any(each.subject.role is Role.SERVER for each in found):
        output.note(
            "warning: clients read no revocation list. To shut out a server whose key was stolen: "
            "`fednot certs rotate`, renew all, `fednot certs retire`."
        )
    return ExitCode.DONE


@app.command(name="list")
@local_verb
def list_(output: Output, authority: AuthorityPlace = DEFAULT_AUTHORITY) -> ExitCode:
    """List the certificates that were issued, and what they are good for."""
    with views.faults_told():
        keeper = Authority.open(authority)
        issued, authorities = keeper.issued(), views.described(keeper)
    if output.json:
        output.document(
            {
                "directory": str(authority),
                "domain": keeper.domain,
                "authorities": views.authority_documents(authorities),
                "certificates": [views.issued_document(each) for each in issued],
            }
        )
        return ExitCode.DONE
    output.show(views.certificates_table(issued))
    for each in authorities:
        output.note(f"trusted: {each.name} until {views.minute(each.ends)}")
    return ExitCode.DONE


@app.command()
@local_verb
def rotate(
    output: Output,
    authority: AuthorityPlace = DEFAULT_AUTHORITY,
    days: AuthorityDays = int(AUTHORITY_DAYS),
) -> ExitCode:
    """Make a new authority beside the present one, and a new certificate for the server."""
    with views.faults_told():
        keeper = Authority.open(authority)
        keeper.rotate(days=days)
    return _authorities_told(output, keeper)


@app.command()
@local_verb
def retire(
    output: Output,
    authority: AuthorityPlace = DEFAULT_AUTHORITY,
    force: Annotated[
        bool, typer.Option("--force", help="Even if certificates are shut out by it.")
    ] = False,
) -> ExitCode:
    """End the trust in all authorities but the newest, and destroy their keys."""
    with views.faults_told():
        keeper = Authority.open(authority)
        keeper.retire(force=force)
    return _authorities_told(output, keeper)


@app.command()
@local_verb
def show(
    output: Output,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", envvar="FEDNOT_IDENTITY", help="An identity folder."),
    ],
) -> ExitCode:
    """Show whose identity a folder holds, until when, and whom it trusts."""
    with views.faults_told():
        found = read_credentials(folder)
    problem = _problem_of(found)
    if output.json:
        output.document(
            {
                "folder": str(folder),
                "certificate": views.credentials_document(found),
                "authorities": views.authority_documents(Description.of_pem(found.trust)),
                "reason": str(problem.reason) if problem else "",
                "problem": problem.message if problem else "",
            }
        )
    else:
        rows = views.folder_rows(found, problem.message if problem else "good")
        output.show(views.facts_table(rows))
    return ExitCode.DONE


def _problem_of(found: Credentials) -> FednotError | None:
    try:
        Trust.of_pem(found.trust).check(found.certificate, certificates.now())
    except FednotError as error:
        return error
    return None


def _authorities_told(output: Output, keeper: Authority) -> ExitCode:
    with views.faults_told():
        authorities, needed = views.described(keeper), keeper.needed_older()
        server = keeper.server_folder if keeper.server_folder.exists() else None
    if output.json:
        output.document(
            {
                "authorities": views.authority_documents(authorities),
                "server": str(server) if server else None,
                "to_renew": [views.issued_document(each) for each in needed],
            }
        )
        return ExitCode.DONE
    for each in authorities:
        output.line(f"trusted: {each.name} until {views.minute(each.ends)}")
    if server is None:
        output.line(
            "The server's identity is kept elsewhere: issue it a certificate of the new one."
        )
    else:
        output.line(f"the server's identity was brought up to it: {server}")
    if needed:
        output.line(f"to be renewed before `fednot certs retire`: {len(needed)} certificates")
        output.show(views.certificates_table(needed))
    return ExitCode.DONE
