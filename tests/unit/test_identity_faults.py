"""How a file that cannot be used is told of: by the name that its owner knows, and for whom."""

from __future__ import annotations

import errno
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fednot.identity.authority import Authority, AuthorityError
from fednot.identity.faults import AuthorityBusyError, file_fault, told

NOBODY = 65534


@contextmanager
def another_user() -> Iterator[str]:
    """Root works as somebody else within; any other user stays who he is."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield pwd.getpwuid(os.geteuid()).pw_name
    finally:
        os.seteuid(before)


def test_an_authority_of_another_user_is_named_with_the_user() -> None:
    """Not a file in it, of which the one who called knows nothing."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        directory = Path(place, "authority")
        Authority.create(directory)
        directory.chmod(0o000 if os.geteuid() else 0o700)
        with another_user() as user, pytest.raises(AuthorityError) as caught:
            Authority.open(directory)
        directory.chmod(0o700)
    assert str(caught.value) == f"{directory} cannot be used by the user {user}: Permission denied"


def test_the_folder_is_named_and_not_the_draft_in_it(tmp_path: Path) -> None:
    fault = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / ".ca.pem.00.draft"))
    assert file_fault(fault, Path()) == f"{tmp_path} cannot be used: No space left on device"


def test_what_names_no_file_is_told_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=f"^{tmp_path} cannot be used: late"), told(tmp_path):
        raise TimeoutError("late")


def test_another_fault_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AuthorityBusyError, match=r"^busy$"), told(tmp_path):
        raise AuthorityBusyError("busy")
