"""Under which heading a verb stands in `fednot --help`."""

from __future__ import annotations

from typing import Final

FIRST_STEPS: Final = "First steps"
TRAINING: Final = "Training and the model"
DELETIONS: Final = "Deletions"
PROOF: Final = "Receipts and the audit"
IDENTITIES: Final = "Identities and the console"
