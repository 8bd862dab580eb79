"""Every way in which a certificate can be wrong, by the real command over real sockets.

The federation's server is a real one. One with a wrong certificate does not start, so servers whose
certificate is wrong, or ended while they ran, are played by gRPC servers without services.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from support.federation import CALL, LocalFederation, eventually, refusal
from support.forked import FEDNOT, Command
from support.handmade_authority import HandMadeAuthority, days_from_now, serving
from support.identities import HOSTS, Stubs
from support.raw_client import RawClient, constant_update, parts_of

from fednot.channel import open_enrolment_channel
from fednot.errors import Reason
from fednot.identity import certificates
from fednot.identity.folder import read_credentials, write_credentials
from fednot.identity.subject import Role, Subject
from fednot.identity.token import Token
from fednot.v1 import federation_pb2, operator_pb2, operator_pb2_grpc

SECONDS_OF_A_DAY = 24 * 3600
THREE_DAYS_AGO, YESTERDAY_BUT_ONE = days_from_now(-3), days_from_now(-2)
TOMORROW = days_from_now(1)
TRACELESS = ("--task-arg", "trace=no")
OPERATOR = Role.OPERATOR


class Stage:
    """A federation, its authority's key in anybody's hands, another authority, played servers."""

    def __init__(self, folder: Path, federation: LocalFederation, stack: ExitStack) -> None:
        self.folder = folder
        self.federation = federation
        self.identities = federation.identities
        self.forger = self.identities.by_hand()
        self.stranger = HandMadeAuthority("another authority")
        self._stack = stack
        self._made = 0

    @property
    def trust(self) -> bytes:
        return self.identities.authority.trust_pem

    def new_folder(self) -> Path:
        self._made += 1
        return self.folder / f"identity-{self._made}"

    def right(self) -> Path:
        return self.identities.of(OPERATOR, "olga")

    def played(self, identity: Path | None) -> str:
        """The address of a server with an identity; without one it speaks plaintext."""
        return self._stack.enter_context(serving(read_credentials(identity) if identity else None))

    def address(self, host: str) -> str:
        return f"{host}:{self.federation.port}"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The server listens on every address, so that it can be dialled by a name not its own."""
    folder = tmp_path_factory.mktemp("wrong")
    with (
        LocalFederation(folder, server_flags=TRACELESS, host="0.0.0.0") as federation,
        ExitStack() as stack,
    ):
        federation.start_server()
        yield Stage(folder, federation, stack)


Dialled = tuple[Path | None, str]
"""An identity folder, None for plaintext, and the address that is dialled with it."""


