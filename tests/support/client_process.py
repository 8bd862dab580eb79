"""Real client processes that start at once, since the process they are forked from knows torch."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

WAIT: Final = 30.0
_PAUSE: Final = 0.02
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["client.__main__", "torch._dynamo"])
"""The second one would be imported by the first step of an optimiser."""


class ClientProcess:
    """A client with a command line; what it writes to stderr goes to a file."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        log.touch()
        self._process = _CONTEXT.Process(target=_main, args=(list(arguments), str(log)))
        self._process.start()

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
            while self._process.is_alive():  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_PAUSE)
        return self._process.exitcode, self._log.read_text()

    def terminate(self) -> None:
        """Sends SIGTERM."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends it if it still runs."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join(WAIT)


def _main(arguments: list[str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, sys.stderr.fileno())
    for name in [name for name in os.environ if "FEDNOT" in name]:
        del os.environ[name]
    sys.argv = ["fednot-client", *arguments]
    from client.__main__ import main

    sys.exit(main())
