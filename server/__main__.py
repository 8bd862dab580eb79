"""`python -m server`: runs the aggregation server."""

from __future__ import annotations

import asyncio
import logging
import sys

from fednot.layer_map import LayerMapError
from fednot.model_file import ModelFileError
from fednot.settings import USAGE_ERROR, load_or_exit
from fednot.task_loading import TaskLoadError
from server.app import serve
from server.identity import IdentityError
from server.settings import ENVIRONMENT_PREFIX, ServerSettings
from server.state.database import StateError
from server.state.model_store import ModelStoreError

STATE_ERROR = 3


def main() -> None:
    """Runs the server of the settings.

    Exits with 2 for bad settings, a bad Task or an identity it cannot start with, 3 for unusable
    state.
    """
    settings = load_or_exit(ServerSettings, program="fednot-server", prefix=ENVIRONMENT_PREFIX)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        asyncio.run(serve(settings))
    except (TaskLoadError, IdentityError) as error:
        _exit(USAGE_ERROR, error)
    except (StateError, ModelStoreError, ModelFileError, LayerMapError) as error:
        _exit(STATE_ERROR, error)


def _exit(code: int, error: Exception) -> None:
    sys.stderr.write(f"fednot-server: {error}\n")
    raise SystemExit(code) from error


if __name__ == "__main__":
    main()
