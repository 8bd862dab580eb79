"""Pages of a listing: newest first, the token is the last key that was shown."""

from __future__ import annotations

from typing import Final

from fednot.errors import FednotError, Reason

DEFAULT_SIZE: Final = 100
MAX_SIZE: Final = 1000


def page_of(page_size: int, page_token: str) -> tuple[int, int]:
    """The key to start below (0: at the newest) and how many rows to show.

    Raises FednotError (INVALID_REQUEST) for a token that no page gave.
    """
    if page_token and not (page_token.isdecimal() and len(page_token) < 19):
        raise FednotError(Reason.INVALID_REQUEST, f"page_token: {page_token!r} is none of ours")
    return int(page_token or 0), min(page_size or DEFAULT_SIZE, MAX_SIZE)


def next_token(shown: int, size: int, last_key: int) -> str:
    """The token of the next page; "" if the listing has surely ended."""
    return str(last_key) if shown == size and last_key > 1 else ""
