"""The verb `preflight`: everything between this machine and a server, checked one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import typer

from fednot import address as addresses
from fednot.cli import options
from fednot.cli.certs_views import moment
from fednot.cli.credentials import callers_credentials, check_address, check_choice, ending
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError, of_finding, unreachable
from fednot.cli.output import Output
from fednot.cli.session import Session, local_verb
from fednot.errors import FednotError
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
from fednot.v1 import identity_pb2

CLOCKS_APART: Final = 60.0
_NAME_WIDTH: Final = 9

app = typer.Typer()


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One check; `code` is the exit code of a failed one."""

    name: str
    outcome: Outcome
    message: str
    remedy: str = ""
    reason: str = ""
    code: ExitCode = ExitCode.DONE

    def document(self) -> dict[str, str]:
        """As it is printed with `--format json`."""
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            "message": self.message,
            "reason": self.reason,
            "remedy": self.remedy,
        }


@app.command()
@local_verb
def preflight(
    output: Output,
    server: options.Server = options.SERVER_DEFAULT,
    identity: options.Identity = None,
    insecure: options.Insecure = False,
    timeout: options.Timeout = options.DEFAULT_TIMEOUT,
) -> ExitCode:
    """Check identity, network, TLS, clocks and rights before the first run."""
    check_address(server)
    check_choice(server, identity, insecure=insecure)
    look = Preflight(server, identity, timeout=timeout, output=output)
    found: list[Check] = []
    for check in look.checks():
        found.append(check)
        if not output.json:
            _print(output, check)
    code = next((check.code for check in found if check.code), ExitCode.DONE)
    if output.json:
        rows = [check.document() for check in found]
        output.document({"checks": rows, "permitted": look.permitted, "exit_code": int(code)})
    return code


