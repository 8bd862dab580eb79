"""What can be wrong before the first call: state, Task, data, device, the status port."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from client.connection import Connection
from client.device import Device, DeviceError, choose
from client.identity import StateDirectory, StateError
from client.metrics import ClientMetrics
from client.settings import ClientSettings
from client.trainer import Trainer
from fednot import __version__
from fednot.http_status import StatusServer
from fednot.manifest import Manifest
from fednot.task_loading import TaskLoadError, calling, load_task
from fednot.v1 import federation_pb2
from fednot.wire import manifest_message

_log = logging.getLogger("client")


class StartError(ValueError):
    """Something that must be put right before the client can start; the message says what."""


@dataclass(frozen=True)
class Prepared:
    """A client that is ready to dial. `status` answers already; None if it is turned off."""

    settings: ClientSettings
    state: StateDirectory
    trainer: Trainer
    metrics: ClientMetrics
    connection: Connection
    status: StatusServer | None

    def join_request(self) -> federation_pb2.JoinRequest:
        """What this client says of itself when it joins."""
        test_data = self.trainer.test_data
        return federation_pb2.JoinRequest(
            client=self.settings.name,
            manifest=manifest_message(self.trainer.manifest),
            num_train_examples=len(self.trainer.train_data),
            num_test_examples=len(test_data) if test_data is not None else 0,
            device=str(self.trainer.device.current),
            software_version=__version__,
        )

    def close(self) -> None:
        """Stops answering and gives the state directory back."""
        if self.status is not None:
            self.status.stop()
        self.state.close()


def prepare(settings: ClientSettings) -> Prepared:
    """Loads what the settings name. Raises StartError with what to do about it."""
    if not settings.insecure:
        raise StartError(
            "TLS arrives in a later version; pass --insecure to send everything in plain text, "
            "on a network that you trust"
        )
    torch.set_num_threads(settings.torch_threads)
    try:
        state = StateDirectory.open(settings.state_dir, settings.name)
    except StateError as error:
        raise StartError(str(error)) from error
    try:
        return _prepared(settings, state)
    except (TaskLoadError, DeviceError, OSError) as error:
        state.close()
        raise StartError(str(error)) from error
    except BaseException:
        state.close()
        raise


def _prepared(settings: ClientSettings, state: StateDirectory) -> Prepared:
    metrics = ClientMetrics.fresh()
    trainer = _trainer(settings, metrics)
    connection = Connection(settings.server, metrics)
    status = None
    if settings.http_address:
        status = StatusServer(settings.http_address, metrics.render, connection.health)
        status.start()
        _log.info("metrics and health on port %d", status.port)
    return Prepared(settings, state, trainer, metrics, connection, status)


def _trainer(settings: ClientSettings, metrics: ClientMetrics) -> Trainer:
    preferred = choose(settings.device)
    metrics.device(str(preferred), degraded=False)
    device = Device(preferred, lambda now: metrics.device(str(now), degraded=True))
    with calling(settings.task):
        task = load_task(settings.task, settings.task_arg)
        train_data, test_data = task.train_data(), task.test_data()
        manifest = Manifest.of(task.build_model())
    if not len(train_data):
        raise StartError(f"train_data() of {settings.task} is empty; there is nothing to train on")
    if not manifest.tensors:
        raise StartError(f"the model of {settings.task} has no tensors")
    return Trainer(task, manifest, train_data, test_data, device)
