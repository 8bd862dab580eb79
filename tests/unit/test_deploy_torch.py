"""From where an image takes torch, with a pip that only notes what it is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "install-torch.sh"
PIP = """#!/bin/sh
echo "$* links=${PIP_FIND_LINKS:-none}" >>"$SAID"
case "$*" in
  *--no-index*) exit 1 ;;
  show*) echo "Location: $FOLDER" ;;
esac
"""
CPU = "https://download.pytorch.org/whl/cpu"
PYPI = "https://pypi.org/simple"


def install(folder: Path, kind: str, **environment: str) -> tuple[int, list[str], str]:
    """The exit status, what pip was asked to install, and what is on stderr."""
    for name, text in {"pip": PIP, "strip": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    said = folder / "said"
    said.touch()
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": str(said), "FOLDER": str(folder)}
    done = subprocess.run(
        ["sh", str(SCRIPT), kind, "constraints.txt"],
        env={**own, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    asked = [line for line in said.read_text().splitlines() if line.startswith("install")]
    return done.returncode, asked, done.stderr


@pytest.mark.parametrize(
    ("kind", "environment", "index"),
    [
        ("cpu", {}, CPU),
        ("cpu", {"PIP_INDEX_URL": "https://mirror/simple"}, CPU),
        ("cuda", {}, PYPI),
        ("cuda", {"PIP_INDEX_URL": "https://mirror/simple"}, "https://mirror/simple"),
        ("cuda", {"TORCH_INDEX_URL": "https://torch/cu130"}, "https://torch/cu130"),
    ],
)
def test_torch_comes_from_the_index_of_its_kind(
    tmp_path: Path, kind: str, environment: dict[str, str], index: str
) -> None:
    status, [local, remote], _ = install(tmp_path, kind, PIP_FIND_LINKS="/wheels", **environment)
    assert status == 0
    assert "--no-index" in local
    links = "none" if kind == "cuda" else "/wheels"
    assert remote == (
        f"install --no-compile --no-deps --index-url {index} -c constraints.txt torch links={links}"
    )


def test_another_kind_of_torch_is_refused(tmp_path: Path) -> None:
    status, asked, said = install(tmp_path, "rocm")
    assert (status, asked) == (2, [])
    assert said == "TORCH is 'rocm'; it must be cpu or cuda\n"
