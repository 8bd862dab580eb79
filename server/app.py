"""Puts the server together, serves, and takes it apart again."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Final

import torch

import fednot
from fednot.codecs import codec_of
from fednot.http_status import Health, StatusServer
from fednot.locked_directory import DirectoryInUseError, LockedDirectory
from fednot.manifest import Manifest
from fednot.secure_aggregation.signing import CertificateSigner
from fednot.task_loading import calling, load_task
from server import initial_model, loop_lag
from server.anomalies import Anomalies
from server.blocks import Memory
from server.cohorts.remote import RemoteCohort
from server.coordinator import Coordinator
from server.destruction import StoredDestructions
from server.evaluation import ServerEvaluator
from server.federation import Federation
from server.forgetting import StoredForgettings
from server.global_model import GlobalModel, InitialModel
from server.identity import ServerIdentity, open_identity
from server.ledger.clock import LedgerClock
from server.ledger.opening import open_ledger
from server.listeners import Listeners
from server.metrics import Metrics, new_registry
from server.monitor import Monitor
from server.receipts.desk import ReceiptDesk
from server.room import Room
from server.secure_aggregation.attempt import MaskingPolicy
from server.services.offer import MASKED
from server.settings import ServerSettings
from server.state import anomaly_rows
from server.state.database import Database, StateError
from server.state.model_store import ModelStore
from server.state.stores import open_store
from server.state.stores.directory import DirectoryStore
from server.state.stores.told import ToldStore
from server.update_history import UpdateHistory
from server.verification.server_data import ServerData

log = logging.getLogger("server")

HEARTBEATS_TO_LAPSE: Final = 3
STALE_AFTER: Final = 15.0
_STALE_IDENTITY: Final = "its replaced files cannot be used, see the log; the ones before stay"


async def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises IdentityError for an identity, and StateError for state, that cannot be used, or that
    another server has taken over meanwhile.
    """
    torch.set_num_threads(settings.torch_threads)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        identity = _identity(settings)
        stack.callback(_locked(settings.state_dir).close)
        federation, cohort = await _federation(settings, stack)
        federation.masking = _masking(settings, identity)
        receipts = await ReceiptDesk.open(federation.database, settings.state_dir)
        receipts.when_failed(federation.metrics.faults.of_disk)
        federation.receipts = receipts
        coordinator = Coordinator(federation)
        monitor = await Monitor.of(federation, cohort, identity)
        await coordinator.recover_state()
        _start_status(settings, federation, monitor, identity, stack)
        listeners = Listeners(settings, federation, coordinator, cohort, identity)
        stack.push_async_callback(monitor.finish)
        clock = LedgerClock(federation.database, federation.ledger)
        stack.push_async_callback(clock.finish)
        stack.push_async_callback(listeners.stop)
        await listeners.start()
        for work in (
            coordinator.run(),
            monitor.run(),
            listeners.refusals.run(),
            clock.run(),
            loop_lag.watch(federation.metrics.faults.lagged, cohort.pauses.tick),
        ):
            stack.push_async_callback(_ended, asyncio.create_task(work))
        if identity is not None:
            stack.push_async_callback(_ended, asyncio.create_task(identity.run()))
        gc.freeze()  # no collection looks again at what the imports and the start have made
        loop = asyncio.get_running_loop()
        federation.database.when_lost(lambda: loop.call_soon_threadsafe(stopping.set))
        current = federation.model.current
        log.info("serving on %s; current version %d", _places(settings), current.number)
        await stopping.wait()
        log.info("stopping")
        await listeners.say_that_it_stops()
        cohort.stop()
        federation.stops()
        federation.database.raise_if_lost()


def _identity(settings: ServerSettings) -> ServerIdentity | None:
    if settings.identity_folder is None:
        return None
    identity = open_identity(settings.identity_folder, settings.revocations, settings.authority)
    log.info("this is %s of the trust domain %s", identity.subject, identity.domain)
    return identity


def _masking(settings: ServerSettings, identity: ServerIdentity | None) -> MaskingPolicy | None:
    if not settings.secure_aggregation or identity is None:
        return None

    def check(client: str, chain: bytes, message: bytes, signature: bytes) -> None:
        CertificateSigner(identity.own).check(client, chain, message, signature)

    return MaskingPolicy(settings.mask_range, settings.mask_wait, check)


