"""What git tracks: no archives or downloads, nothing large, nothing new at the top unseen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_BYTES = 200_000
STATES = Path("tests/contract/states")
ARCHIVES = {".whl", ".gz", ".xz", ".zip", ".pt", ".npz", ".safetensors"}
TOP = {
    *("server", "client", "fednot", "protos", "deploy", "lab", "benchmarks", "examples"),
    *("docs", "tests", ".ci", ".dockerignore", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md"),
    *("constraints.txt", "docker-compose.yml", "pyproject.toml"),
}


def problems(path: Path, size: int) -> list[str]:
    """What is wrong with a tracked file of `size` bytes at `path`, relative to the root."""
    found = [] if path.parts[0] in TOP else [f"{path.parts[0]} is new at the top"]
    if path.suffix in ARCHIVES and path.parent != STATES:
        found.append("an archive")
    if size > MAX_BYTES:
        found.append(f"{size} bytes")
    return found


def tracked() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if listed.returncode != 0:
        pytest.skip("this is no clone of the repository")
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    return [name for name in names if (ROOT / name).exists()]


def test_nothing_is_committed_that_does_not_belong() -> None:
    found = {str(path): problems(path, (ROOT / path).stat().st_size) for path in tracked()}
    assert found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("name", "size", "seen"),
    [
        (
            "htmx-0.0.0-py3-none-any.whl",
            9,
            ["htmx-0.0.0-py3-none-any.whl is new at the top", "an archive"],
        ),
        ("lab/cifar.npz", 9, ["an archive"]),
        ("docs/film.png", 200_001, ["200001 bytes"]),
        ("tests/contract/states/4bbaa17.tar.xz", 200_000, []),
    ],
)
def test_each_problem_is_seen(name: str, size: int, seen: list[str]) -> None:
    assert problems(Path(name), size) == seen
