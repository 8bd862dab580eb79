"""Writes the JSON Schema of the payload beside this file: `python -m fednot.receipt`."""

from __future__ import annotations

import json
from pathlib import Path

from fednot.receipt.payload import schema


def main() -> None:
    """Writes receipt.schema.json."""
    text = json.dumps(schema(), indent=2) + "\n"
    (Path(__file__).parent / "receipt.schema.json").write_text(text)


if __name__ == "__main__":
    main()
