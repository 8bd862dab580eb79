"""Makes the golden files anew, from the repository's root: `python tests/unit/golden/make.py`.

Only a new version of the receipt's format is a reason to do so.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def main() -> None:
    """Writes the payload, its signature, and the key that verifies it."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.receipts import golden_key, sample_receipt

    key, receipt = golden_key(), sample_receipt()
    (HERE / "receipt.json").write_text(
        receipt.model_dump_json(indent=2, exclude_defaults=True) + "\n"
    )
    (HERE / "receipt.jws").write_text(key.sign(receipt))
    (HERE / "receipt-key.pub.pem").write_text(key.pem)


if __name__ == "__main__":
    main()
