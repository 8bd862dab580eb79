"""What `fednot certs` prints: certificates and authorities as documents, tables and sentences."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from fednot.cli.failures import local, of_finding, usage
from fednot.cli.output import printable
from fednot.errors import FednotError
from fednot.identity import certificates
from fednot.identity.authority import Authority, AuthorityError, Issued
from fednot.identity.description import Description
from fednot.identity.faults import file_fault
from fednot.identity.folder import Credentials
from fednot.identity.subject import Subject, SubjectError

Document = dict[str, Any]
SERIAL_DIGITS = 12


@contextmanager
def faults_told() -> Iterator[None]:
    """Turns faults of certificates and their files into CliError: a wrong name is a wrong command
    line, a bad identity or request is refused, everything else is failed work on this machine.
    """
    try:
        yield
    except SubjectError as error:
        raise usage(str(error)) from error
    except AuthorityError as error:
        raise local(str(error)) from error
    except FednotError as error:
        raise of_finding(error) from error
    except OSError as error:
        raise local(file_fault(error, Path())) from error


def identity_document(subject: Subject, found: Description) -> Document:
    """A certificate of a subject."""
    return {
        "role": str(subject.role),
        "name": subject.name,
        "uri": subject.uri,
        "serial": f"{found.serial:x}",
        "key_sha256": found.key_digest,
        "hosts": list(found.hosts),
        "issuer": found.issuer,
        "begins_at": moment(found.begins),
        "expires_at": moment(found.ends),
    }


def credentials_document(found: Credentials) -> Document:
    """The certificate of an identity folder."""
    return identity_document(found.subject, Description.of(found.certificate))


def issued_document(found: Issued) -> Document:
    """A certificate of an authority's ledger."""
    return {
        "role": str(found.subject.role),
        "name": found.subject.name,
        "uri": found.subject.uri,
        "serial": f"{found.serial:x}",
        "key_sha256": found.key_digest,
        "begins_at": moment(found.begins),
        "expires_at": moment(found.ends),
        "revoked_at": moment(found.revoked_at) if found.revoked_at else None,
        "state": str(found.state(certificates.now())),
    }


def authority_documents(found: Iterable[Description]) -> list[Document]:
    """The trusted authorities, newest first."""
    return [
        {
            "name": each.name,
            "key_sha256": each.key_digest,
            "begins_at": moment(each.begins),
            "expires_at": moment(each.ends),
        }
        for each in found
    ]


def described(authority: Authority) -> tuple[Description, ...]:
    """What an authority's trusted certificates say, newest first."""
    return Description.of_pem(authority.trust_pem)


def certificates_table(found: Sequence[Issued]) -> Table:
    """The certificates that were issued, by subject."""
    at = certificates.now()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ROLE", "NAME", "SERIAL", "VALID FROM", "VALID UNTIL", "STATE"):
        table.add_column(column, overflow="fold")
    for each in found:
        _add(
            table,
            str(each.subject.role),
            each.subject.name,
            f"{each.serial:x}"[:SERIAL_DIGITS],
            minute(each.begins),
            minute(each.ends),
            _state(each, at),
        )
    return table


def facts_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, a line for each."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, "bold"), Text(printable(value)))
    return table


def folder_rows(found: Credentials, state: str) -> Iterator[tuple[str, str]]:
    """An identity folder, line by line."""
    said = Description.of(found.certificate)
    yield "identity", f"{found.subject}, {found.subject.uri}"
    yield "state", state
    yield "valid", f"{minute(said.begins)} to {minute(said.ends)}"
    if said.hosts:
        yield "hosts", ", ".join(said.hosts)
    yield "serial", f"{said.serial:x}"
    yield "key sha256", said.key_digest
    yield "issued by", said.issuer
    for each in Description.of_pem(found.trust):
        yield "trusts", f"{each.name}, until {minute(each.ends)}"


def until(folder: Path, found: Credentials) -> str:
    """Where an identity is and how long it is good, as a sentence."""
    ends = found.certificate.not_valid_after_utc
    return f"{found.subject} until {minute(ends)}: {folder}"


def moment(at: dt.datetime) -> str:
    """A time for programs: RFC 3339 in UTC."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def minute(at: dt.datetime) -> str:
    """A time for people, in UTC."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%MZ")


def _state(found: Issued, at: dt.datetime) -> str:
    state = str(found.state(at))
    return f"{state} {minute(found.revoked_at)}" if found.revoked_at else state


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))
