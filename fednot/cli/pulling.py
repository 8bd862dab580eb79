"""Fetches a version's file and checks all that can be checked about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from fednot.cli.failures import CliError, local
from fednot.cli.session import Session
from fednot.v1 import model_pb2, operator_pb2


@dataclass(frozen=True)
class Pulled:
    """A version whose file has been checked."""

    version: model_pb2.Version
    num_bytes: int
    checksum: str


def pull_version(session: Session, number: int, into: Path, seconds: float) -> Pulled:
    """Streams a version (0: the one released now) into a file.

    Raises CliError if the server refuses, or size, checksum, manifest or sha256 are wrong.
    """
    request = operator_pb2.DownloadVersionRequest(version=number)
    parts = session.stream(session.operator.DownloadVersion, request, seconds)
    header = _header(parts)
    checksum, expected = _receive(parts, header.num_bytes, into)
    if checksum != expected:
        raise _damaged(f"the bytes have xxh3-128 {checksum}, not {expected}")
    _check_model(into, header.version.sha256)
    return Pulled(header.version, header.num_bytes, checksum)


def _header(parts: Iterator[operator_pb2.DownloadVersionResponse]) -> operator_pb2.VersionHeader:
    first = next(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise _damaged("the stream has no header")
    return first.header


def _receive(
    parts: Iterator[operator_pb2.DownloadVersionResponse], num_bytes: int, into: Path
) -> tuple[str, str]:
    digest = xxhash.xxh3_128()
    size = 0
    with into.open("wb") as file:
        for part in parts:
            if part.WhichOneof("part") == "trailer":
                if size != num_bytes:
                    raise _damaged(f"{size} of {num_bytes} bytes came")
                return digest.hexdigest(), part.trailer.xxh3_128
            size += len(part.chunk)
            if part.WhichOneof("part") != "chunk" or size > num_bytes:
                raise _damaged(f"more than {num_bytes} bytes came")
            digest.update(part.chunk)
            file.write(part.chunk)
    raise _damaged(f"the stream ended after {size} of {num_bytes} bytes, without a trailer")


def _check_model(path: Path, sha256: str) -> None:
    from fednot import model_file
    from fednot.tensors import as_bytes

    try:
        flat, _, _ = model_file.read(path)
    except model_file.ModelFileError as error:
        raise _damaged(str(error)) from error
    found = hashlib.sha256(as_bytes(flat)).hexdigest()
    if found != sha256:
        raise _damaged(f"the model has sha256 {found}, not {sha256}")


def _damaged(message: str) -> CliError:
    return local(f"the download is damaged: {message}", "Pull it again; nothing was written.")
