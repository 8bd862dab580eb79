"""The SBOM of a release names whatever was installed, or the release stops."""

from __future__ import annotations

import json
import runpy
import zipfile
from pathlib import Path
from typing import Any

import pytest

MAIN: Any = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "release_sbom.py"))["main"]
INSTALLED = {"fednot": "0.1.0", "Some_Package": "2.0", "what-that-needs": "3.1"}


def checked(folder: Path, told: dict[str, str]) -> int:
    """Checks an SBOM that tells of these components; the exit code."""
    for name, version in INSTALLED.items():
        information = folder / "packages" / f"{name}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    wheel = folder / "fednot-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        rows = "Name: fednot\nRequires-Dist: some-package>=1\nRequires-Dist: absent; extra == 'x'\n"
        archive.writestr("fednot-0.1.0.dist-info/METADATA", rows)
    components = [
        {"type": "library", "name": name, "version": version} for name, version in told.items()
    ]
    subject = {"type": "application", "name": "fednot"}
    sbom = folder / "sbom.json"
    table = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
    sbom.write_text(json.dumps(table | {"version": 1, "metadata": {"component": subject}}))
    code: int = MAIN(sbom, wheel, "0.1.0", folder / "packages")
    return code


def test_a_whole_one_passes_and_tells_the_wheel(tmp_path: Path) -> None:
    assert checked(tmp_path, {"some-package": "2.0", "what-that-needs": "3.1"}) == 0
    subject = json.loads((tmp_path / "sbom.json").read_text())["metadata"]["component"]
    assert subject["version"] == "0.1.0"
    assert len(subject["hashes"][0]["content"]) == 64


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"some-package": "2.0"}, "what-that-needs 3.1 is installed, and the SBOM says nothing"),
        ({"some-package": "1.9", "what-that-needs": "3.1"}, "and the SBOM says 1.9"),
        ({"what-that-needs": "3.1"}, "some-package is not in the SBOM"),
    ],
)
def test_what_it_lacks_is_named(
    tmp_path: Path, told: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(tmp_path, told) == 1
    assert sentence in capsys.readouterr().err
