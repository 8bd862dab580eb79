"""The rows of kept updates: whether they tell how a version was made, and how they end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from support.receipts import sha
from support.state import accepted, begun, version

from server.records import Attempt, KeptUpdate
from server.state import audit_rows, job_rows, kept_update_rows, version_rows
from server.state.fencing import FencedError


def kept(base: int, client: str = "c2", stride: int = 1) -> KeptUpdate:
    """The update of a client that is in the version after `base`."""
    return KeptUpdate(base, client, sha(f"{base}/{client}"), 10 + base, 100, stride)


def made(c: Connection, *origins: str, start: int = 3, **values: Any) -> None:
    """Versions that follow one another, from `start` on."""
    for number, origin in enumerate(origins, start):
        version_rows.insert_version(c, version(number, origin, **values))


def keep(c: Connection, bases: Iterable[int], stride: int = 1, client: str = "c2") -> None:
    kept_update_rows.insert_updates(c, [kept(base, client, stride) for base in bases])


def bases_of(c: Connection, number: int) -> list[int] | None:
    """The base of each kept round that made a version; None if they do not tell how it was made."""
    found = kept_update_rows.of_line(c, number)
    return None if found is None else [updates[0].base_version for updates in found]


class TestOfLine:
    """Versions 1 (initial) and 2 (trained) are there; `run` is a fixture, once a database."""

    def test_every_round_is_kept(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            made(c, "training")
            keep(c, (1, 2))
            keep(c, (2,), client="c1")

        run(command)
        found = run(lambda c: kept_update_rows.of_line(c, 3))
        assert found == [(kept(1),), (kept(2, "c1"), kept(2))], "oldest first, then by name"
        assert run(lambda c: bases_of(c, 2)) == [1], "what came after it is no part of it"
        assert run(lambda c: bases_of(c, 1)) is None, "nothing made it"

    def test_the_first_round_must_be_kept(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            made(c, "training")
            keep(c, (2,))

        run(command)
        assert run(lambda c: bases_of(c, 3)) is None

    @pytest.mark.parametrize(
        ("stride", "last", "bases"),
        [(3, 6, [1, 4]), (3, 4, [1]), (2, 6, None), (1, 6, None), (2, 3, [1])],
    )
    def test_gaps_may_be_as_long_as_the_interval(
        self, run: Any, stride: int, last: int, bases: list[int] | None
    ) -> None:
        def command(c: Connection) -> None:
            begun(c)
            made(c, "training", "training", "training", "training")
            keep(c, (1, 4), stride)

        run(command)
        assert run(lambda c: bases_of(c, last)) == bases

    def test_the_gap_is_that_of_the_round_before_it(self, run: Any) -> None:
        """The interval was changed between two runs of the server."""

        def command(c: Connection) -> None:
            begun(c)
            made(c, "training", "training", "training")
            keep(c, (1,), 2)
            keep(c, (3, 4), 1)

        run(command)
        assert run(lambda c: bases_of(c, 5)) == [1, 3, 4]

    def test_a_kept_round_stands_for_the_rounds_that_there_were(self, run: Any) -> None:
        """Not for as many as there might have been until the next one."""

        def command(c: Connection) -> None:
            begun(c)
            made(c, "training", "training", "training")
            keep(c, (1, 4), 3)

        run(command)
        for last, strides in ((2, [1]), (3, [2]), (4, [3]), (5, [3, 1])):
            found = run(lambda c, last=last: kept_update_rows.of_line(c, last))
            assert [updates[0].stride for updates in found] == strides

    def test_an_aborted_round_leaves_no_gap(self, run: Any) -> None:
        """It made no version; the next one, of another number, begins from the same base."""

        def command(c: Connection) -> None:
            begun(c)
            version_rows.insert_version(c, version(3, round=5))
            keep(c, (1, 2))

        run(command)
        assert run(lambda c: bases_of(c, 3)) == [1, 2]

    def test_a_negation_is_nothing_that_updates_tell(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            made(c, "unlearning", "recovery", generation=1)
            keep(c, (1, 3))

        run(command)
        assert run(lambda c: bases_of(c, 2)) == [1]
        assert run(lambda c: bases_of(c, 3)) is None
        assert run(lambda c: bases_of(c, 4)) is None

    def test_a_step_of_a_method_counts_if_its_updates_were_kept(self, run: Any) -> None:
        """FedEraser's first version has no parent of its lineage, and its steps have no round."""

        def command(c: Connection) -> None:
            begun(c)
            made(c, "unlearning", "unlearning", "unlearning", "recovery", lineage=2)
            keep(c, (1, 3, 4, 5))

        run(command)
        assert run(lambda c: bases_of(c, 6)) == [3, 4, 5], "only those of its lineage"
        run(lambda c: kept_update_rows.destroy(c, before=1, current=2, by="job-x", now=1.0))
        assert run(lambda c: bases_of(c, 6)) is None

    def test_a_chosen_version_changes_nothing(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            version_rows.insert_version(c, version(3, "chosen", round=0, parent=2))
            version_rows.insert_version(c, version(4, parent=3))
            keep(c, (1, 3))

        run(command)
        assert run(lambda c: bases_of(c, 3)) == [1]
        assert run(lambda c: bases_of(c, 4)) == [1, 3]

    def test_another_attempt_of_the_same_base_is_no_part_of_the_line(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            version_rows.insert_version(c, version(3))
            version_rows.insert_version(c, version(4, parent=2))
            keep(c, (1, 2, 3))

        run(command)
        assert run(lambda c: bases_of(c, 4)) == [1, 2]
        assert [v.number for v in run(lambda c: kept_update_rows.line_of(c, 4))] == [1, 2, 4]

    def test_a_version_that_is_not_there_has_no_line(self, run: Any) -> None:
        run(begun)
        assert run(lambda c: kept_update_rows.of_line(c, 99)) is None


class TestMayGoOn:
    """Whether it is of use to keep the updates to a version's successor."""

    def test_only_from_the_first_version_of_a_lineage_on(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            made(c, "training")
            made(c, "unlearning", "recovery", start=4, lineage=2)
            keep(c, (1,))

        run(command)
        use = {n: run(lambda c, n=n: kept_update_rows.may_go_on(c, n)) for n in range(1, 6)}
        assert use == {1: True, 2: True, 3: False, 4: True, 5: False}


class TestDestroy:
    """What a job destroys at its end."""

    def test_it_takes_what_is_older_and_other_lines_and_keeps_the_rest(self, run: Any) -> None:
        """2 is the base, 3 an attempt that was abandoned, 4 to 6 the one that was kept."""

        def command(c: Connection) -> None:
            begun(c)
            made(c, "unlearning")
            made(c, "unlearning", "recovery", "recovery", start=4, lineage=2)
            keep(c, (1, 2, 3, 4, 5))
            kept_update_rows.destroy(c, before=4, current=6, by="job-1", now=20.0)

        run(command)
        assert run(kept_update_rows.hashes) == {sha("4/c2"), sha("5/c2")}
        gone = run(lambda c: kept_update_rows.stored(c, "job-1"))
        assert (gone.count, gone.num_bytes) == (3, 300)
        assert gone.sha256 == sha("\n".join(sorted(sha(f"{n}/c2") for n in (1, 2, 3))))
        assert run(kept_update_rows.stored).count == 2
        told = run(lambda c: audit_rows.list_entries(c, 0, 100))
        (entry,) = [each for each in told if each.action == "updates.destroyed"]
        assert (entry.job_id, entry.count) == ("job-1", 3)

    def test_a_second_time_it_does_nothing(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            keep(c, (1,))
            for job in ("job-1", "job-2"):
                kept_update_rows.destroy(c, before=2, current=2, by=job, now=20.0)

        run(command)
        assert run(lambda c: kept_update_rows.stored(c, "job-1")).count == 1
        assert run(lambda c: kept_update_rows.stored(c, "job-2")).count == 0
        told = run(lambda c: audit_rows.list_entries(c, 0, 100))
        assert [each.job_id for each in told if each.action == "updates.destroyed"] == ["job-1"]


class TestRows:
    """The rows themselves."""

    def test_rows_whose_files_are_gone_are_dropped_and_destroyed_ones_stay(self, run: Any) -> None:
        def command(c: Connection) -> int:
            begun(c)
            keep(c, (1,), client="c1")
            kept_update_rows.destroy(c, before=9, current=2, by="job-1", now=20.0)
            keep(c, (1, 2))
            return kept_update_rows.forget_missing(c, frozenset({sha("2/c2")}))

        assert run(command) == 1
        assert run(kept_update_rows.hashes) == {sha("2/c2")}
        assert run(lambda c: kept_update_rows.stored(c, "job-1")).count == 1
        assert run(lambda c: kept_update_rows.forget_missing(c, frozenset({sha("2/c2")}))) == 0

    def test_a_round_of_which_one_update_is_gone_goes_as_a_whole(self, run: Any) -> None:
        """With the others alone, its average would be another one."""

        def command(c: Connection) -> int:
            begun(c)
            made(c, "training")
            keep(c, (1, 2))
            keep(c, (1, 2), client="c1")
            there = kept_update_rows.hashes(c) - {sha("2/c1")}
            return kept_update_rows.forget_missing(c, there)

        assert run(command) == 2
        assert run(lambda c: bases_of(c, 2)) == [1]
        assert run(lambda c: bases_of(c, 3)) is None

    def test_a_row_that_a_receipt_tells_of_stays_whatever_is_missing(self, run: Any) -> None:
        """Two equal updates share a file; one of them was destroyed before."""

        def command(c: Connection) -> int:
            begun(c)
            keep(c, (1,))
            kept_update_rows.destroy(c, before=9, current=2, by="job-1", now=20.0)
            twin = replace(kept(2), sha256=kept(1).sha256)
            kept_update_rows.insert_updates(c, [twin])
            return kept_update_rows.forget_missing(c, frozenset())

        assert run(command) == 1
        assert run(lambda c: kept_update_rows.stored(c, "job-1")).count == 1

    def test_many_rows_are_dropped_at_once(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """More than a statement may name."""
        monkeypatch.setattr(kept_update_rows, "MOST_NAMES", 2)

        def command(c: Connection) -> int:
            begun(c)
            made(c, "training", "training", "training")
            keep(c, range(1, 6))
            return kept_update_rows.forget_missing(c, frozenset())

        assert run(command) == 5
        assert run(kept_update_rows.hashes) == frozenset()

    def test_nothing_kept_has_no_hash(self, run: Any) -> None:
        run(begun)
        found = run(kept_update_rows.stored)
        assert (found.count, found.num_bytes, found.sha256) == (0, 0, "")
        run(lambda c: kept_update_rows.insert_updates(c, ()))

    def test_a_client_has_one_update_in_a_version(self, run: Any) -> None:
        def command(c: Connection) -> None:
            begun(c)
            keep(c, (1,))

        run(command)
        with pytest.raises(IntegrityError):
            run(lambda c: keep(c, (1,)))


class TestSteps:
    """What an attempt notes of its steps."""

    def test_each_is_noted_once(self, run: Any) -> None:
        def command(c: Connection) -> str:
            begun(c)
            found = accepted(c).job
            made(c, "unlearning", "unlearning", "unlearning", generation=1)
            job_rows.insert_attempt(c, Attempt(found.id, 1, "mode", (), 3))
            return found.id

        job_id = run(command)

        def attempt() -> Attempt:
            (found,) = run(lambda c: job_rows.get_job(c, job_id)).attempts
            assert isinstance(found, Attempt)
            return found

        first = attempt()
        assert (first.steps, first.last_version) == ((), 3)
        run(lambda c: job_rows.add_step(c, first, 4))
        assert (attempt().steps, attempt().last_version) == ((4,), 4)
        with pytest.raises(FencedError, match="has gone on"):
            run(lambda c: job_rows.add_step(c, first, 5))
        second = attempt()
        run(lambda c: job_rows.add_step(c, second, 5))
        assert attempt().steps == (4, 5)
