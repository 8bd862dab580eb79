"""What goes wrong in an authority's directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fednot.errors import FednotError, Reason


class AuthorityError(ValueError):
    """What an authority cannot do, and why: a sentence that names file, name or date."""


class AuthorityBusyError(AuthorityError):
    """Another process or thread has been changing the authority for too long; try again."""


@contextmanager
def told(directory: Path) -> Iterator[None]:
    """Turns faults of an authority's files into AuthorityError."""
    try:
        yield
    except OSError as error:
        place = error.filename or directory
        raise AuthorityError(f"{place} cannot be used: {error.strerror or error}") from error
    except FednotError as error:
        if error.reason is not Reason.INVALID_IDENTITY:
            raise
        raise AuthorityError(error.message) from error