class Preflight:
    """The checks. One that others build on takes them with it when it fails."""

    def __init__(
        self, address: str, identity: Path | None, *, timeout: float, output: Output
    ) -> None:
        self.permitted: list[str] = []
        self._address = address
        self._identity = identity
        self._timeout = timeout
        self._output = output
        self._credentials: Credentials | None = None
        self._answer = identity_pb2.GetIdentityResponse()
        self._server_ahead = 0.0

    def checks(self) -> Iterator[Check]:
        """Makes each check in turn; none takes longer than the timeout."""
        bad: set[str] = set()
        for name, step, needs in self._steps():
            missing = [need for need in needs if need in bad]
            if missing:
                check = Check(name, Outcome.SKIPPED, f"not tried, since {missing[0]} failed")
            else:
                check = _made(name, step)
            if check.outcome in (Outcome.FAILED, Outcome.SKIPPED):
                bad.add(name)
            yield check

    def _steps(self) -> Iterator[tuple[str, Callable[[], Check], tuple[str, ...]]]:
        tls: tuple[str, ...] = ("port",)
        if self._identity is not None:
            yield "identity", self._files, ()
            yield "key", self._key, ("identity",)
            yield "dates", self._dates, ("identity",)
            tls = ("identity", "dates", "port")
        yield "address", self._resolved, ()
        yield "port", self._reached, ("address",)
        yield "tls", self._secured, tls
        yield "caller", self._known, ("tls",)
        yield "clock", self._clocks, ("caller",)
        yield "calls", self._calls, ("caller",)
        if self._identity is not None:
            yield "renewal", self._renewal, ("caller",)

    def _files(self) -> Check:
        folder = self._identity or Path()
        self._credentials = callers_credentials(folder)
        return _ok("identity", f"{self._credentials.subject.uri} in {folder}")

    def _key(self) -> Check:
        place = file_of(self._own.folder, KEY)
        exposed = exposed_key(self._own.folder)
        if exposed:
            return Check("key", Outcome.WARNING, exposed, f"chmod 600 {place}")
        return _ok("key", f"{place} is its owner's alone")

    def _dates(self) -> Check:
        check_dates_of(self._own)
        found = self._own.certificate
        begins, ends = moment(found.not_valid_before_utc), moment(found.not_valid_after_utc)
        return _ok("dates", f"valid from {begins} to {ends}")

    def _resolved(self) -> Check:
        if self._address.startswith(addresses.UNIX):
            return _ok("address", self._address)
        try:
            rows = probing.resolve(self._address, self._deadline())
        except (OSError, ValueError) as error:
            raise unreachable(f"{self._address} cannot be resolved: {error}") from error
        found = dict.fromkeys(str(row[4][0]) for row in rows)
        return _ok("address", f"{self._address} is {', '.join(found)}")

    def _reached(self) -> Check:
        if self._address.startswith(addresses.UNIX):
            return _ok("port", "a socket of this machine")
        try:
            probing.connect(self._address, self._deadline()).close()
        except OSError as error:
            raise unreachable(f"no connection to {self._address}: {error}") from error
        return _ok("port", f"{self._address} takes connections")

    def _secured(self) -> Check:
        finding = diagnose(self._address, self._credentials, timeout=self._seconds())
        if finding is not None:
            raise of_finding(finding)
        if self._credentials is None:
            return _ok("tls", "plaintext, on this machine")
        shown = probing.certificate_at(self._address, self._deadline())
        if shown is None:
            raise unreachable(f"{self._address} did not show its certificate a second time")
        end = lifetime.remaining(shown, certificates.now())
        told = f"the server's certificate is trusted, and yours is not refused; it ends {end}"
        if lifetime.ends_soon(shown, certificates.now()):
            return Check("tls", Outcome.WARNING, told, "Tell whoever runs the server.")
        return _ok("tls", told)

    def _known(self) -> Check:
        session = Session(
            self._address,
            timeout=self._timeout,
            output=self._output,
            credentials=self._credentials,
        )
        with closing(session):
            before = time.time()
            found = session.call(session.identity.GetIdentity, identity_pb2.GetIdentityRequest())
            here = (before + time.time()) / 2
        self._answer = found
        self.permitted = list(found.permitted)
        self._server_ahead = found.now.ToNanoseconds() / 1e9 - here
        version = f"the server runs fednot {found.software_version}"
        if not found.HasField("caller"):
            return _ok("caller", f"nobody asks who you are in plaintext; {version}")
        role = identity_pb2.Role.Name(found.caller.role).removeprefix("ROLE_").lower()
        return _ok("caller", f"you are {role} {found.caller.name} of {found.domain}; {version}")

    def _clocks(self) -> Check:
        apart = abs(self._server_ahead)
        side = "ahead of" if self._server_ahead > 0 else "behind"
        told = f"the server's clock is {apart:.1f} s {side} this one"
        if apart > CLOCKS_APART:
            return Check("clock", Outcome.WARNING, told, "Set the clock that is wrong, as by NTP.")
        return _ok("clock", told)

    def _calls(self) -> Check:
        by_service: dict[str, list[str]] = {}
        for method in self.permitted:
            service, _, call = method.rpartition("/")
            by_service.setdefault(service.rpartition(".")[2], []).append(call)
        rows = [f"{service}: {', '.join(calls)}" for service, calls in by_service.items()]
        return _ok("calls", "you may call " + ("; ".join(rows) or "nothing"))

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
        return _ok("renewal", told)

    @property
    def _own(self) -> Credentials:
        if self._credentials is None:
            raise RuntimeError("the identity was not read")
        return self._credentials

    def _seconds(self) -> float:
        return min(DEFAULT_SECONDS, self._timeout)

    def _deadline(self) -> Deadline:
        return Deadline(self._seconds())


def _ok(name: str, message: str) -> Check:
    return Check(name, Outcome.OK, message)


def _made(name: str, step: Callable[[], Check]) -> Check:
    try:
        return step()
    except FednotError as error:
        failure = of_finding(error)
    except CliError as error:
        failure = error
    return Check(
        name, Outcome.FAILED, failure.message, failure.remedy, failure.reason, failure.code
    )


def _print(output: Output, check: Check) -> None:
    output.line(f"{check.outcome:7}  {check.name:{_NAME_WIDTH}} {check.message}")
    if check.remedy:
        output.line(f"{'':7}  {'':{_NAME_WIDTH}} remedy: {check.remedy}")