def _places(settings: ServerSettings) -> str:
    how = "in plaintext" if settings.insecure else "over mutual TLS"
    beside = (
        ("enrolment", settings.enrolment_address),
        ("data channel", settings.data_address),
        ("console", settings.console_address),
    )
    more = (f", {what} on {address}" for what, address in beside if address)
    return f"{settings.address} {how}" + "".join(more)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _federation(
    settings: ServerSettings, stack: AsyncExitStack
) -> tuple[Federation, RemoteCohort]:
    initial, evaluator, server_data = _task_parts(settings)
    _check_model(initial.manifest, settings)
    last = stack.enter_context(ExitStack())  # left after the database, whose writes end in a ledger
    database = Database(settings.database_place)
    stack.callback(database.close)
    ledger = await open_ledger(settings.ledger_path, database)
    last.callback(ledger.close)
    metrics = Metrics(new_registry(), fednot.__version__)
    database.when_failed(metrics.faults.of_database)
    ledger.when_failed(metrics.faults.of_disk)
    store = ToldStore(open_store(settings.versions_place), metrics.faults.of_disk)
    spill = settings.state_dir / "spill"
    memory = Memory(settings.memory_budget, spill, metrics.faults.of_disk)
    cohort = RemoteCohort(lapse=HEARTBEATS_TO_LAPSE * settings.heartbeat_interval)
    federation = Federation(
        database=database,
        model=await _opened(database, store, initial, memory),
        cohort=cohort,
        evaluator=evaluator,
        defaults=settings.defaults(),
        metrics=metrics,
        memory=memory,
        ledger=ledger,
        anomalies=Anomalies(await database.read(anomaly_rows.by_client)),
        room=Room(settings.local_folders, needed=initial.manifest.nbytes),
        server_data=server_data,
    )
    federation.history = await _history(settings, database, metrics)
    federation.forgettings = StoredForgettings(federation, cohort)
    federation.destructions = StoredDestructions(database, cohort, federation.changes)
    return federation, cohort


async def _history(settings: ServerSettings, database: Database, metrics: Metrics) -> UpdateHistory:
    place = settings.kept_updates_place
    try:
        store = None
        if settings.keep_updates or place.exists():
            store = ToldStore(DirectoryStore(place), metrics.faults.of_disk)
        history = UpdateHistory(database, store, settings.keep_updates)
        await history.open()
    except OSError as error:
        raise StateError(f"the kept updates in {place} cannot be used: {error}") from error
    return history


def _check_model(manifest: Manifest, settings: ServerSettings) -> None:
    if len(manifest.tensors) > settings.max_tensors:
        raise StateError(
            f"the model has {len(manifest.tensors)} tensors and --max-tensors allows "
            f"{settings.max_tensors}"
        )
    names = (MASKED,) if settings.secure_aggregation else ("none", *settings.codecs)
    smallest = min(codec_of(name).size(manifest) for name in names)
    if settings.max_update is not None and smallest > settings.max_update:
        raise StateError(
            f"the smallest update of the model has {smallest} bytes and --max-update allows "
            f"{int(settings.max_update)}: no client could take part"
        )


async def _opened(
    database: Database, store: ModelStore, initial: InitialModel, memory: Memory
) -> GlobalModel:
    try:
        return await GlobalModel.open(database, store, initial, memory)
    except OSError as error:
        raise StateError(f"the model versions in {store.place} cannot be used: {error}") from error


def _task_parts(
    settings: ServerSettings,
) -> tuple[InitialModel, ServerEvaluator | None, ServerData]:
    if settings.model is not None:
        return initial_model.from_file(settings.model), None, ServerData(probes=settings.probes)
    with calling(settings.task):
        task = load_task(settings.task, settings.task_arg)
        initial = initial_model.from_task(task, settings.seed)
        data = task.test_data()
        evaluator = ServerEvaluator(task, data) if data is not None and len(data) else None
    if evaluator is None:
        log.warning("the server has no test data; the clients evaluate")
    return initial, evaluator, ServerData(task, data, settings.probes)


def _start_status(
    settings: ServerSettings,
    federation: Federation,
    monitor: Monitor,
    identity: ServerIdentity | None,
    stack: AsyncExitStack,
) -> None:
    if not settings.http_address:
        return

    def alive() -> Health:
        detail = health_details(federation, identity)
        return Health(ok=time.monotonic() - monitor.refreshed_at < STALE_AFTER, detail=detail)

    status = StatusServer(settings.http_address, federation.metrics.render, alive)
    try:
        status.start()
    except OSError as error:
        raise StateError(str(error)) from error
    stack.callback(status.stop)


def health_details(federation: Federation, identity: ServerIdentity | None) -> dict[str, str]:
    """What /healthz tells beside the health itself; no names, since it needs no certificate."""
    detail = {
        "version": str(federation.model.current.number),
        "waiting": "yes" if federation.activity.waiting_for else "no",
    }
    if identity is not None:
        detail["identity"] = _STALE_IDENTITY if identity.fault else "ok"
    return detail


def _locked(state_dir: Path) -> LockedDirectory:
    try:
        return LockedDirectory(state_dir)
    except DirectoryInUseError:
        raise StateError(f"another server runs on {state_dir}; stop it first") from None
    except OSError as error:
        raise StateError(f"the state directory {state_dir} cannot be used: {error}") from error
