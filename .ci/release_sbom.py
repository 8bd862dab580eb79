"""Completes and checks an SBOM: `release_sbom.py SBOM WHEEL VERSION PACKAGES`.

It is valid CycloneDX, its subject is fednot in that version with the wheel's hash, and each
package in PACKAGES, the site-packages that fednot was installed into, is in it with its version.
What the wheel asks for must be there.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def main(sbom: Path, wheel: Path, version: str, packages: Path) -> int:
    """Prints what is wrong; 1 if anything is."""
    table = json.loads(sbom.read_text(encoding="utf-8"))
    subject = table["metadata"]["component"]
    subject["version"] = version
    subject["hashes"] = [
        {"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}
    ]
    text = json.dumps(table, indent=1, sort_keys=True) + "\n"
    sbom.write_text(text, encoding="utf-8")

    found = {canonicalize_name(each["name"]): each["version"] for each in table["components"]}
    faults = [f"{name} is not in the SBOM" for name in sorted(needed(wheel) - found.keys())]
    faults += [
        f"{name} {told} is installed, and the SBOM says {found.get(name, 'nothing of it')}"
        for name, told in sorted(installed(packages).items())
        if name != subject["name"] and found.get(name) != told
    ]
    wrong = JsonStrictValidator(
        SchemaVersion["V" + table["specVersion"].replace(".", "_")]
    ).validate_str(text)
    faults += [f"it is no CycloneDX: {wrong}"] if wrong else []
    faults += [] if subject["name"] == "fednot" else [f"it is about {subject['name']}"]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"the SBOM has {len(found)} components")
    return 1 if faults else 0


def installed(packages: Path) -> dict[str, str]:
    """The packages in a folder of site-packages, with their versions."""
    found = distributions(path=[str(packages)])
    return {canonicalize_name(each.name): each.version for each in found}


def needed(wheel: Path) -> set[str]:
    """The names of what a wheel asks for without an extra."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    rows = [Requirement(row) for row in metadata.get_all("Requires-Dist") or []]
    kept = [row for row in rows if not (row.marker and re.search(r"\bextra\b", str(row.marker)))]
    return {canonicalize_name(row.name) for row in kept}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