def of_another_authority(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.stranger.identity(folder, OPERATOR, "olga", trust=stage.trust)
    return folder, stage.federation.address


def of_another_authority_of_the_same_name(stage: Stage) -> Dialled:
    authority = stage.forger.certificate.subject.rfc4514_string().removeprefix("CN=")
    folder = stage.new_folder()
    HandMadeAuthority(authority).identity(folder, OPERATOR, "olga", trust=stage.trust)
    return folder, stage.federation.address


def expired(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.identity(folder, OPERATOR, "olga", begins=THREE_DAYS_AGO, days=1)
    return folder, stage.federation.address


def not_yet_valid(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.identity(folder, OPERATOR, "olga", begins=TOMORROW, days=3)
    return folder, stage.federation.address


def revoked(stage: Stage) -> Dialled:
    folder = stage.identities.issue(OPERATOR, "resigned")
    stage.federation.reconnect(OPERATOR, "resigned")
    stage.identities.authority.revoke(Subject(OPERATOR, "resigned"))
    stubs = stage.federation.stubs_for(OPERATOR, "resigned")
    eventually("it is revoked", lambda: _is_refused(stubs.operator))
    return folder, stage.federation.address


def of_the_wrong_role(stage: Stage) -> Dialled:
    return stage.identities.of(Role.CLIENT, "c0"), stage.federation.address


def of_a_server(stage: Stage) -> Dialled:
    return stage.identities.server, stage.federation.address


def of_another_domain(stage: Stage) -> Dialled:
    """The authority's key has signed for a federation of another trust domain."""
    key = certificates.new_key()
    signed = certificates.leaf(
        Subject(OPERATOR, "olga", "elsewhere"),
        key.public_key(),
        stage.forger.certificate,
        stage.forger.key,
        days=1,
    )
    folder = stage.new_folder()
    chain, private = certificates.pem_of([signed]), certificates.key_pem(key)
    write_credentials(folder, chain=chain, trust=stage.trust, key=private)
    return folder, stage.federation.address


def with_anothers_key(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    shutil.copytree(stage.right(), folder)
    shutil.copy(stage.identities.of(OPERATOR, "otto") / "key.pem", folder / "key.pem")
    return folder, stage.federation.address


def without_a_key(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    shutil.copytree(stage.right(), folder)
    (folder / "key.pem").unlink()
    return folder, stage.federation.address


def in_plaintext(stage: Stage) -> Dialled:
    return None, stage.federation.address


def to_a_plaintext_server(stage: Stage) -> Dialled:
    return stage.right(), stage.played(None)


def by_a_name_not_the_servers(stage: Stage) -> Dialled:
    return stage.right(), stage.address("127.0.0.2")


def to_a_server_of_another_authority(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.stranger.server(folder)
    return stage.right(), stage.played(folder)


def with_the_trust_of_another_authority(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.identity(folder, OPERATOR, "olga", trust=stage.stranger.trust)
    return folder, stage.federation.address


def to_an_expired_server(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.server(folder, begins=THREE_DAYS_AGO, days=1)
    return stage.right(), stage.played(folder)


def to_a_server_of_the_future(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.server(folder, begins=TOMORROW, days=3)
    return stage.right(), stage.played(folder)


def to_a_client_that_plays_the_server(stage: Stage) -> Dialled:
    folder = stage.new_folder()
    stage.forger.identity(folder, Role.CLIENT, "c0", hosts=HOSTS)
    return stage.right(), stage.played(folder)


WRONG: dict[Callable[[Stage], Dialled], tuple[Reason, tuple[str, ...]]] = {
    of_another_authority: (Reason.UNTRUSTED_CERTIFICATE, ("cert.pem", "another authority")),
    of_another_authority_of_the_same_name: (Reason.UNTRUSTED_CERTIFICATE, ("cert.pem", "olga")),
    expired: (Reason.CERTIFICATE_EXPIRED, ("cert.pem", "olga", f"{YESTERDAY_BUT_ONE:%Y-%m-%d}")),
    not_yet_valid: (Reason.CERTIFICATE_NOT_YET_VALID, ("cert.pem", "olga", f"{TOMORROW:%Y-%m-%d}")),
    revoked: (Reason.CERTIFICATE_REVOKED, ("operator resigned",)),
    of_the_wrong_role: (Reason.WRONG_ROLE, ("client/c0", "operator")),
    of_a_server: (Reason.WRONG_ROLE, ("server",)),
    of_another_domain: (Reason.INVALID_CERTIFICATE, ("elsewhere", "fednot")),
    with_anothers_key: (Reason.INVALID_IDENTITY, ("key.pem",)),
    without_a_key: (Reason.INVALID_IDENTITY, ("key.pem",)),
    in_plaintext: (Reason.SERVER_SPEAKS_TLS, ("--insecure",)),
    to_a_plaintext_server: (Reason.SERVER_SPEAKS_PLAINTEXT, ("plaintext",)),
    by_a_name_not_the_servers: (Reason.SERVER_NAME_MISMATCH, ("127.0.0.2", "localhost")),
    to_a_server_of_another_authority: (Reason.SERVER_UNTRUSTED, ("another authority", "ca.pem")),
    with_the_trust_of_another_authority: (Reason.SERVER_UNTRUSTED, ("ca.pem",)),
    to_an_expired_server: (Reason.SERVER_CERTIFICATE_EXPIRED, (f"{YESTERDAY_BUT_ONE:%Y-%m-%d}",)),
    to_a_server_of_the_future: (Reason.SERVER_CERTIFICATE_NOT_YET_VALID, (f"{TOMORROW:%Y-%m-%d}",)),
    to_a_client_that_plays_the_server: (Reason.SERVER_UNTRUSTED, ("not a server's",)),
}


def _is_refused(stub: operator_pb2_grpc.OperatorServiceStub) -> bool:
    try:
        stub.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    return False


def start(verb: str, dialled: Dialled) -> Command:
    """Starts a verb of `fednot` in a process of its own."""
    identity, address = dialled
    who = ("--identity", str(identity)) if identity else ("--insecure",)
    return Command(FEDNOT, [verb, "--server", address, *who, "--format", "json"])


def ended(process: Command) -> tuple[int, str, str]:
    """Its exit code and what it printed."""
    found = process.ended(30)
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_each_has_a_reason_of_its_own_and_says_what_is_wrong(
    stage: Stage, wrong: Callable[[Stage], Dialled]
) -> None:
    """The call that is made says it, and so does `preflight` before the first run."""
    reason, texts = WRONG[wrong]
    dialled = wrong(stage)
    call, check = start("status", dialled), start("preflight", dialled)

    code, output, errors = ended(call)
    told = json.loads(errors)
    assert code != 0
    assert output == ""
    assert told["reason"] == reason, told
    assert told["remedy"]
    _assert_names(texts, told["error"])
    code, output, _ = ended(check)
    if wrong is not of_the_wrong_role:
        failed = [row for row in json.loads(output)["checks"] if row["outcome"] == "failed"]
        assert code != 0
        assert [row["reason"] for row in failed] == [reason], output
        _assert_names(texts, failed[0]["message"])


def _assert_names(texts: tuple[str, ...], sentence: str) -> None:
    assert [text for text in texts if text not in sentence] == [], sentence


def test_preflight_tells_a_client_what_it_may_do(stage: Stage) -> None:
    code, output, _ = ended(start("preflight", of_the_wrong_role(stage)))

    found = json.loads(output)
    assert code == 0, found
    assert {check["outcome"] for check in found["checks"]} == {"ok"}
    assert "/fednot.v1.FederationService/Join" in found["permitted"]
    assert "/fednot.v1.OperatorService/GetStatus" not in found["permitted"]


def test_with_the_right_certificate_it_answers(stage: Stage) -> None:
    code, output, errors = ended(start("status", (stage.right(), stage.federation.address)))

    assert code == 0, errors
    assert "current" in json.loads(output)


def test_without_a_certificate_there_is_no_connection(stage: Stage) -> None:
    """The server's authority is trusted, and nothing shown in return."""
    with open_enrolment_channel(stage.federation.address, stage.trust) as channel:
        stub = operator_pb2_grpc.OperatorServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_enrolling_at_the_wrong_port_says_that_a_certificate_is_missing(stage: Stage) -> None:
    token, folder = Token.fresh("c9", "fednot", stage.trust).text(), stage.new_folder()
    where = ("--server", stage.federation.address, "--out", str(folder), "--format", "json")

    refused = Command(FEDNOT, ["certs", "enroll", *where], token).ended(30)

    told = json.loads(refused.stderr)
    assert refused.returncode != 0
    assert told["reason"] == Reason.NO_CERTIFICATE
    assert "50052" in told["error"]
    assert not (folder / "cert.pem").exists()


def ending(stage: Stage) -> Stubs:
    """Stubs over a live connection whose certificate ends soon, but after their first call."""
    for seconds in (4, 8, 16):
        folder = stage.new_folder()
        stage.forger.identity(folder, OPERATOR, "olga", days=seconds / SECONDS_OF_A_DAY)
        stubs = Stubs.of(stage.federation.address, folder)
        try:
            stubs.operator.GetStatus(operator_pb2.GetStatusRequest(), timeout=CALL)
        except grpc.RpcError:
            stubs.channel.close()
        else:
            return stubs
    pytest.fail("no certificate was good for a first call")


def test_a_certificate_that_ends_ends_what_a_live_connection_may(stage: Stage) -> None:
    stubs = ending(stage)
    request = operator_pb2.GetStatusRequest()

    eventually("it is refused", lambda: _is_refused(stubs.operator))

    refused = refusal(lambda: stubs.operator.GetStatus(request, timeout=CALL))
    stubs.channel.close()
    assert refused.reason is Reason.CERTIFICATE_EXPIRED
    assert "operator olga" in refused.message


def test_a_certificate_that_is_revoked_ends_what_a_live_connection_may(stage: Stage) -> None:
    federation = stage.federation
    client = RawClient(federation, "soon-revoked")
    assert client.poll(0.05).WhichOneof("work") is None

    stage.identities.authority.revoke(Subject(Role.CLIENT, "soon-revoked"))

    def refused_now() -> Reason | None:
        try:
            client.poll(0.05)
        except grpc.RpcError:
            return refusal(client.poll).reason
        return None

    assert eventually("it is refused", refused_now) is Reason.CERTIFICATE_REVOKED
    assert refusal(client.leave).reason is Reason.CERTIFICATE_REVOKED


def test_a_client_cannot_claim_anothers_name(stage: Stage) -> None:
    """In the message that joins, in its session, and in the header of an upload."""
    federation = stage.federation
    victim = RawClient(federation, "victim")
    thief = RawClient(federation, "thief")
    update = constant_update(0.001)

    joined = refusal(lambda: RawClient(federation, "thief", claimed="victim"))
    invalid = refusal(lambda: RawClient(federation, "thief", claimed="No Name"))
    thief.session.CopyFrom(victim.session)
    polled = refusal(thief.poll)
    header = federation_pb2.UpdateHeader(session=victim.session, work_id="x", num_examples=1)
    uploaded = refusal(lambda: thief.upload(parts_of(header, update)))
    left = refusal(thief.leave)

    for refused in (joined, polled, uploaded, left):
        assert refused.reason is Reason.NOT_YOUR_NAME
        assert "client/thief" in refused.message
        assert "victim" in refused.message
    assert invalid.reason is Reason.NOT_YOUR_NAME
    assert victim.poll(0.05).WhichOneof("work") is None, "the victim's session stands"


def test_a_session_of_another_client_is_of_no_use(stage: Stage) -> None:
    """A thief that keeps its own name, or gives none, and shows the session of another."""
    victim = RawClient(stage.federation, "victim-2")
    thief = RawClient(stage.federation, "thief-2")
    for name in ("thief-2", ""):
        thief.session.id, thief.session.client = victim.session.id, name
        assert refusal(thief.poll).reason is Reason.UNKNOWN_SESSION


def test_a_client_may_leave_its_name_to_its_certificate(stage: Stage) -> None:
    client = RawClient(stage.federation, "unnamed", claimed="")
    assert client.joined.client == "unnamed"
    assert client.poll(0.05).WhichOneof("work") is None
    assert stage.federation.client_info("unnamed").HasField("certificate_expires_at")
