"""The committed stubs are what `make protos` makes of the protos, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools (extra dev) generates the stubs")

ROOT = Path(__file__).parents[2]
STUBS = Path("fednot") / "v1"


def regenerate(folder: Path) -> Path:
    """Runs the Makefile's own recipe on copies, with the environment that runs this test."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    if not (folder / "protos").exists():
        shutil.copytree(ROOT / "protos", folder / "protos")
    command = ["make", "protos", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    subprocess.run(command, cwd=folder, check=True, timeout=250, capture_output=True)
    return folder / STUBS


def stubs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_pb2*.py*")}


def stale(committed: dict[str, bytes], generated: dict[str, bytes]) -> set[str]:
    every = committed.keys() | generated.keys()
    return {name for name in every if committed.get(name) != generated.get(name)}


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    generated = stubs(regenerate(tmp_path))
    protos = {path.stem for path in (ROOT / "protos" / STUBS).glob("*.proto")}
    assert {name.split("_pb2")[0] for name in generated} == protos
    assert stale(stubs(ROOT / STUBS), generated) == set(), "run `make protos` and commit"


def test_a_changed_proto_makes_its_stubs_stale(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    with (tmp_path / "protos" / STUBS / "model.proto").open("a") as proto:
        proto.write("\n// Added by a test.\nmessage Added {}\n")
    assert stale(stubs(ROOT / STUBS), stubs(regenerate(tmp_path))) == {
        "model_pb2.py",
        "model_pb2.pyi",
    }


def test_a_stub_without_a_proto_is_stale() -> None:
    assert stale({"gone_pb2.py": b""}, {}) == {"gone_pb2.py"}
