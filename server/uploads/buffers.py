"""The buffers of uploads, used again and again, so that their pages are touched once."""

from __future__ import annotations

import threading
from typing import Final

from server.blocks import Block, Memory


class Buffers:
    """Keeps at most `count` blocks that are not in use, whatever their size. Thread-safe."""

    def __init__(self, memory: Memory, count: int) -> None:
        self._memory: Final = memory
        self._count = count
        self._free: list[Block] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> Block:
        """A block of this size, with anything in it. Raises OSError if there is no space."""
        with self._lock:
            for at, block in enumerate(self._free):
                if block.nbytes == num_bytes:
                    return self._free.pop(at)
            if len(self._free) >= self._count:  # a block of another size may leave no room
                self._free.pop(0).close()
        return self._memory.block(num_bytes)

    def take_spilled(self, num_bytes: int) -> Block:
        """A block on disk. Raises OSError if there is no space."""
        return self._memory.spilled_block(num_bytes)

    def give(self, block: Block) -> None:
        """Takes a block back; its bytes stay until they are overwritten or `clear` is called."""
        with self._lock:
            if not block.spilled and len(self._free) < self._count:
                self._free.append(block)
                return
        block.close()

    def clear(self) -> None:
        """Gives the memory of what is not in use back."""
        with self._lock:
            while self._free:
                self._free.pop().close()
