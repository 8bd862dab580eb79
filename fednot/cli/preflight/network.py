"""What stands between this machine and a server: identity, network, TLS, clocks, rights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from fednot.cli.certs_views import moment
from fednot.cli.credentials import callers_credentials, ending
from fednot.cli.failures import of_finding, unreachable
from fednot.cli.output import Output
from fednot.cli.preflight import reached
from fednot.cli.preflight.check import Check, Outcome, Step, ok
from fednot.cli.session import Session
from fednot.identity import certificates, lifetime, probing
from fednot.identity.diagnosis import (
    DEFAULT_SECONDS,
    check_dates_of,
    diagnose,
    exposed_key,
    file_of,
)
from fednot.identity.folder import KEY, Credentials
from fednot.identity.probing import Deadline
from fednot.identity.strangers import strangers_finding
from fednot.v1 import identity_pb2

CLOCKS_APART: Final = 60.0


class Network:
    """The checks of one server; no look or call of theirs takes longer than the timeout.

    Without an identity and not `insecure` only what a stranger can see is looked at.
    """

    def __init__(
        self,
        address: str,
        identity: Path | None,
        *,
        insecure: bool,
        timeout: float,
        output: Output,
    ) -> None:
        self.permitted: list[str] = []
        self._address = address
        self._identity = identity
        self._stranger = identity is None and not insecure
        self._timeout = timeout
        self._output = output
        self._credentials: Credentials | None = None
        self._answer = identity_pb2.GetIdentityResponse()
        self._server_ahead = 0.0

    def steps(self) -> Iterator[Step]:
        """The checks in their order."""
        tls: tuple[str, ...] = ("port",)
        if self._identity is not None:
            yield "identity", self._files, ()
            yield "key", self._key, ("identity",)
            yield "dates", self._dates, ("identity",)
            tls = ("identity", "dates", "port")
        yield "address", self._resolved, ()
        yield "port", self._reached, ("address",)
        if self._stranger:
            yield "tls", self._shown, ("port",)
            return
        yield "tls", self._secured, tls
        yield "caller", self._known, ("tls",)
        yield "clock", self._clocks, ("caller",)
        yield "calls", self._calls, ("caller",)
        if self._identity is not None:
            yield "renewal", self._renewal, ("caller",)

    def _files(self) -> Check:
        folder = self._identity or Path()
        self._credentials = callers_credentials(folder)
        return ok("identity", f"{self._credentials.subject.uri} in {folder}")

    def _key(self) -> Check:
        place = file_of(self._own.folder, KEY)
        exposed = exposed_key(self._own.folder)
        if exposed:
            return Check("key", Outcome.WARNING, exposed, f"chmod 600 {place}")
        return ok("key", f"{place} is its owner's alone")

    def _dates(self) -> Check:
        check_dates_of(self._own)
        found = self._own.certificate
        begins, ends = moment(found.not_valid_before_utc), moment(found.not_valid_after_utc)
        return ok("dates", f"valid from {begins} to {ends}")

    def _resolved(self) -> Check:
        return reached.resolved(self._address, self._deadline())

    def _reached(self) -> Check:
        return reached.reached(self._address, self._deadline())

    def _secured(self) -> Check:
        finding = diagnose(self._address, self._credentials, timeout=self._seconds())
        if finding is not None:
            raise of_finding(finding)
        if self._credentials is None:
            return ok("tls", "plaintext, on this machine")
        shown = probing.certificate_at(self._address, self._deadline())
        if shown is None:
            raise unreachable(f"{self._address} did not show its certificate a second time")
        end = lifetime.remaining(shown, certificates.now())
        told = f"the server's certificate is trusted, and yours is not refused; it ends {end}"
        if lifetime.ends_soon(shown, certificates.now()):
            return Check("tls", Outcome.WARNING, told, "Tell whoever runs the server.")
        return ok("tls", told)

    def _shown(self) -> Check:
        shown = probing.certificate_at(self._address, self._deadline())
        finding = strangers_finding(self._address, shown)
        if finding is not None:
            raise of_finding(finding)
        told = "the server's certificate is for this name; whose it is cannot be told yet"
        remedy = "Give --identity FOLDER, which `fednot certs enroll` makes, to have it checked."
        return Check("tls", Outcome.WARNING, told, remedy)

    def _known(self) -> Check:
        session = Session(
            self._address,
            timeout=self._timeout,
            output=self._output,
            credentials=self._credentials,
        )
        request = identity_pb2.GetIdentityRequest()
        with closing(session):
            session.call(session.identity.GetIdentity, request)  # the dial is no part of the clocks
            before = time.time()
            found = session.call(session.identity.GetIdentity, request)
            here = (before + time.time()) / 2
        self._answer = found
        self.permitted = list(found.permitted)
        self._server_ahead = found.now.ToNanoseconds() / 1e9 - here
        version = f"the server runs fednot {found.software_version}"
        if not found.HasField("caller"):
            return ok("caller", f"nobody asks who you are in plaintext; {version}")
        role = identity_pb2.Role.Name(found.caller.role).removeprefix("ROLE_").lower()
        return ok("caller", f"you are {role} {found.caller.name} of {found.domain}; {version}")

    def _clocks(self) -> Check:
        apart = abs(self._server_ahead)
        side = "ahead of" if self._server_ahead > 0 else "behind"
        told = f"the server's clock is {apart:.1f} s {side} this one"
        if apart > CLOCKS_APART:
            return Check("clock", Outcome.WARNING, told, "Set the clock that is wrong, as by NTP.")
        return ok("clock", told)

    def _calls(self) -> Check:
        by_service: dict[str, list[str]] = {}
        for method in self.permitted:
            service, _, call = method.rpartition("/")
            by_service.setdefault(service.rpartition(".")[2], []).append(call)
        rows = [f"{service}: {', '.join(calls)}" for service, calls in by_service.items()]
        return ok("calls", "you may call " + ("; ".join(rows) or "nothing"))

    def _renewal(self) -> Check:
        by = "this server renews it" if self._answer.can_renew else "this server signs none"
        told = f"{ending(self._own)}; {by}"
        if lifetime.ends_soon(self._own.certificate, certificates.now()):
            remedy = (
                "A client renews by itself; others by `fednot certs renew`."
                if self._answer.can_renew
                else "Have a new one issued where the authority is: `fednot certs issue`."
            )
            return Check("renewal", Outcome.WARNING, told, remedy)
        return ok("renewal", told)

    @property
    def _own(self) -> Credentials:
        if self._credentials is None:
            raise RuntimeError("the identity was not read")
        return self._credentials

    def _seconds(self) -> float:
        return min(DEFAULT_SECONDS, self._timeout)

    def _deadline(self) -> Deadline:
        return Deadline(self._seconds())
