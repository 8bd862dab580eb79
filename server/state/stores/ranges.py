"""An object that is far away as a file, read window by window and a window ahead."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

WINDOW: Final = 8 << 20


class RangedFile(io.RawIOBase):
    """Reads with `fetch`, a function of first byte and end; two windows are in memory at most."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, window: int = WINDOW) -> None:
        self._fetch = fetch
        self._size = size
        self._window = window
        self._place = 0
        self._start, self._held = 0, memoryview(b"")
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; nothing is fetched before it is read."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, origin + offset)
        return self._place

    # The type of what may be written to has no name before Python 3.12.
    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Reads on to the end of a window at most. Raises what `fetch` raises."""
        target = memoryview(buffer).cast("B")
        if self._place >= self._size or not target:
            return 0
        if not self._start <= self._place < self._start + len(self._held):
            self._move_to(self._place)
        first = self._place - self._start
        count = min(len(target), len(self._held) - first)
        target[:count] = self._held[first : first + count]
        self._place += count
        return count

    def close(self) -> None:
        """Drops the windows; what is being fetched is not waited for."""
        self._held, self._ahead = memoryview(b""), None
        self._thread.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _move_to(self, place: int) -> None:
        self._held = memoryview(b"")
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == place:
            content = ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()
            content = self._fetched(place)
        self._start, self._held = place, memoryview(content)
        following = place + len(content)
        if following < self._size:
            self._ahead = following, self._thread.submit(self._fetched, following)

    def _fetched(self, start: int) -> bytes:
        end = min(start + self._window, self._size)
        content = self._fetch(start, end)
        if len(content) != end - start:
            raise OSError(f"{len(content)} of {end - start} bytes came")
        return content
