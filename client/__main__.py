"""The client's command: `python -m client` or `fednot-client`.

Exit codes: 0 stopped by a signal, 1 an error that should not be, 2 wrong settings, Task, data,
device or state directory, 3 refused by the server for good.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any, Final

from client.connection import FinalRefusalError
from client.rounds import Rounds
from client.runtime import Runtime
from client.settings import PREFIX, PROGRAM, ClientSettings
from client.startup import Prepared, StartError, prepare
from client.transfer import Transfer
from client.worker import Worker
from fednot.channel import open_aio_channel
from fednot.settings import USAGE_ERROR, load_or_exit
from fednot.v1.federation_pb2_grpc import FederationServiceStub

REFUSED: Final = 3
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("client")


def main() -> int:
    """Runs the client of this command line until a signal; gives the exit code."""
    settings = load_or_exit(ClientSettings, program=PROGRAM, prefix=PREFIX)
    for number in _SIGNALS:
        signal.signal(number, _stopped_early)
    _log_to_stderr(settings.log_level)
    try:
        prepared = prepare(settings)
    except StartError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return USAGE_ERROR
    worker = Worker()
    try:
        code = asyncio.run(_run(prepared, worker))
    finally:
        prepared.close()
    if worker.busy:
        _log.warning("leaving behind work that ignored its cancellation")
        logging.shutdown()
        os._exit(code)
    return code


async def _run(prepared: Prepared, worker: Worker) -> int:
    stop = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    channel = open_aio_channel(prepared.settings.server)
    stub = FederationServiceStub(channel)
    transfer = Transfer(stub, prepared.trainer.manifest, prepared.metrics.moved)
    rounds = Rounds(prepared.connection, transfer, prepared.trainer, worker, prepared.metrics)
    runtime = Runtime(stub, prepared, rounds, worker)
    try:
        await runtime.run(stop)
    except FinalRefusalError as error:
        _log.error("refused by %s: %s", prepared.settings.server, error)
        return REFUSED
    finally:
        await channel.close(grace=None)
    return 0


def _stopped_early(*_: Any) -> None:
    raise SystemExit(0)


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


if __name__ == "__main__":
    sys.exit(main())
