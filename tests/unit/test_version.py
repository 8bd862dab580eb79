"""One version: fednot/__init__.py says it, and what must repeat it says the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fednot
from client.settings import ClientSettings
from fednot import settings
from fednot.cli.main import app
from server.settings import ServerSettings

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "version"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A small repository with the script and some of the files that name a version."""
    for name in (".ci/version", "fednot/__init__.py", "deploy/server.Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docker-compose.yml").write_text(f"image: fednot-client:{fednot.__version__}\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True, timeout=20)
    return tmp_path


def test_every_file_says_the_same() -> None:
    done = run(SCRIPT)
    assert (done.returncode, done.stdout.strip()) == (0, fednot.__version__), done.stderr


def test_the_package_has_no_version_of_its_own() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in table["project"]["dynamic"]
    source = table["tool"]["setuptools"]["dynamic"]["version"]
    assert source == {"attr": "fednot.__version__"}


def test_a_file_that_says_another_is_named(copied: Path) -> None:
    compose = copied / "docker-compose.yml"
    compose.write_text("image: fednot-client:0.0.9\n")
    done = run(copied / ".ci" / "version")
    assert done.returncode == 1
    assert "docker-compose.yml says 0.0.9" in done.stderr


def test_it_is_written_everywhere_at_once(copied: Path) -> None:
    assert run(copied / ".ci" / "version", "7.8.9").returncode == 0
    assert (copied / "docker-compose.yml").read_text() == "image: fednot-client:7.8.9\n"
    assert '__version__ = "7.8.9"' in (copied / "fednot" / "__init__.py").read_text()
    assert "ARG VERSION=7.8.9" in (copied / "deploy" / "server.Dockerfile").read_text()
    assert run(copied / ".ci" / "version", "7.8").returncode == 2


@pytest.mark.parametrize("kind", [ServerSettings, ClientSettings])
def test_the_daemons_tell_it(
    kind: type[settings.Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings.load(kind, program="x", prefix="X_", arguments=["--version"], environment={})
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fednot {fednot.__version__}\n"


def test_the_command_tells_it() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"fednot {fednot.__version__}\n"
