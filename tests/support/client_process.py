"""Real client processes that start at once, and what they say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from support.forked import CLIENT, Forked

WAIT: Final = 30.0
_PAUSE: Final = 0.02


class ClientProcess:
    """A client with a command line; what it writes to stderr goes to a file."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        log.touch()
        environment = {name: value for name, value in os.environ.items() if "FEDNOT" not in name}
        self._process = Forked(CLIENT, arguments, errors=log, environment=environment)

    async def said(self, text: str) -> str:
        """Waits until its log has a line with this text; gives that line."""
        async with asyncio.timeout(WAIT):
            while True:
                lines = self._log.read_text().splitlines(keepends=True)
                for line in lines:
                    if text in line and line.endswith("\n"):
                        return line
                await asyncio.sleep(_PAUSE)

    async def ended(self, within: float = WAIT) -> tuple[int | None, str]:
        """Waits for its end, for so many seconds at the most; gives exit code and log."""
        async with asyncio.timeout(within):
            while self._process.poll() is None:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_PAUSE)
        return self._process.poll(), self._log.read_text()

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it if it still runs."""
        self._process.kill()
        self._process.wait(WAIT)
