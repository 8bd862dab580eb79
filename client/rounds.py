"""Does one piece of work from download to report, and says how it ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from google.protobuf import struct_pb2

from client.carrier import Carrier
from client.connection import Connection
from client.encoder import Encoder
from client.metrics import ClientMetrics
from client.session import Session
from client.trainer import Trainer, Update
from client.transfer import Expected
from client.worker import Worker, WorkFailedError
from fednot.errors import FednotError, Reason
from fednot.training import TrainContext, WorkCancelledError
from fednot.v1 import federation_pb2
from fednot.wire import Receiver, codec_value

_PHASES: Final = {
    federation_pb2.ROUND_PHASE_UNSPECIFIED: "training",
    federation_pb2.ROUND_PHASE_TRAINING: "training",
    federation_pb2.ROUND_PHASE_RECOVERY: "recovery",
}
_DROPPED: Final = {
    Reason.ROUND_OVER,
    Reason.UNKNOWN_WORK,
    Reason.STALE_GENERATION,
    Reason.WRONG_BASE_VERSION,
    Reason.CLIENT_BARRED,
}

_log = logging.getLogger("client")


@dataclass(frozen=True)
class Work:
    """A piece of work in hand; `phase` is "training", "recovery" or "evaluation"."""

    id: str
    phase: str
    title: str
    cancelled: threading.Event = field(default_factory=threading.Event)


class Rounds:
    """Does training and evaluation work, one piece after another."""

    def __init__(
        self,
        connection: Connection,
        carrier: Carrier,
        trainer: Trainer,
        worker: Worker,
        metrics: ClientMetrics,
    ) -> None:
        self.current: Work | None = None
        self._connection = connection
        self._carrier = carrier
        self._encoder = Encoder(trainer.manifest)
        self._trainer = trainer
        self._worker = worker
        self._metrics = metrics

    def joined(self, session: Session) -> None:
        """A session was opened, whose work is done from now on."""
        self._carrier.joined(session.data_port)

    async def train(self, session: Session, order: federation_pb2.TrainWork) -> str:
        """Trains and uploads; gives the outcome, one of client.metrics.OUTCOMES.

        Raises SessionLostError and FinalRefusalError.
        """
        phase = _PHASES.get(order.phase, "training")
        work = Work(order.work_id, phase, f"{phase} round {order.round}")
        return await self._done(session, work, self._train(session, order, work))

    async def evaluate(self, session: Session, order: federation_pb2.EvaluateWork) -> str:
        """Evaluates and reports; gives the outcome and raises as `train` does."""
        work = Work(order.work_id, "evaluation", f"evaluation of version {order.version}")
        return await self._done(session, work, self._evaluate(session, work, order.version))

    def cancel(self) -> None:
        """Cancels the work in hand, if any."""
        if self.current is not None:
            self.current.cancelled.set()

    def forget(self) -> None:
        """Destroys what is kept of earlier updates, since it holds this client's data."""
        self._encoder.forget()

    async def _done(self, session: Session, work: Work, doing: Coroutine[Any, Any, None]) -> str:
        self.current = work
        self._connection.waiting_for = f"its own {work.title}"
        outcome = "cancelled"
        try:
            outcome = await self._outcome(session, work, doing)
        finally:
            self.current = None
            work.cancelled.set()
            self._metrics.work_ended(work.phase, outcome)
        return outcome

    async def _outcome(self, session: Session, work: Work, doing: Coroutine[Any, Any, None]) -> str:
        try:
            await doing
        except WorkCancelledError:
            _log.info("dropped %s: it no longer counts", work.title)
            return "cancelled"
        except WorkFailedError as error:
            await self._report_failure(session, work, str(error))
            return "failed"
        except FednotError as refusal:
            if refusal.reason in _DROPPED:
                _log.info("dropped %s: %s", work.title, refusal.message)
                return "cancelled"
            _log.error("%s was refused: %s", work.title, refusal.message)
            await self._report_failure(session, work, f"{refusal.reason}: {refusal.message}")
            return "refused"
        return "completed"

    async def _train(self, session: Session, order: federation_pb2.TrainWork, work: Work) -> None:
        context = TrainContext(
            device=torch.device("cpu"),
            seed=order.seed,
            round=order.round,
            phase=work.phase,
            config=numbers(order.config),
            cancelled=work.cancelled,
        )
        given = await self._download(session, work, order.version)
        update = await self._worker.run(lambda: self._trainer.train(given, context))
        self._metrics.trained(update.seconds)
        await self._upload(session, order, work, update)
        self._metrics.contributed(update.num_examples)
        _log.info("%s done: %d examples in %.1f s", work.title, update.num_examples, update.seconds)

    async def _evaluate(self, session: Session, work: Work, version: int) -> None:
        given = await self._download(session, work, version)
        scores = await self._worker.run(lambda: self._trainer.evaluate(given))
        if work.cancelled.is_set():
            raise WorkCancelledError("the work no longer counts")
        await session.report_evaluation(
            work.id, scores.num_examples, scores.metrics, work.cancelled
        )
        _log.info("%s done: %d examples", work.title, scores.num_examples)

    async def _download(self, session: Session, work: Work, version: int) -> torch.Tensor:
        manifest = self._trainer.manifest
        request = federation_pb2.DownloadModelRequest(session=session.message, work_id=work.id)
        expected, receiver = Expected(version, manifest.digest), Receiver(manifest)
        return await self._connection.call(
            lambda: self._carrier.download(request, expected, receiver, work.cancelled),
            work.cancelled,
        )

    async def _upload(
        self, session: Session, order: federation_pb2.TrainWork, work: Work, update: Update
    ) -> None:
        encoded = await self._worker.run(
            lambda: self._encoder.encode(session.codec, update.flat, order.generation)
        )
        header = federation_pb2.UpdateHeader(
            session=session.message,
            work_id=work.id,
            base_version=order.version,
            generation=order.generation,
            manifest_digest=self._trainer.manifest.digest,
            num_examples=update.num_examples,
            num_bytes=len(encoded.payload),
            metrics=update.metrics,
            codec=codec_value(session.codec.name),
            xxh3_128=encoded.checksum,
        )
        with self._encoder.until_counted() as counted:
            await self._sent(header, encoded.payload, work)
            counted()

    async def _sent(
        self, header: federation_pb2.UpdateHeader, payload: memoryview, work: Work
    ) -> None:
        try:
            await self._connection.call(
                lambda: self._carrier.upload(header, payload, work.cancelled), work.cancelled
            )
        except FednotError as refusal:
            # A reply was lost and the update sent twice: it counts, once.
            if refusal.reason is not Reason.DUPLICATE_UPDATE:
                raise

    async def _report_failure(self, session: Session, work: Work, message: str) -> None:
        try:
            await session.report_failure(work.id, message, work.cancelled)
        except (FednotError, WorkCancelledError) as refusal:
            _log.info("the failure of %s was not noted: %s", work.title, refusal)


def numbers(config: struct_pb2.Struct) -> dict[str, float]:
    """A Struct of numbers as a dict. Raises WorkFailedError if a value is something else."""
    found = {}
    for key, value in config.fields.items():
        if value.WhichOneof("kind") != "number_value":
            raise WorkFailedError(f"the run's config has {key} that is no number")
        found[key] = value.number_value
    return found
