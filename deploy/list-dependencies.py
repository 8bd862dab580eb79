"""Prints the dependencies in a pyproject.toml: an image installs them before it has the source."""

import sys
import tomllib
from pathlib import Path

table = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
sys.stdout.writelines(f"{row}\n" for row in table["project"]["dependencies"])
