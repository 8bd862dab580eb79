"""An object that is far away, read as a file: any order of reads and seeks, few requests."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.state.stores.ranges import RangedFile

CONTENT = bytes(range(100))


class Far:
    """Bytes that are fetched, with what was asked for."""

    def __init__(self, window: int = 10) -> None:
        self.asked: list[tuple[int, int]] = []
        self.faults: list[OSError] = []
        self.file = RangedFile(self._fetch, len(CONTENT), window)

    def _fetch(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        if self.faults:
            raise self.faults.pop()
        return CONTENT[start:end]


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.none() | st.integers(0, 110), st.integers(0, 40))),
    window=st.integers(1, 120),
)
def test_it_reads_as_bytes_in_memory_do(steps: list[tuple[int | None, int]], window: int) -> None:
    """A raw file may give less than is asked for, but only at its end nothing."""
    with Far(window).file as far:
        expected = io.BytesIO(CONTENT)
        for place, count in steps:
            if place is not None:
                assert far.seek(place) == expected.seek(place)
            found = far.read(count)
            assert found == expected.read(len(found))
            assert found or not count or expected.tell() >= len(CONTENT)
            assert far.tell() == expected.tell()


def test_reading_on_asks_for_each_byte_once() -> None:
    far = Far()
    with far.file as file:
        assert file.read() == CONTENT
    assert sorted(far.asked) == [(start, start + 10) for start in range(0, 100, 10)]


def test_a_place_from_the_end_and_from_where_it_is() -> None:
    with Far().file as file:
        assert file.seek(-5, io.SEEK_END) == 95
        assert file.read(2) == CONTENT[95:97]
        assert file.seek(-3, io.SEEK_CUR) == 94
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)


def test_after_a_fault_it_is_read_on() -> None:
    far = Far()
    with far.file as file:
        far.faults.append(OSError("gone"))
        with pytest.raises(OSError, match="gone"):
            file.read(5)
        assert file.read(5) == CONTENT[:5]


def test_a_range_that_came_short_is_told() -> None:
    with (
        RangedFile(lambda start, end: b"x", 20, 10) as file,
        pytest.raises(OSError, match="1 of 10"),
    ):
        file.read(5)
