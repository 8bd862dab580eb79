"""Prints the dependencies in a pyproject.toml: an image installs them before it has the source.

Names of extras behind the file add theirs.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
rows = [*project["dependencies"]]
for extra in sys.argv[2:]:
    rows += project["optional-dependencies"][extra]
sys.stdout.writelines(f"{row}\n" for row in rows)
