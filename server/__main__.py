"""`python -m server`: runs the aggregation server."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from typing import NoReturn

from fednot import logs, tracing
from fednot.layer_map import LayerMapError
from fednot.model_file import ModelFileError
from fednot.settings import USAGE_ERROR, load_or_exit
from fednot.task_loading import TaskLoadError
from server import failpoints, malloc
from server.app import serve
from server.identity import IdentityError
from server.maintenance.commands import COMMANDS
from server.settings import ENVIRONMENT_PREFIX, ServerSettings
from server.state.database import StateError, StateUnavailableError
from server.state.model_store import ModelStoreError

STATE_ERROR = 3
ONLY_THE_OWNER = 0o077


def main() -> None:
    """Runs the server of the settings, or the command that the first argument names.

    The server exits with 2 for bad settings, a bad Task or an identity it cannot start with, 3 for
    unusable state.
    """
    os.umask(ONLY_THE_OWNER)
    malloc.tune()
    failpoints.enable(os.environ)
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        raise SystemExit(COMMANDS[sys.argv[1]](sys.argv[2:]))
    settings = load_or_exit(ServerSettings, program="fednot-server", prefix=ENVIRONMENT_PREFIX)
    logs.set_up(settings.log_level, settings.log_format)
    _raise_the_limit_of_files()
    try:
        tracing.start("fednot-server", settings.trace_endpoint, os.environ)
        asyncio.run(serve(settings))
    except (TaskLoadError, IdentityError, tracing.TracingError) as error:
        _exit(USAGE_ERROR, error)
    except (StateError, StateUnavailableError) as error:
        _exit(STATE_ERROR, error)
    except (ModelStoreError, ModelFileError, LayerMapError) as error:
        _exit(STATE_ERROR, error)
    finally:
        tracing.stop()


def _raise_the_limit_of_files() -> None:
    """Each connection takes a file handle; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logging.getLogger("server").warning("the limit of open files stays: %s", error)


def _exit(code: int, error: Exception) -> NoReturn:
    sys.stderr.write(f"fednot-server: {error}\n")
    raise SystemExit(code) from error


if __name__ == "__main__":
    main()
