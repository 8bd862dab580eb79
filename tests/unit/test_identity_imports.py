"""Only the packages that are about certificates and masks know the library that makes them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = "cryptography"
PRODUCT = ("fednot", "server", "client")
AT_HOME = ("fednot/identity/", "fednot/secure_aggregation/", "fednot/receipt/signing.py")


def knows_it(text: str) -> bool:
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        if any(name.split(".")[0] == LIBRARY for name in names):
            return True
    return False


def test_only_two_packages_import_cryptography() -> None:
    sources = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)) for path in sources if knows_it(path.read_text())}
    assert "fednot/identity/certificates.py" in found
    assert {name for name in found if not name.startswith(AT_HOME)} == set()


@pytest.mark.parametrize(
    "text",
    [
        "import cryptography",
        "import cryptography.x509 as certificates",
        "from cryptography import x509",
        "def late():\n    from cryptography.hazmat.primitives import hashes",
    ],
)
def test_an_import_elsewhere_is_seen(text: str) -> None:
    assert knows_it(text)


@pytest.mark.parametrize("text", ["from . import cryptography", "import cryptographyx"])
def test_other_imports_are_not(text: str) -> None:
    assert not knows_it(text)
