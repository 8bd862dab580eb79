"""Looks at what a wheel and an sdist hold: `release_content.py SOURCE WHEEL SDIST`.

The wheel has every file of the packages that the source has, data too, and nothing beside; the
sdist has what a wheel is built from.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGES = ("fednot", "server", "client")
NEEDED = {
    *("fednot/py.typed", "fednot/v1/operator_pb2.pyi", "fednot/receipt/page.html.j2"),
    *("fednot/receipt/receipt.schema.json", "server/state/migrations/versions/v0001_first.py"),
}
NOT_IN_SDIST = ("tests/", ".ci/", "lab/", "benchmarks/")


def main(source: Path, wheel: Path, sdist: Path) -> int:
    """Prints what is wrong; 1 if anything is."""
    inside = {
        path.relative_to(source).as_posix()
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        information = {name.rpartition("/")[2] for name in set(archive.namelist()) - packed}
    with tarfile.open(sdist) as archive:
        rows = {member.name.partition("/")[2] for member in archive if member.isfile()}
    faults = [f"the source has no {name}" for name in sorted(NEEDED - inside)]
    faults += [f"the wheel lacks {name}" for name in sorted(inside - packed)]
    faults += [f"the wheel has {name}" for name in sorted(packed - inside)]
    faults += [f"the sdist lacks {name}" for name in sorted(inside - rows)]
    if not {"METADATA", "LICENSE", "entry_points.txt"} <= information:
        faults.append(f"the wheel's information is {sorted(information)}")
    faults += [
        f"the sdist lacks {name}" for name in ("constraints.txt", "README.md") if name not in rows
    ]
    faults += [f"the sdist has {name}" for name in sorted(rows) if name.startswith(NOT_IN_SDIST)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"the wheel has the {len(inside)} files of its packages and nothing else")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
