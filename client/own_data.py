"""A client's own data by its tombstones: what is retained, and what verification may look at.

Training and evaluation get their data from here and from nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from client.profiling import LookedAt
from fednot.data.retained import Labels, Retained
from fednot.data.subset import Subset
from fednot.task import SampleDataset, Task
from fednot.tombstones import Book, Tombstone, Tombstones
from fednot.v1 import federation_pb2 as pb


class OwnData:
    """The data that a Task gives on a client, and what stands against its use.

    With `evaluate_forgotten` False no forgotten sample is read at all, not even to verify.
    """

    def __init__(
        self,
        task: Task,
        train_data: SampleDataset,
        test_data: SampleDataset | None,
        tombstones: Tombstones,
        *,
        evaluate_forgotten: bool = True,
    ) -> None:
        self._task = task
        self._train = Labels(train_data)
        self._test = Labels(test_data) if test_data is not None else None
        self._tombstones = tombstones
        self._evaluate_forgotten = evaluate_forgotten
        self._views: dict[str, Retained] = {}

    def retained_train(self) -> Retained:
        """The training samples under no tombstone.

        Raises ValueError if the Task cannot leave out what is barred, TombstoneError, TypeError.
        """
        self._check_able()
        return self._kept("train", self._train)

    def retained_test(self) -> Retained | None:
        """The held-out samples under no tombstone; None if there are no held-out ones."""
        return self._kept("test", self._test) if self._test is not None else None

    def forgotten_test(self) -> Retained | None:
        """The held-out samples of forgotten classes, none of which is barred by its id.

        None if no class is forgotten, or forgotten samples may not be looked at.
        """
        labels = self._tombstones.now().labels
        if self._test is None or not labels or not self._evaluate_forgotten:
            return None
        return self._of_classes(self._test, labels)

    def counts(self) -> tuple[int, int]:
        """How many training and held-out samples are retained."""
        test = self.retained_test()
        return len(self._kept("train", self._train)), len(test) if test is not None else 0

    def under(self, stones: Collection[Tombstone]) -> int:
        """How many samples are under these tombstones, held-out ones included."""
        book = self._tombstones.now()
        every = [labels for labels in (self._train, self._test) if labels is not None]
        return sum(len(labels.under(book, stones)) for labels in every)

    def unknown(self, ids: frozenset[str]) -> int:
        """How many of these ids no sample has."""
        known: set[str] = set()
        for labels in (self._train, self._test):
            if labels is not None:
                known |= {labels.data.sample_id(index) for index in range(len(labels.data))}
        return len(ids - known)

    def check_classes(self) -> None:
        """Raises TypeError if the targets are no classes."""
        self._train.classes()
        if self._test is not None:
            self._test.classes()

    def groups(self, wanted: LookedAt) -> Mapping[int, SampleDataset]:
        """The groups of samples that may be looked at, each at most as large as is wanted."""
        book = self._tombstones.now()
        forgotten = self._forgotten(wanted, book)
        found: dict[int, SampleDataset | None] = {
            pb.SAMPLE_GROUP_FORGOTTEN: forgotten,
            pb.SAMPLE_GROUP_UNSEEN: self._unseen(wanted, forgotten, book),
            pb.SAMPLE_GROUP_RETAINED: self._retained(wanted, book),
            pb.SAMPLE_GROUP_TEST: self.retained_test(),
        }
        return {
            group: wanted.drawn(data)
            for group, data in found.items()
            if group in wanted.groups and data is not None and len(data)
        }

    def _forgotten(self, wanted: LookedAt, book: Book) -> Subset | None:
        if not self._evaluate_forgotten or wanted.job_id in book.ended_jobs:
            return None
        chosen = self._named(wanted, book)
        closed = [stone for stone in book.tombstones if stone.closed]
        return Subset(self._train.data, sorted(chosen - self._train.under(book, closed)))

    def _named(self, wanted: LookedAt, book: Book) -> set[int]:
        if wanted.everything:
            return set(range(len(self._train.data)))
        under = self._train.under(book, book.named(wanted.tombstones))
        return under | self._train.chosen(book, (), wanted.labels)

    def _unseen(self, wanted: LookedAt, forgotten: Subset | None, book: Book) -> Retained | None:
        if forgotten is None or not len(forgotten):
            return None
        stones = book.named(wanted.tombstones)
        labels = wanted.labels | {stone.label for stone in stones if stone.label is not None}
        only_classes = not wanted.everything and all(stone.label is not None for stone in stones)
        if labels and only_classes:
            return self._of_classes(self._test, labels) if self._test is not None else None
        unseen = self._task.unseen_data(forgotten)
        if unseen is None:
            return None
        return Retained(Labels(unseen), self._tombstones, also=labels)

    def _retained(self, wanted: LookedAt, book: Book) -> Retained | None:
        view = self._kept("train", self._train)
        gone = self._named(wanted, book)
        return Retained(self._train, self._tombstones, set(view.indices) - gone)

    def _of_classes(self, labels: Labels, classes: frozenset[int]) -> Retained:
        book = self._tombstones.now()
        chosen = labels.chosen(book, (), classes)
        return Retained(labels, self._tombstones, chosen, also=classes)

    def _kept(self, which: str, labels: Labels) -> Retained:
        view = self._views.get(which)
        if view is None or not view.is_current:
            view = self._views[which] = Retained(labels, self._tombstones)
        return view

    def _check_able(self) -> None:
        book = self._tombstones.now()
        for kind, barred in (("samples", book.digests), ("class", book.labels)):
            reason = self._task.unsupported_scopes.get(kind)
            if barred and reason is not None:
                raise ValueError(
                    f"this client's Task cannot leave out what was forgotten ({reason}), so it may "
                    "not train"
                )
