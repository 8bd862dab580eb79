"""The stores that there are: a directory, and a bucket that speaks S3."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from server.state.database import StateError
from server.state.model_store import ModelStore
from server.state.stores.directory import DirectoryStore

S3: Final = "s3://"


def open_store(place: str | Path) -> ModelStore:
    """Opens the store at a path or an `s3://BUCKET/PREFIX`; a directory is made.

    Raises StateError with what to do if it cannot be used.
    """
    if str(place).startswith(S3):
        return _open_bucket(str(place))
    try:
        return DirectoryStore(Path(place))
    except OSError as error:
        raise StateError(f"versions cannot be kept in {place}: {error}") from error


def _open_bucket(url: str) -> ModelStore:
    if find_spec("s3fs") is None:
        raise StateError(f"versions in {url} need s3fs: pip install 'fednot[s3]'")
    # The libraries take a second to import, which only those who use them wait for.
    from server.state.stores.s3 import S3Store

    return S3Store(url)
