"""What `fednot model pull` checks before a file takes its place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import xxhash

from fednot import model_file
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.pulling import pull_version
from fednot.cli.session import Session
from fednot.manifest import Manifest
from fednot.tensors import as_bytes, flatten_module
from fednot.v1 import operator_pb2

Parts = list[operator_pb2.DownloadVersionResponse]


class CannedSession:
    def __init__(self, parts: Parts) -> None:
        self.operator = SimpleNamespace(DownloadVersion=None)
        self.parts = parts

    def stream(self, method: object, request: Any, timeout: float) -> Iterator[Any]:
        yield from self.parts


def pull(parts: Parts, into: Path) -> Any:
    return pull_version(cast("Session", CannedSession(parts)), 0, into, 1.0)


def model() -> tuple[bytes, str]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    manifest = Manifest.of(module)
    flat = flatten_module(module, manifest)
    return model_file.serialise(flat, manifest), hashlib.sha256(as_bytes(flat)).hexdigest()


def download(payload: bytes, sha256: str, trailer: str = "") -> Parts:
    half = len(payload) // 2
    checksum = trailer or xxhash.xxh3_128_hexdigest(payload)
    parts: list[dict[str, Any]] = [
        {"header": {"version": {"sha256": sha256}, "num_bytes": len(payload)}},
        {"chunk": payload[:half]},
        {"chunk": payload[half:]},
        {"trailer": {"xxh3_128": checksum}},
    ]
    return [operator_pb2.DownloadVersionResponse(**part) for part in parts]


PAYLOAD, SHA256 = model()
GOOD = download(PAYLOAD, SHA256)


def test_a_good_stream_becomes_the_file(tmp_path: Path) -> None:
    target = tmp_path / "m"
    pulled = pull(GOOD, target)
    assert target.read_bytes() == PAYLOAD
    assert pulled.checksum == xxhash.xxh3_128_hexdigest(PAYLOAD)


DAMAGED: dict[str, tuple[Parts, str]] = {
    "nothing": ([], "no header"),
    "no header": (GOOD[1:], "no header"),
    "second header": ([GOOD[0], *GOOD], "more than"),
    "lost chunk": ([*GOOD[:2], GOOD[3]], "bytes came"),
    "chunk too many": ([*GOOD[:3], GOOD[1]], "more than"),
    "no trailer": (GOOD[:3], "without a trailer"),
    "wrong checksum": (download(PAYLOAD, SHA256, "00"), "has xxh3-128|have xxh3-128"),
    "wrong sha256": (download(PAYLOAD, "00"), "has sha256"),
    "no safetensors": (download(b"nonsense", SHA256), "not a model file"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_stream_is_told(tmp_path: Path, case: str) -> None:
    parts, sentence = DAMAGED[case]
    with pytest.raises(CliError, match=sentence) as caught:
        pull(parts, tmp_path / "m")
    assert caught.value.code is ExitCode.FAILED
