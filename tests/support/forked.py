"""Processes of the server, the client and `fednot` that begin at once.

One process of each worker imports torch, grpc and the three programs, and from then on does nothing
but fork: importing takes longer than most of what tests do with a process. Tests that are about the
start itself, and those in other network namespaces, run the interpreter.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

SERVER: Final = "server.__main__"
CLIENT: Final = "client.__main__"
FEDNOT: Final = "fednot.cli.main"

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([FEDNOT, CLIENT, SERVER, "torch._dynamo"])
"""`fednot` first, since it says before grpc is imported what that may log. The last one would be
imported by the first step of an optimiser.
"""


class Forked:
    """A process that runs the `main` of a module; its methods are those of `subprocess.Popen`.

    It has the environment and the umask that its caller has, not those that the first one had.

    It appends what it writes to the files `output` and `errors`, and reads the file `given`; each
    is /dev/null if it is not given. Arithmetic has one thread.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        given: Path | None = None,
        output: Path | None = None,
        errors: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        streams = [str(path or os.devnull) for path in (given, output, errors)]
        variables = dict(os.environ if environment is None else environment)
        self._process = _CONTEXT.Process(
            target=_run, args=(module, list(arguments), streams, variables, umask()), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code once it has ended; after a signal the negative number of that."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Its exit code at its end. Raises TimeoutExpired."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it unless the process has ended, of which `poll` may learn a moment later."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Command:
    """A process that is expected to end by itself, with what it printed."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        given: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        read, self._output, self._errors = (Path(self._folder.name) / name for name in "ioe")
        read.write_text(given)
        self._arguments = [module, *arguments]
        self._process = Forked(
            *(module, arguments),
            given=read,
            output=self._output,
            errors=self._errors,
            environment=environment,
        )

    def ended(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Waits for its end; kills it and raises TimeoutExpired if that takes too long."""
        try:
            code = self._process.wait(timeout)
            printed = self._output.read_text(), self._errors.read_text()
            return subprocess.CompletedProcess(self._arguments, code, *printed)
        finally:
            self._process.kill()
            self._folder.cleanup()


def umask() -> int:
    """The umask of this process."""
    present = os.umask(0o077)
    os.umask(present)
    return present


def _run(
    module: str, arguments: list[str], streams: list[str], environment: dict[str, str], mask: int
) -> None:
    import torch

    for number, path in enumerate(streams):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT if number else os.O_RDONLY
        handle = os.open(path, flags, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(mask)
    torch.set_num_threads(1)
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main())
