"""The server's own identity, and whom it takes callers for; both while their files are replaced."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc

from fednot.errors import CATALOGUE, FednotError, Reason
from fednot.identity.authority import Authority, AuthorityError
from fednot.identity.certificates import hosts_of
from fednot.identity.diagnosis import exposed_key
from fednot.identity.folder import Credentials, Signature, read_credentials
from fednot.identity.holders import Certificate
from fednot.identity.subject import Subject
from server.identity_files import IdentityFiles, lists_signature, signature
from server.records import Caller
from server.upkeep import Upkeep

log = logging.getLogger("server.identity")

LOOK_EVERY: Final = 1.0
_BY_HAND: Final = CATALOGUE[Reason.SERVER_CERTIFICATE_EXPIRED].remedy
_ROTATE: Final = "Make a new one: `fednot certs rotate`."


class IdentityError(RuntimeError):
    """An identity that the server cannot start with; the message says what to do."""


def open_identity(folder: Path, revocations: Path | None, authority: Path | None) -> ServerIdentity:
    """The identity of a folder. `authority` is the directory of the one that the server signs with.

    Raises IdentityError.
    """
    try:
        signing = Authority.open(authority) if authority else None
        lists = revocations or (signing.revocations if signing else None)
        opened = ServerIdentity(folder, lists, signing)
    except FednotError as error:
        raise IdentityError(error.advice) from error
    except AuthorityError as error:
        raise IdentityError(str(error)) from error
    exposed = exposed_key(folder)
    if exposed:
        log.warning("%s; chmod 600 makes it this server's alone", exposed)
    return opened


class ServerIdentity:
    """Certificate, trusted authorities and revocations, as their files say now.

    `run` reads them again when they were replaced. Files that cannot be used leave the ones before
    in force; `fault` then says why, and is "" otherwise. New revocations are taken even then, if
    the authorities in force signed them. With an authority the server signs, and renews its own
    certificate at two thirds of its lifetime.
    """

    def __init__(
        self,
        folder: Path,
        revocations: Path | None,
        authority: Authority | None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises FednotError or AuthorityError if the server cannot serve with it now."""
        self.authority: Final = authority
        self.fault = ""
        self._folder = folder
        self._revocations = revocations
        self._clock = clock
        self._lock = threading.Lock()
        self._upkeep = Upkeep(clock)
        self._suspect = ""
        self._renewed_for = b""
        self._trust_digest = _digest(authority)
        self._seen: Signature = signature(folder, revocations)
        self._seen_lists = lists_signature(revocations)
        self._present = self._first(authority)
        self._begin()

    def _first(self, authority: Authority | None) -> IdentityFiles:
        """The files; a folder elsewhere may still trust what the authority has retired."""
        if authority is not None:
            self._check_domain(authority)
        try:
            return IdentityFiles.read(self._folder, self._revocations)
        except AuthorityError:
            if authority is None or self._is_its_own(authority):
                raise
        stale = IdentityFiles.read(self._folder, None)
        if stale.credentials.trust == authority.trust_pem:
            return stale.with_revocations(self._revocations)
        self._issue(authority, stale.credentials)
        return IdentityFiles.read(self._folder, self._revocations)

    def _check_domain(self, authority: Authority) -> None:
        domain = read_credentials(self._folder).subject.domain
        if authority.domain != domain:
            raise FednotError(
                Reason.INVALID_IDENTITY,
                f"the certificate in {self._folder} is for the trust domain {domain!r}, and "
                f"the authority in {authority.directory} is that of {authority.domain!r}",
            )

    def _begin(self) -> None:
        try:
            self._present.check_dates(self._clock())
        except FednotError:
            if self.authority is None:
                raise
            self._renew(self.authority)
            self._present = IdentityFiles.read(self._folder, self._revocations)

    @property
    def subject(self) -> Subject:
        """Who the server is."""
        return self._present.credentials.subject

    @property
    def domain(self) -> str:
        """The trust domain."""
        return self.subject.domain

    @property
    def own(self) -> Credentials:
        """What the server serves with now: the same object until its files were replaced."""
        return self._present.credentials

    @property
    def trust(self) -> bytes:
        """The authorities that the server trusts, as PEM."""
        return self._present.credentials.trust

    @property
    def trust_digest(self) -> str:
        """sha256, in hexadecimal, of the authorities that a client gets with a certificate; ""
        without an authority.
        """
        return self._trust_digest

    def certificate_expiries(self) -> dict[str, float]:
        """When the server's certificate ends, and the authority that issued it, in seconds since
        the epoch; 0 for an authority that is not among the trusted ones.
        """
        certificate, issuer = self._present.credentials.certificate, self._present.issuer
        return {
            "server": certificate.not_valid_after_utc.timestamp(),
            "authority": issuer.not_valid_after_utc.timestamp() if issuer else 0.0,
        }

    def caller_of(self, pem: bytes) -> Caller:
        """Who shows a certificate. Raises FednotError if it does not hold at this moment."""
        holder = self._present.holders.judge(pem, self._clock())
        return Caller(holder.subject.role, holder.subject.name, holder.ends)

    def holds(self, pem: bytes) -> bool:
        """Whether a certificate holds at this moment."""
        try:
            self.caller_of(pem)
        except FednotError:
            return False
        return True

    def holder_of(self, pem: bytes) -> Caller:
        """Whom a certificate names, whether or not it holds; nobody if it is not of ours."""
        subject = self._present.holders.named_in(pem)
        return Caller(subject.role, subject.name) if subject else Caller()

    def credentials(self) -> grpc.ServerCredentials:
        """For the listener that demands a certificate; each handshake takes the present files."""
        return _serving(lambda: self._present.mutual, demand=True)

    def enrolment_credentials(self) -> grpc.ServerCredentials:
        """For the listener that asks for no certificate."""
        return _serving(lambda: self._present.enrolment, demand=False)

    async def run(self) -> None:
        """Keeps the identity up to date until it is cancelled.

        A renewal may wait for the authority's lock; revocations are read meanwhile.
        """
        looking_after = self._always(lambda: asyncio.to_thread(self._look_after))
        await asyncio.gather(self._always(self.refresh), looking_after)

    async def _always(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("the identity could not be looked after")
            await asyncio.sleep(LOOK_EVERY)

    async def refresh(self) -> None:
        """Reads the files again if they were replaced."""
        await asyncio.to_thread(self._refresh)

    def _refresh(self) -> None:
        with self._lock:
            faults = [
                str(error)
                for step in (self._read_again, self._read_digest)
                if (error := _error_of(step)) is not None
            ]
            if faults:
                self._doubt(faults[0])
            else:
                self._trusts_its_files()

    def _read_digest(self) -> None:
        self._trust_digest = _digest(self.authority)

    def _read_again(self) -> None:
        seen, lists = signature(self._folder, self._revocations), lists_signature(self._revocations)
        if seen == self._seen:
            return
        try:
            found = IdentityFiles.read(self._folder, self._revocations)
            found.check_dates(self._clock())
        except (FednotError, AuthorityError):
            self._read_lists_alone(lists)
            raise
        self._present, self._seen, self._seen_lists = found, seen, lists
        log.info("the identity's files were replaced and are in force")

    def _read_lists_alone(self, lists: Signature) -> None:
        """Takes revocations, whatever the other files are worth, if those in force signed them."""
        if lists == self._seen_lists:
            return
        with suppress(AuthorityError):
            self._present = self._present.with_revocations(self._revocations)
            self._seen_lists = lists
            log.info("the revocation lists were replaced and are in force")

    def _doubt(self, sentence: str) -> None:
        """Complains at the second look, since a writer may be half way at the first."""
        if sentence == self._suspect and sentence != self.fault:
            self.fault = sentence
            log.error("the identity's files cannot be used, the ones before stay: %s", sentence)
        self._suspect = sentence

    def _trusts_its_files(self) -> None:
        if self.fault:
            log.info("the identity's files can be used again")
        self.fault = self._suspect = ""

    def _look_after(self) -> None:
        certificate = self._present.credentials.certificate
        if self.authority is None:
            what = f"the server's certificate in {self._folder}"
            self._upkeep.warn_of(certificate, what, _BY_HAND)
        else:
            self._renew_in_time(self.authority, certificate)
        if self._present.issuer is not None:
            self._upkeep.warn_of(self._present.issuer, "the authority", _ROTATE)

    def _renew_in_time(self, authority: Authority, certificate: Certificate) -> None:
        try:
            if self._upkeep.is_due(certificate) or self._lags_behind(authority):
                self._renew(authority)
        except (FednotError, AuthorityError) as error:
            self._upkeep.complain("renewal", f"the certificate cannot be renewed: {error}")

    def _lags_behind(self, authority: Authority) -> bool:
        """Whether the folder is to follow at once, or again after an attempt that failed.

        The authority itself keeps up the folder that is its own.
        """
        if self._is_its_own(authority) or authority.trust_pem == self.trust:
            return False
        return self._upkeep.may_renew() or authority.trust_pem != self._renewed_for

    def _is_its_own(self, authority: Authority) -> bool:
        return self._folder.resolve() == authority.server_folder.resolve()

    def _renew(self, authority: Authority) -> None:
        self._issue(authority, self._present.credentials)

    def _issue(self, authority: Authority, credentials: Credentials) -> None:
        self._upkeep.renews()
        self._renewed_for = authority.trust_pem
        hosts = hosts_of(credentials.certificate)
        authority.issue(credentials.subject, self._folder, hosts=hosts)
        log.info("the server's certificate was renewed in %s", self._folder)


class _Fetcher:
    """Gives gRPC the present configuration at a handshake, or None if it has that one already."""

    def __init__(self, present: Callable[[], grpc.ServerCertificateConfiguration]) -> None:
        self._present = present
        self._given = present()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        found = self._present()
        if found is self._given:
            return None
        self._given = found
        return found


def _serving(
    present: Callable[[], grpc.ServerCertificateConfiguration], *, demand: bool
) -> grpc.ServerCredentials:
    fetcher = _Fetcher(present)
    return grpc.dynamic_ssl_server_credentials(present(), fetcher, demand)  # type: ignore[arg-type]


def _error_of(step: Callable[[], None]) -> Exception | None:
    try:
        step()
    except (FednotError, AuthorityError) as error:
        return error
    return None


def _digest(authority: Authority | None) -> str:
    return hashlib.sha256(authority.trust_pem).hexdigest() if authority else ""
