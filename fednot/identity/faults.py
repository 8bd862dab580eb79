"""What goes wrong in an authority's directory."""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.identity.folder import DRAFT_SUFFIX

_FORBIDDEN: Final = (errno.EACCES, errno.EPERM)


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
        raise AuthorityError(file_fault(error, directory)) from error
    except FednotError as error:
        if error.reason is not Reason.INVALID_IDENTITY:
            raise
        raise AuthorityError(error.message) from error


def file_fault(error: OSError, directory: Path) -> str:
    """A sentence about a file that cannot be used: the one that was named by who called, and by
    which user if that is why. `directory` is for an error that names no file.
    """
    said = error.strerror or str(error)
    place = _known(Path(error.filename) if error.filename else directory)
    if error.errno in _FORBIDDEN:
        return f"{place} cannot be used by the user {_user()}: {said}"
    return f"{place} cannot be used: {said}"


def _known(path: Path) -> Path:
    """The folder in place of a draft in it, or of what cannot be looked at."""
    while path != path.parent and (path.name.endswith(DRAFT_SUFFIX) or _is_hidden(path)):
        path = path.parent
    return path


def _is_hidden(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno in _FORBIDDEN
    return False


def _user() -> str:
    user = os.geteuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
