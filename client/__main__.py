"""The client's command: `python -m client` or `fednot-client`; `forget` is a command of its own.

Exit codes: 0 stopped by a signal, 1 an error that should not be, 2 wrong settings, Task, data,
device or state directory, 3 refused by the server for good.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Any, Final

from client import forget_command
from client.carrier import Carrier
from client.connection import FinalRefusalError
from client.dialler import Dialler
from client.forget_settings import FORGET, VERBS
from client.ranks import FAILED, dismiss, followed, lost
from client.renewal import IdentityKeeper
from client.rounds import Rounds
from client.runtime import Runtime
from client.settings import PREFIX, PROGRAM, ClientSettings
from client.startup import Prepared, StartError, prepare
from client.transfer import Transfer
from client.worker import Worker
from fednot import daemon_completion, logs, tracing
from fednot.daemon_completion import COMPLETION
from fednot.distributed import rank
from fednot.secure_aggregation.signing import CertificateSigner
from fednot.settings import USAGE_ERROR, load_or_exit

REFUSED: Final = 3
ONLY_THE_OWNER: Final = 0o077
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("client")


def main() -> int:
    """Runs the client of this command line until a signal; gives the exit code."""
    os.umask(ONLY_THE_OWNER)
    if sys.argv[1:2] == [FORGET]:
        return forget_command.main(sys.argv[2:])
    if sys.argv[1:2] == [COMPLETION]:
        return daemon_completion.run(PROGRAM, PREFIX, VERBS, sys.argv[2:])
    settings = load_or_exit(ClientSettings, program=PROGRAM, prefix=PREFIX)
    for number in _SIGNALS:
        signal.signal(number, _stopped_early)
    logs.set_up(settings.log_level, settings.log_format)
    try:
        tracing.start("fednot-client", settings.trace_endpoint, os.environ)
    except tracing.TracingError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return USAGE_ERROR
    try:
        return _served(settings)
    finally:
        tracing.stop()


def _served(settings: ClientSettings) -> int:
    if rank() > 0:
        return followed(settings)
    try:
        prepared = prepare(settings)
    except StartError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return USAGE_ERROR
    worker = Worker()
    try:
        code = asyncio.run(run(prepared, worker))
    finally:
        dismiss(prepared.trainer.task)
        prepared.close()
    if lost.is_set():
        code = FAILED
    if worker.busy:
        _log.warning("leaving behind work that ignored its cancellation")
        logging.shutdown()
        tracing.stop()
        os._exit(code)
    return code


async def run(prepared: Prepared, worker: Worker) -> int:
    """Serves with what was prepared until a signal stops it; gives the exit code."""
    gc.freeze()  # no collection looks again at what the imports and the start have made
    stop = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = prepared.identity
    dialler = Dialler(prepared.settings.server, identity.current if identity else None)
    keeper = IdentityKeeper(identity, dialler, prepared.metrics) if identity else None
    carrier = Carrier(
        Transfer(dialler, prepared.connection.moved),
        prepared.settings.server,
        lambda: keeper.current if keeper else None,
        prepared.connection.moved,
        data_channel=prepared.settings.data_channel == "auto",
    )
    rounds = Rounds(
        prepared.connection,
        carrier,
        prepared.trainer,
        worker,
        prepared.metrics,
        signer=lambda: CertificateSigner(keeper.current) if keeper else None,
    )
    told_trust = keeper.told_trust if keeper else _unheard
    runtime = Runtime(dialler, prepared, rounds, worker, told_trust)
    keeping = asyncio.create_task(keeper.run()) if keeper else None
    try:
        await runtime.run(stop)
    except FinalRefusalError as error:
        _log.error("refused by %s: %s", prepared.settings.server, error)
        return REFUSED
    finally:
        if keeping is not None:
            keeping.cancel()
        carrier.close()
        await dialler.close()
    return 0


def _unheard(_: str) -> None:
    """In plaintext no certificate is to be renewed."""


def _stopped_early(*_: Any) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
