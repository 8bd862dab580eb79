"""The chain of the audit: what it hashes, and what it notices."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import pytest

from fednot.audit_chain import START, BrokenChainError, Entry, Head, check, hash_of


def entry(sequence: int, previous: str, **values: object) -> Entry:
    made = Entry(
        sequence=sequence,
        at_microseconds=1_700_000_000_250_000,
        actor="p-aa",
        role="officer",
        action="DeletionService.Unlearn",
        subject="p-bb",
        outcome="accepted",
        reason="",
        job_id="job-1",
        version=7,
        count=1,
        previous_hash=previous,
    )
    made = replace(made, **values)  # type: ignore[arg-type]
    return replace(made, hash=hash_of(made))


def chain(length: int) -> list[Entry]:
    found: list[Entry] = []
    for number in range(1, length + 1):
        found.append(entry(number, found[-1].hash if found else START))
    return found


def test_the_hash_is_over_the_text_that_the_page_shows() -> None:
    text = (
        '[1,1700000000250000,"p-aa","officer","DeletionService.Unlearn","p-bb","accepted","",'
        '"job-1",7,1,"' + "0" * 64 + '"]'
    )
    assert entry(1, START).hash == hashlib.sha256(text.encode()).hexdigest()


def test_a_whole_chain_ends_in_its_head() -> None:
    whole = chain(3)
    assert check(whole) == Head(3, whole[-1].hash)
    assert check([]) == Head(0, START)


@pytest.mark.parametrize("name", [field.name for field in fields(Entry)])
def test_every_field_is_covered(name: str) -> None:
    whole = chain(3)
    value = getattr(whole[1], name)
    whole[1] = replace(whole[1], **{name: value + 1 if isinstance(value, int) else value + "x"})
    with pytest.raises(BrokenChainError, match="entry"):
        check(whole)


def test_an_entry_that_was_hashed_anew_is_betrayed_by_the_next_one() -> None:
    whole = chain(3)
    whole[1] = entry(2, whole[0].hash, subject="p-cc")
    with pytest.raises(BrokenChainError, match="entry 3 does not follow the entry before it"):
        check(whole)


@pytest.mark.parametrize("order", [(0, 2), (1, 2), (1, 0, 2), (0, 1, 1, 2)])
def test_missing_reordered_and_repeated_entries_are_noticed(order: tuple[int, ...]) -> None:
    whole = chain(3)
    with pytest.raises(BrokenChainError, match=r"entry \d stands where entry \d belongs"):
        check([whole[index] for index in order])


def test_a_chain_that_was_cut_or_written_anew_does_not_hold_the_head_that_was_noted() -> None:
    whole = chain(3)
    noted = whole[1].hash
    assert check(whole, known=noted).entries == 3
    assert check(whole, known=START).entries == 3
    with pytest.raises(BrokenChainError, match=f"no entry has the hash {noted}"):
        check(whole[:1], known=noted)
    forged = [entry(1, START, actor="p-dd")]
    forged.append(entry(2, forged[0].hash))
    assert check(forged).entries == 2
    with pytest.raises(BrokenChainError, match="no entry has the hash"):
        check(forged, known=noted)
