"""What an evaluation finds."""

from __future__ import annotations

from collections.abc import Mapping

Scores = Mapping[str, float]
