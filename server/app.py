"""Puts the server together, serves, and takes it apart again."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import torch
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import fednot
from fednot.channel import SERVER_OPTIONS
from fednot.http_status import Health, StatusServer
from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from fednot.task_loading import calling, load_task
from fednot.v1 import (
    deletion_pb2,
    deletion_pb2_grpc,
    federation_pb2,
    federation_pb2_grpc,
    operator_pb2,
    operator_pb2_grpc,
)
from server import initial_model
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.evaluation import ServerEvaluator
from server.federation import Federation
from server.global_model import GlobalModel, InitialModel
from server.metrics import Metrics, new_registry
from server.monitor import Monitor
from server.services.deletion import DeletionServicer
from server.services.federation import FederationServicer
from server.services.guard import Guard
from server.services.operator import OperatorServicer
from server.settings import ServerSettings
from server.state.database import Database, StateError
from server.state.model_store import ModelStore

log = logging.getLogger("server")

HEARTBEATS_TO_LAPSE: Final = 3
STALE_AFTER: Final = 15.0

SERVICE_NAMES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (federation_pb2, "FederationService"),
        (deletion_pb2, "DeletionService"),
        (operator_pb2, "OperatorService"),
    )
)


async def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises StateError if the state cannot be used."""
    torch.set_num_threads(settings.torch_threads)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        stack.callback(_locked(settings.state_dir).close)
        federation, cohort = await _federation(settings, stack)
        coordinator = Coordinator(federation)
        await coordinator.recover_state()
        monitor = Monitor(federation, cohort)
        _start_status(settings, federation, monitor, stack)
        serving = health.aio.HealthServicer()
        server = _server(settings, federation, coordinator, cohort, serving)
        await _start(server, settings.address)
        stack.push_async_callback(server.stop, settings.stop_grace)
        for work in (coordinator.run(), monitor.run()):
            stack.push_async_callback(_ended, asyncio.create_task(work))
        for name in ("", *SERVICE_NAMES):
            await serving.set(name, health_pb2.HealthCheckResponse.SERVING)
        current = federation.model.current
        log.info("serving on %s; current version %d", settings.address, current.number)
        await stopping.wait()
        log.info("stopping")
        await serving.enter_graceful_shutdown()
        cohort.stop()
        federation.stops()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _federation(
    settings: ServerSettings, stack: AsyncExitStack
) -> tuple[Federation, RemoteCohort]:
    initial, evaluator = _task_parts(settings)
    database = Database(settings.state_dir / "state.sqlite3")
    stack.callback(database.close)
    store = ModelStore(settings.state_dir / "versions")
    cohort = RemoteCohort(lapse=HEARTBEATS_TO_LAPSE * settings.heartbeat_interval)
    federation = Federation(
        database=database,
        model=await GlobalModel.open(database, store, initial),
        cohort=cohort,
        evaluator=evaluator,
        defaults=settings.defaults(),
        metrics=Metrics(new_registry(), fednot.__version__),
    )
    return federation, cohort


def _task_parts(settings: ServerSettings) -> tuple[InitialModel, ServerEvaluator | None]:
    if settings.model is not None:
        return initial_model.from_file(settings.model), None
    with calling(settings.task):
        task = load_task(settings.task, settings.task_arg)
        initial = initial_model.from_task(task, settings.seed)
        data = task.test_data()
        evaluator = ServerEvaluator(task, data) if data is not None and len(data) else None
    if evaluator is None:
        log.warning("the server has no test data; the clients evaluate")
    return initial, evaluator


def _server(
    settings: ServerSettings,
    federation: Federation,
    coordinator: Coordinator,
    cohort: RemoteCohort,
    serving: health.aio.HealthServicer,
) -> aio.Server:
    server = aio.server(interceptors=[Guard(federation.metrics)], options=SERVER_OPTIONS)
    federation_pb2_grpc.add_FederationServiceServicer_to_server(
        FederationServicer(
            federation,
            cohort,
            heartbeat_interval=settings.heartbeat_interval,
            upload_slots=settings.upload_slots,
        ),
        server,
    )
    deletion_pb2_grpc.add_DeletionServiceServicer_to_server(
        DeletionServicer(federation, coordinator), server
    )
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(
        OperatorServicer(federation, coordinator, cohort), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    if settings.reflection:
        names = (*SERVICE_NAMES, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server


async def _start(server: aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise StateError(f"cannot serve on {address}; is the port taken?") from error
    await server.start()


def _start_status(
    settings: ServerSettings, federation: Federation, monitor: Monitor, stack: AsyncExitStack
) -> None:
    if not settings.http_address:
        return

    def alive() -> Health:
        detail = {
            "version": str(federation.model.current.number),
            "waiting": "yes" if federation.activity.waiting_for else "no",
        }
        return Health(ok=time.monotonic() - monitor.refreshed_at < STALE_AFTER, detail=detail)

    status = StatusServer(settings.http_address, federation.metrics.render, alive)
    try:
        status.start()
    except OSError as error:
        raise StateError(f"cannot serve HTTP on {settings.http_address}: {error}") from error
    stack.callback(status.stop)


def _locked(state_dir: Path) -> LockedDirectory:
    try:
        return LockedDirectory(state_dir)
    except DirectoryInUseError:
        raise StateError(f"another server runs on {state_dir}; stop it first") from None
    except OSError as error:
        raise StateError(f"the state directory {state_dir} cannot be used: {error}") from error
