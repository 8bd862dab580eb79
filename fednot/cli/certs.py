"""The verbs `certs ...` that need no server: an authority, and the identities that it signs."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer

from fednot.cli import certs_upkeep
from fednot.cli import certs_views as views
from fednot.cli.certs_options import (
    AUTHORITY_VARIABLE,
    DEFAULT_AUTHORITY,
    MOST_DAYS,
    AuthorityDays,
    AuthorityPlace,
    Name,
    RoleName,
)
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import usage
from fednot.cli.output import Output
from fednot.cli.session import local_verb
from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.authority import AUTHORITY_DAYS, Authority
from fednot.identity.authority_files import CERTIFICATE_DAYS
from fednot.identity.description import Description
from fednot.identity.folder import REQUEST, read_credentials, write_request
from fednot.identity.signing_request import MAX_REQUEST_BYTES
from fednot.identity.subject import DEFAULT_DOMAIN, Role, Subject

app = typer.Typer(no_args_is_help=True, help="Make, sign, renew and revoke certificates.")

app.add_typer(certs_upkeep.app)

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
Hosts = Annotated[
    list[str],
    typer.Option(
        "--host", metavar="NAME_OR_IP", help="A name or address of the server; repeatable."
    ),
]
Days = Annotated[int, typer.Option(min=1, max=MOST_DAYS, help="How long the certificate is good.")]
Domain = Annotated[str, typer.Option(help="The trust domain: one name for the federation.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", help="Where the identity goes.", show_default="DIR/ROLE-NAME"
    ),
]


@app.command()
@local_verb
def init(
    output: Output,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", envvar=AUTHORITY_VARIABLE, help="A new directory.")
    ] = DEFAULT_AUTHORITY,
    domain: Domain = DEFAULT_DOMAIN,
    hosts: Hosts = [],  # noqa: B006
    days: AuthorityDays = int(AUTHORITY_DAYS),
) -> ExitCode:
    """Make a private authority, and the server's certificate."""
    _check_hosts(hosts)
    with views.faults_told():
        authority = Authority.create(
            directory, domain=domain, hosts=hosts or _hosts_of_this_machine(), days=days
        )
        server = read_credentials(authority.server_folder)
        found = views.described(authority)[0]
    if output.json:
        output.document(
            {
                "directory": str(directory),
                "domain": domain,
                "authorities": views.authority_documents([found]),
                "server": views.credentials_document(server),
            }
        )
        return ExitCode.DONE
    place = shlex.quote(str(directory))
    names = ", ".join(certificates.hosts_of(server.certificate))
    output.line(f"authority of {domain} until {views.minute(found.ends)}: {directory}")
    output.line(f"{views.until(authority.server_folder, server)} (dial it as {names})")
    output.line("next:")
    output.line(f"  fednot-server --authority {place} ...")
    output.line(f"  fednot certs issue operator NAME --authority {place}")
    output.line(f"  fednot certs issue client NAME --authority {place}")
    output.line(f"Keep {directory} secret: whoever has its keys can be anyone.")
    return ExitCode.DONE


@app.command()
@local_verb
def issue(
    output: Output,
    role: RoleName,
    name: Name,
    authority: AuthorityPlace = DEFAULT_AUTHORITY,
    out: Out = None,
    days: Days = int(CERTIFICATE_DAYS),
    hosts: Hosts = [],  # noqa: B006
) -> ExitCode:
    """Make a key and its certificate: an identity folder to use here or to carry elsewhere."""
    _check_hosts(hosts)
    with views.faults_told():
        keeper = Authority.open(authority)
        subject = Subject(role, name, keeper.domain)
        folder = out or _default_folder(keeper, subject)
        found = keeper.issue(
            subject, folder, days=days, hosts=hosts or _present_hosts(subject, folder)
        )
    if output.json:
        output.document({"folder": str(folder), "certificate": views.credentials_document(found)})
    else:
        output.line(views.until(folder, found))
    return ExitCode.DONE


@app.command()
@local_verb
def request(
    output: Output,
    role: RoleName,
    name: Name,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where key and request go.")],
    domain: Domain = DEFAULT_DOMAIN,
) -> ExitCode:
    """Make a key here, and a request to carry to the authority; the key stays here."""
    with views.faults_told():
        subject = Subject(role, name, domain)
        digest = write_request(out, subject)
    if output.json:
        output.document(
            {
                "folder": str(out),
                "request": str(out / REQUEST),
                "uri": subject.uri,
                "key_sha256": digest,
            }
        )
        return ExitCode.DONE
    output.line(f"request of {subject} ({subject.uri}): {out / REQUEST}")
    output.line(f"sha256 of its key: {digest}")
    output.line(
        f"Have it signed by `fednot certs sign {role} {name} {REQUEST}`, compare the sha256, and "
        f"put the cert.pem and ca.pem that come back into {out}."
    )
    return ExitCode.DONE


@app.command()
@local_verb
def sign(
    output: Output,
    role: RoleName,
    name: Name,
    request_file: Annotated[
        Path, typer.Argument(metavar="REQUEST", help="The request.pem that was brought.")
    ],
    authority: AuthorityPlace = DEFAULT_AUTHORITY,
    out: Out = None,
    days: Days = int(CERTIFICATE_DAYS),
    hosts: Hosts = [],  # noqa: B006
) -> ExitCode:
    """Sign a request: writes cert.pem and ca.pem, which are public, to carry back."""
    _check_hosts(hosts)
    with views.faults_told():
        keeper = Authority.open(authority)
        subject = Subject(role, name, keeper.domain)
        folder = out or _default_folder(keeper, subject)
        with request_file.open("rb") as file:
            asked = file.read(MAX_REQUEST_BYTES + 1)
        signed = keeper.sign(asked, subject, days=days, hosts=hosts, folder=folder)
        found = Description.of_pem(signed.chain)[0]
    if output.json:
        certificate = views.identity_document(subject, found)
        output.document({"folder": str(folder), "certificate": certificate})
        return ExitCode.DONE
    output.line(f"{subject} until {views.minute(found.ends)}: {folder}")
    output.line(f"sha256 of the key: {signed.key_digest}")
    output.line(
        f"If it is not the sha256 that the requester sees: `fednot certs revoke --serial "
        f"{signed.serial:x}`."
    )
    return ExitCode.DONE


def _default_folder(authority: Authority, subject: Subject) -> Path:
    if subject.role is Role.SERVER:
        return authority.server_folder
    return authority.directory / f"{subject.role}-{subject.name}"


def _present_hosts(subject: Subject, folder: Path) -> Sequence[str]:
    if subject.role is not Role.SERVER:
        return ()
    with suppress(FednotError):
        return certificates.hosts_of(read_credentials(folder).certificate)
    return ()


def _hosts_of_this_machine() -> list[str]:
    name = socket.gethostname()
    with suppress(ValueError):
        return list(dict.fromkeys([*LOCAL_HOSTS, certificates.checked_host(name)]))
    return list(LOCAL_HOSTS)


def _check_hosts(hosts: Sequence[str]) -> None:
    for name in hosts:
        try:
            certificates.checked_host(name)
        except ValueError as error:
            raise usage(f"--host {error}") from error
