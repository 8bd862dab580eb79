"""Exits with 0 if the process in this container says that it is healthy: `healthcheck.py PORT`.

PORT is that of /healthz. Where the environment says how a server serves gRPC, its health service is
asked, too, on the port that clients dial and over mutual TLS with the server's own identity:
FEDNOT_SERVER_ADDRESS with FEDNOT_SERVER_IDENTITY, _AUTHORITY or _INSECURE. A certificate that was
made to serve only cannot ask, and then /healthz decides alone.
"""

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

TIMEOUT_SECONDS = 4.0
SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse with the status SERVING, as it is on the wire."""
FILES = (("ca.pem", "ca.crt"), ("key.pem", "tls.key"), ("cert.pem", "tls.crt"))
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


class Identity(NamedTuple):
    """A server's identity; `host` is a name in its certificate, `calls` if that may also call."""

    trust: bytes
    key: bytes
    chain: bytes
    host: str
    calls: bool


def main(port: int, environment: Mapping[str, str] = os.environ) -> int:
    """Asks /healthz and gRPC on this machine; prints what went wrong and returns 1 unless well."""
    healthy, said = http_health(port)
    if healthy:
        healthy, more = grpc_health(environment)
        said = f"{said}; gRPC {more}"
    sys.stdout.write(f"{said}\n")
    return 0 if healthy else 1


def http_health(port: int) -> tuple[bool, str]:
    """Whether /healthz answers 200, and what it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(2000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer on port {port}: {error}"
    finally:
        connection.close()
    return response.status == http.client.OK, f"{response.status} {body}"


def grpc_health(environment: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the gRPC health service says SERVING, and what it says; true if it is not asked."""
    folder = identity_folder(environment)
    insecure = environment.get("FEDNOT_SERVER_INSECURE", "").lower() in ("1", "true", "yes", "on")
    host, _, port = environment.get("FEDNOT_SERVER_ADDRESS", "").rpartition(":")
    if not port or (folder is None and not insecure):
        return True, "not asked"
    try:
        identity = read_identity(folder) if folder else None
    except (OSError, ValueError) as error:
        return False, f"cannot be asked with {folder}: {error}"
    if identity is not None and not identity.calls:
        return True, "not asked: the server's certificate is for serving only"
    return ask(f"{EVERYWHERE.get(host, host)}:{port}", identity)


def identity_folder(environment: Mapping[str, str]) -> Path | None:
    """Where the server's own identity is, by the settings in the environment."""
    identity = environment.get("FEDNOT_SERVER_IDENTITY")
    authority = environment.get("FEDNOT_SERVER_AUTHORITY")
    if identity:
        return Path(identity)
    return Path(authority) / "server" if authority else None


def read_identity(folder: Path) -> Identity:
    """The identity in a folder. Raises OSError or ValueError if it cannot be read."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    trust, key, chain = (
        next((folder / n for n in names if (folder / n).exists()), folder / names[0]).read_bytes()
        for names in FILES
    )
    certificate = x509.load_pem_x509_certificates(chain)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress)]
    if not hosts:
        raise ValueError("its certificate names no host")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    return Identity(trust, key, chain, str(hosts[0]), ExtendedKeyUsageOID.CLIENT_AUTH in usage)


def ask(address: str, identity: Identity | None) -> tuple[bool, str]:
    """Calls Check for the server as a whole, in plaintext without an identity."""
    import grpc

    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if identity is None:
        channel = grpc.insecure_channel(address, options)
    else:
        options.append(("grpc.ssl_target_name_override", identity.host))
        tls = grpc.ssl_channel_credentials(identity.trust, identity.key, identity.chain)
        channel = grpc.secure_channel(address, tls, options)
    with channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = check(b"", timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return False, f"no answer on {address}: {error.code().name} {error.details()}"
    return answer == SERVING, "SERVING" if answer == SERVING else f"not serving: {answer!r}"


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
