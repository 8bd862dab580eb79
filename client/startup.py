"""What can be wrong before the first call: state, Task, data, device, the status port."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from client.connection import Connection
from client.device import Device, DeviceError, choose
from client.exclusions import ExcludedError, Tried, check
from client.forgetting import unsupported_scopes
from client.metrics import ClientMetrics
from client.privacy import HistoryError, Privacy, Spent
from client.ranks import device_of_rank, shared
from client.settings import ClientSettings
from client.state_directory import StateDirectory, StateError
from client.trainer import Trainer
from fednot import __version__
from fednot.distributed import RankLostError
from fednot.errors import FednotError
from fednot.http_status import StatusServer
from fednot.identity.diagnosis import check_dates_of, diagnose, exposed_key, file_of
from fednot.identity.folder import CERTIFICATE, WatchedFolder
from fednot.identity.replacement import finish_replacement
from fednot.identity.subject import Role
from fednot.manifest import Manifest
from fednot.task_loading import TaskLoadError, calling, load_task
from fednot.tombstones import Tombstones
from fednot.unlearning import WORKS
from fednot.v1 import federation_pb2, model_pb2
from fednot.wire import codec_value, manifest_message

_log = logging.getLogger("client")


class StartError(ValueError):
    """Something that must be put right before the client can start; the message says what."""


@dataclass(frozen=True)
class Prepared:
    """A client that is ready to dial. `status` answers already; None if it is turned off.

    `identity` is None in plaintext.
    """

    settings: ClientSettings
    name: str
    identity: WatchedFolder | None
    state: StateDirectory
    trainer: Trainer
    metrics: ClientMetrics
    connection: Connection
    status: StatusServer | None

    def join_request(self) -> federation_pb2.JoinRequest:
        """What this client says of itself when it joins."""
        num_train, num_test = self.trainer.own.counts()
        return federation_pb2.JoinRequest(
            client=self.name,
            manifest=manifest_message(self.trainer.manifest),
            num_train_examples=num_train,
            num_test_examples=num_test,
            device=str(self.trainer.device.current),
            software_version=__version__,
            codecs=self._codecs(),
            instance=self.state.instance,
            unsupported_scopes=unsupported_scopes(self.trainer.task),
            unlearning_works=WORKS,
        )

    def _codecs(self) -> list[model_pb2.UpdateCodec.ValueType]:
        """Masked updates are signed by a certificate; without one there are none."""
        names = [self.settings.codec] + (["masked"] if self.identity is not None else [])
        return [codec_value(name) for name in names]

    def close(self) -> None:
        """Stops answering and gives the state directory back."""
        if self.status is not None:
            self.status.stop()
        self.state.close()


def prepare(settings: ClientSettings) -> Prepared:
    """Loads what the settings name. Raises StartError with what to do about it."""
    identity = _identity(settings.identity) if settings.identity is not None else None
    name = _name(settings, identity)
    torch.set_num_threads(settings.torch_threads)
    try:
        state = StateDirectory.open(settings.state_dir, name)
    except StateError as error:
        raise StartError(str(error)) from error
    try:
        return _prepared(settings, name, identity, state)
    except (
        *(TaskLoadError, DeviceError, RankLostError, OSError),
        *(HistoryError, ExcludedError),
    ) as error:
        state.close()
        raise StartError(str(error)) from error
    except BaseException:
        state.close()
        raise


def _identity(folder: Path) -> WatchedFolder:
    try:
        finish_replacement(folder)
        found = WatchedFolder(folder)
    except FednotError as error:
        raise StartError(error.advice) from error
    if found.current.subject.role is not Role.CLIENT:
        raise StartError(
            f"{file_of(folder, CERTIFICATE)} is the certificate of {found.current.subject}; to "
            "train takes one of a client (`fednot certs issue client NAME`)"
        )
    exposed = exposed_key(folder)
    if exposed:
        _log.warning("%s; chmod 600 makes it this client's alone", exposed)
    try:
        check_dates_of(found.current)
    except FednotError as error:
        _log.warning("%s This client waits for new files in %s.", error.advice, folder)
    return found


def _name(settings: ClientSettings, identity: WatchedFolder | None) -> str:
    if identity is None:
        return settings.name or ""  # never empty: in plaintext the settings demand a name
    certified = identity.current.subject.name
    if settings.name not in (None, certified):
        raise StartError(
            f"--name {settings.name} differs from the certificate in {identity.folder}, which is "
            f"that of client {certified}; leave --name out, or give that client's identity"
        )
    return certified


def _prepared(
    settings: ClientSettings, name: str, identity: WatchedFolder | None, state: StateDirectory
) -> Prepared:
    metrics = ClientMetrics.fresh()
    connection = Connection(settings.server, metrics, look=lambda: _look(settings, identity))

    def on_spent(spent: Spent) -> None:
        connection.privacy = str(spent)
        metrics.privacy(spent.epsilon)

    privacy = Privacy.of(settings, state, on_spent)
    trainer = _trainer(settings, metrics, state.path, privacy)
    status = None
    if settings.http_address:
        status = StatusServer(settings.http_address, metrics.render, connection.health)
        status.start()
        _log.info("metrics and health on port %d", status.port)
    return Prepared(settings, name, identity, state, trainer, metrics, connection, status)


def _look(settings: ClientSettings, identity: WatchedFolder | None) -> FednotError | None:
    return diagnose(settings.server, identity.current if identity is not None else None)


def _trainer(
    settings: ClientSettings, metrics: ClientMetrics, state_dir: Path, privacy: Privacy
) -> Trainer:
    preferred = choose(device_of_rank(settings.device))
    metrics.device(str(preferred), degraded=False)
    device = Device(preferred, lambda now: metrics.device(str(now), degraded=True))
    with calling(settings.task):
        task = load_task(settings.task, settings.task_arg)
        train_data, test_data = task.train_data(), task.test_data()
        model = task.build_model()
        manifest = Manifest.of(model)
    if not len(train_data):
        raise StartError(f"train_data() of {settings.task} is empty; there is nothing to train on")
    if not manifest.tensors:
        raise StartError(f"the model of {settings.task} has no tensors")
    check(Tried(task, model, train_data, privacy))
    task = shared(task, train_data, preferred)
    tombstones = Tombstones(state_dir)
    trainer = Trainer(
        *(task, manifest, train_data, test_data, device, tombstones),
        evaluate_forgotten=settings.evaluate_forgotten,
        privacy=privacy,
    )
    with calling(settings.task):
        num_train, _ = trainer.own.counts()
    if num_train < len(train_data):
        left_out = len(train_data) - num_train
        _log.info("%d of %d training samples are forgotten", left_out, len(train_data))
    return trainer
