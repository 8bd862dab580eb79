"""Model versions as objects of a bucket that speaks S3."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import BinaryIO, Final, cast

import torch

from fednot import model_file
from fednot.manifest import Manifest
from fednot.model_file import Source
from server.blocks import Block, Trail
from server.state.database import StateError
from server.state.model_store import (
    ModelStore,
    ModelStoreError,
    hash_in,
    name_of,
    sha256_of,
)
from server.state.stores.bucket import Bucket
from server.state.stores.ranges import RangedFile

log = logging.getLogger("server.state.stores")

_URL: Final = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]+)(/(?P<prefix>.*))?")


class S3Store(ModelStore):
    """The objects directly under a prefix.

    An object has its name only when its upload is complete. A server that is killed leaves an
    upload that holds a part of a model: a sweep aborts it.
    """

    def __init__(self, url: str) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise StateError(f"{url} is not s3://BUCKET/PREFIX")
        prefix = (found["prefix"] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = Bucket(found["bucket"])
        self._swept: frozenset[str] | None = None
        self._warned = False
        self.place = f"s3://{found['bucket']}/{prefix}"
        self._bucket.refuse_what_keeps_the_deleted(self._prefix)

    def write(self, flat: torch.Tensor | Block, manifest: Manifest, layers: str) -> str:
        """Stores a version; what is there with the right size is not sent again.

        Its name is its hash, so the model is read twice: to hash it, and to send it.
        """
        block = flat if isinstance(flat, Block) else Block.of(flat)
        sha256 = sha256_of(block)
        key = self._key(sha256)
        size = model_file.size_of(manifest, layers=layers)
        self._swept = None
        if self._bucket.size(key) != size:
            self._bucket.upload(key, size, _trailing(block, manifest, layers))
        return sha256

    def open(self, sha256: str) -> Source:
        """A version's object, of which each window is a request: a deletion ends the reading."""
        key = self._key(sha256)
        size = self._bucket.size(key)
        if size is None:
            raise ModelStoreError(f"{self.place}/{name_of(sha256)} is missing")
        file = RangedFile(partial(self._bucket.fetch, key), size)
        return Source(f"{self.place}/{name_of(sha256)}", size, cast("BinaryIO", file))

    def hashes(self) -> frozenset[str]:
        """The versions under the prefix."""
        found = (self._hash_in(key) for key in self._bucket.keys(self._prefix))
        return frozenset(sha256 for sha256 in found if sha256)

    def delete_all_but(self, kept: Collection[str]) -> int:
        """Deletes objects and aborts uploads; none of this store's own may be under way.

        Listing costs requests, and this is called after every step. So it is left out if the last
        sweep succeeded with the same kept versions and nothing was written since: then there is
        nothing that it could find, for no one else writes here.
        """
        wanted = frozenset(kept)
        if self._swept == wanted:
            return 0
        self._swept = None
        doomed = list(self._doomed(wanted))
        failure: OSError | None = None
        for destroy in doomed:
            try:
                destroy()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        self._swept = wanted
        return len(doomed)

    def _doomed(self, kept: frozenset[str]) -> Iterator[Callable[[], None]]:
        for upload in self._bucket.uploads(self._prefix):
            if self._hash_in(upload.key):
                yield partial(self._bucket.abort, upload)
        for key in self._bucket.keys(self._prefix):
            sha256 = self._hash_in(key)
            if sha256 is None:
                self._warn_of_others()
            elif sha256 not in kept:
                yield partial(self._bucket.delete, key)

    def _warn_of_others(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s also holds objects that are no versions; they stay", self.place)

    def _key(self, sha256: str) -> str:
        return self._prefix + name_of(sha256)

    def _hash_in(self, key: str) -> str | None:
        return hash_in(key.removeprefix(self._prefix))


def _trailing(block: Block, manifest: Manifest, layers: str) -> Iterator[memoryview]:
    trail = Trail(block)
    for part in model_file.parts(block.tensor, manifest, layers=layers):
        yield part
        trail.passed(len(part))
    trail.end()
