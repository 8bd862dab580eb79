"""Whom and which job a refusal is about, as the audit tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fednot.errors import FednotError
from fednot.naming import CLIENT_NAME

CLIENT_KEY: Final = "client"
JOB_KEY: Final = "job_id"


@contextmanager
def about(client: str, job_id: str = "") -> Iterator[None]:
    """Lets a FednotError that is raised within say in its metadata what it is about.

    What it says by itself stays. A client's name may come from a caller: what is no name is left
    out. The metadata reaches the caller, so name only what the caller may know.
    """
    try:
        yield
    except FednotError as error:
        if CLIENT_NAME.fullmatch(client):
            error.metadata.setdefault(CLIENT_KEY, client)
        if job_id:
            error.metadata.setdefault(JOB_KEY, job_id)
        raise
