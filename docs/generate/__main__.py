"""`python -m docs.generate [FOLDER]`: writes the pages of the reference."""

from __future__ import annotations

import sys
from pathlib import Path

from docs.generate.pages import write

if __name__ == "__main__":
    write(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[1] / "reference")
