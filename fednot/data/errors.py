"""What is wrong with data on disk."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be read; the message names the file and says what to do."""
