"""Views of a client's data by its tombstones: what may be trained on, and what a job forgets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from fednot.data.subset import Subset, target_of
from fednot.task import SampleDataset
from fednot.tombstones import Book, Tombstone, Tombstones


class ForgottenMeanwhileError(RuntimeError):
    """A sample of a view was barred while it was in use; what was made with it may not be used."""

    def __init__(self) -> None:
        super().__init__("samples were forgotten meanwhile")


class Labels:
    """Digests and classes of a dataset's samples, each found out once."""

    def __init__(self, data: SampleDataset) -> None:
        self.data = data
        self._digests: tuple[bytes, list[str]] = (b"", [])
        self._classes: list[int] | None = None

    def digests(self, book: Book) -> Sequence[str]:
        """The salted digest of each sample's id [N]."""
        salt, known = self._digests
        if salt != book.salt or len(known) != len(self.data):
            ids = map(self.data.sample_id, range(len(self.data)))
            self._digests = book.salt, [book.digest(sample_id) for sample_id in ids]
        return self._digests[1]

    def classes(self) -> Sequence[int]:
        """The class of each sample [N]. Raises TypeError if the targets are no classes."""
        if self._classes is None or len(self._classes) != len(self.data):
            self._classes = [target_of(self.data, index) for index in range(len(self.data))]
        return self._classes

    def chosen(self, book: Book, digests: Collection[str], labels: Collection[int]) -> set[int]:
        """The indices of the samples with one of these digests or classes."""
        found: set[int] = set()
        if digests:
            found = {i for i, digest in enumerate(self.digests(book)) if digest in digests}
        if labels:
            found |= {i for i, label in enumerate(self.classes()) if label in labels}
        return found

    def barred(self, book: Book) -> set[int]:
        """The indices of the samples under a tombstone."""
        return self.chosen(book, book.digests, book.labels)

    def under(self, book: Book, stones: Collection[Tombstone]) -> set[int]:
        """The indices of the samples under these tombstones."""
        digests = {digest for stone in stones for digest in stone.digests}
        return self.chosen(book, digests, {s.label for s in stones if s.label is not None})


class Retained(Subset):
    """The samples that are under no tombstone, of those at the given indices.

    It looks at the tombstones before each read, also those that another process has written: once
    they bar a sample of the view, every read raises ForgottenMeanwhileError.
    """

    def __init__(
        self,
        labels: Labels,
        tombstones: Tombstones,
        indices: Collection[int] | None = None,
        *,
        also: Collection[int] = (),
    ) -> None:
        """`also` are classes that the view may hold although a tombstone bars them.

        Raises TombstoneError if the tombstones cannot be read, TypeError if targets are no classes.
        """
        self._labels = labels
        self._tombstones = tombstones
        self._also = frozenset(also)
        self._book = book = tombstones.now()
        barred = labels.chosen(book, book.digests, book.labels - self._also)
        among = range(len(labels.data)) if indices is None else sorted(indices)
        super().__init__(labels.data, [index for index in among if index not in barred])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        """The sample as the dataset gives it. Raises ForgottenMeanwhileError."""
        self.check()
        return super().__getitem__(index)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stacked inputs and targets, as fast as the dataset gives them; raises as one read."""
        self.check()
        return super().batch(indices)

    def check(self) -> None:
        """Raises ForgottenMeanwhileError if a sample of the view was barred since it was made."""
        book = self._tombstones.now()
        if book is self._book:
            return
        barred = self._labels.chosen(book, book.digests, book.labels - self._also)
        if not barred.isdisjoint(self._indices):
            raise ForgottenMeanwhileError
        self._book = book

    @property
    def is_current(self) -> bool:
        """Whether the tombstones are still those that the view was made by."""
        return self._tombstones.now() is self._book

    @property
    def indices(self) -> Sequence[int]:
        """The indices that the samples have in the dataset."""
        return self._indices
