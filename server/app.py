"""Puts the server together, serves, and takes it apart again."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import torch
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

import fednot
from fednot.channel import SERVER_OPTIONS
from fednot.http_status import Health, StatusServer
from fednot.task import Task
from fednot.task_loading import load_task
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
from server.global_model import GlobalModel
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
        stack.enter_context(_locked(settings.state_dir))
        federation, cohort = await _federation(settings, stack)
        coordinator = Coordinator(federation)
        await coordinator.recover_state()
        monitor = Monitor(federation, cohort)
        health = HealthServicer()
        server = _server(settings, federation, coordinator, cohort, health)
        await _start(server, settings.address)
        workers = [asyncio.create_task(coordinator.run()), asyncio.create_task(monitor.run())]
        status = _status_server(settings, federation, monitor)
        for name in ("", *SERVICE_NAMES):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "serving on %s; current version %d", settings.address, federation.model.current.number
        )
        await stopping.wait()
        log.info("stopping")
        await health.enter_graceful_shutdown()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await server.stop(settings.stop_grace)
        if status is not None:
            status.stop()


async def _federation(
    settings: ServerSettings, stack: AsyncExitStack
) -> tuple[Federation, RemoteCohort]:
    task = load_task(settings.task, settings.task_arg) if settings.task else None
    database = Database(settings.state_dir / "state.sqlite3")
    stack.callback(database.close)
    store = ModelStore(settings.state_dir / "versions")
    initial = (
        initial_model.from_task(task, settings.seed)
        if task is not None
        else initial_model.from_file(settings.model or Path())
    )
    cohort = RemoteCohort(lapse=HEARTBEATS_TO_LAPSE * settings.heartbeat_interval)
    federation = Federation(
        database=database,
        model=await GlobalModel.open(database, store, initial),
        cohort=cohort,
        evaluator=_evaluator(task),
        defaults=settings.defaults(),
        metrics=Metrics(new_registry(), fednot.__version__),
    )
    return federation, cohort


def _evaluator(task: Task | None) -> ServerEvaluator | None:
    data = task.test_data() if task is not None else None
    if task is None or data is None or not len(data):
        log.warning("the server has no test data; the clients evaluate")
        return None
    return ServerEvaluator(task, data)


def _server(
    settings: ServerSettings,
    federation: Federation,
    coordinator: Coordinator,
    cohort: RemoteCohort,
    health: HealthServicer,
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
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
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


def _status_server(
    settings: ServerSettings, federation: Federation, monitor: Monitor
) -> StatusServer | None:
    if not settings.http_address:
        return None

    def health() -> Health:
        age = time.monotonic() - monitor.refreshed_at
        detail = {
            "waiting_for": federation.activity.waiting_for,
            "version": str(federation.model.current.number),
        }
        return Health(ok=age < STALE_AFTER, detail=detail)

    status = StatusServer(settings.http_address, federation.metrics.render, health)
    status.start()
    return status


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StateError(f"another server runs on {state_dir}; stop it first") from None
    finally:
        os.close(descriptor)
