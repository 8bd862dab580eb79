"""Does one piece of work from download to report, and says how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from client.carrier import Carrier
from client.connection import Connection
from client.destroyed import Destroyed
from client.encoder import Encoded, Encoder
from client.masking import Masking, RevealedWork
from client.metrics import ClientMetrics
from client.named_work import NamedWork
from client.orders import UNLEARNING, VERIFICATION, context_of, work_of
from client.profiling import LookedAt
from client.session import Session
from client.trainer import Trainer, Update
from client.training import Training, Work
from client.transfer import Expected
from client.worker import Worker, WorkFailedError, sentence
from fednot import calls, tracing
from fednot.data.retained import ForgottenMeanwhileError
from fednot.errors import FednotError, Reason
from fednot.loss_profile import LossProfile
from fednot.secure_aggregation.signing import Signer
from fednot.training import TrainContext, WorkCancelledError
from fednot.v1 import federation_pb2
from fednot.wire import Receiver, codec_value

HELD_SECONDS: Final = 600.0
"""So long, or until its deadline, training goes on or is kept without a session."""
ASKED_AGAIN_SECONDS: Final = 60.0
"""So long after joining again the server has to ask for it."""
STOPPED_SECONDS: Final = 10.0

_DROPPED: Final = {
    Reason.ROUND_OVER,
    Reason.UNKNOWN_WORK,
    Reason.STALE_GENERATION,
    Reason.WRONG_BASE_VERSION,
    Reason.CLIENT_BARRED,
}

_log = logging.getLogger("client")


class Rounds:
    """Does training and evaluation work, one piece after another.

    Training in hand outlives the session that gave it: if the server asks for the same work in the
    next one, it goes on. Evaluation is done anew.
    """

    def __init__(
        self,
        connection: Connection,
        carrier: Carrier,
        trainer: Trainer,
        worker: Worker,
        metrics: ClientMetrics,
        signer: Callable[[], Signer | None] = lambda: None,
    ) -> None:
        """`signer` signs for this client as its identity is now; None in plaintext."""
        self.current: Work | None = None
        self._held: Training | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone: list[Destroyed] = []
        self._connection = connection
        self._carrier = carrier
        self._encoder = Encoder(trainer.manifest)
        self._barred = trainer.tombstones.now().barred
        self._trainer = trainer
        self._worker = worker
        self._metrics = metrics
        self._signer = signer
        self._revealed = RevealedWork()

    def joined(self, session: Session) -> None:
        """A session was opened, whose work is done from now on."""
        self._carrier.joined(session.data_port)
        self._hold_for(ASKED_AGAIN_SECONDS)

    def parted(self) -> None:
        """The session has ended; training in hand goes on for a while."""
        if self._held is not None and self._held.work.cancelled.is_set():
            self._drop("it was cancelled")
        if self._held is not None:
            left = self._held.order.deadline.ToNanoseconds() / 1e9 - time.time()
            _log.info("%s goes on without a session", self._held.work.title)
            self._hold_for(max(HELD_SECONDS, left))

    async def train(
        self,
        session: Session,
        order: federation_pb2.TrainWork,
        named: federation_pb2.UnlearnWork | None = None,
    ) -> str:
        """Trains, or does named work, and uploads; gives one of client.metrics.OUTCOMES.

        Raises SessionLostError and FinalRefusalError.
        """
        training = self._taken_up(order, named)
        with self._at(training.work), tracing.span("client works", round=order.round) as span:
            doing = self._train(session, training)
            outcome = await self._outcome(session, training.work, doing)
            span.set(outcome=outcome)
            self._let_go(outcome)
        if training.encoder is not self._encoder:
            await asyncio.to_thread(training.destroy)
        return outcome

    async def evaluate(self, session: Session, order: federation_pb2.EvaluateWork) -> str:
        """Evaluates and reports; gives the outcome and raises as `train` does."""
        work = Work(order.work_id, "evaluation", f"evaluation of version {order.version}")
        return await self._looked(session, work, self._evaluate(session, work, order.version))

    async def profile(self, session: Session, order: federation_pb2.ProfileWork) -> str:
        """Looks at groups of samples and reports; gives the outcome and raises as `train` does."""
        work = Work(order.work_id, "profile", f"loss profile of version {order.version}")
        return await self._looked(session, work, self._profile(session, work, order))

    def cancel(self) -> None:
        """Cancels the work in hand, if any, since the client stops."""
        if self.current is not None:
            self.current.cancelled.set()
        else:
            self._drop("the client stops")

    def forget(self) -> None:
        """Destroys what is kept of earlier updates, since it holds this client's data."""
        held = self._held
        if held is not None and self.current is held.work:
            held.work.cancelled.set()
        elif held is not None:
            self._drop("this client may not train")
            self._gone += held.destroy()
        self._gone += self._encoder.forget()

    async def forget_for_good(self) -> bool:
        """`forget`, between two pieces of work; False if cancelled work does not stop in time."""
        self.forget()
        self.heed()
        return await self._worker.stopped(STOPPED_SECONDS)

    def heed(self) -> None:
        """Destroys what encodings left out once samples were barred, since it holds them, too.

        Raises TombstoneError.
        """
        barred = self._trainer.tombstones.now().barred
        if not barred <= self._barred:
            _log.info("samples were barred; what is kept of earlier updates is destroyed")
            self._gone += self._encoder.forget()
        self._barred = barred

    async def ended(self, job_id: str) -> None:
        """A job has ended: what it forgot is not looked at any more. Raises TombstoneError."""
        await asyncio.to_thread(self._trainer.tombstones.close, job_id)

    async def destroy_before(self, generation: int) -> list[Destroyed] | None:
        """Destroys all that is kept of older generations, between two pieces of work.

        Tells what was destroyed since the last call of `reported`; None as long as the thread of
        cancelled work does not stop.
        """
        held = self._held
        if held is not None and held.order.generation < generation:
            self._drop("what is kept of its generation is destroyed")
            self._gone += await asyncio.to_thread(held.destroy)
        if self._held is None and not await self._worker.stopped(STOPPED_SECONDS):
            return None
        self._gone += await asyncio.to_thread(self._encoder.destroy_before, generation)
        return list(self._gone)

    def reported(self) -> None:
        """The server knows what `destroy_before` told."""
        self._gone.clear()

    async def _looked(self, session: Session, work: Work, doing: Coroutine[Any, Any, None]) -> str:
        self._drop("other work is asked for")
        outcome = "cancelled"
        with self._at(work):
            try:
                outcome = await self._outcome(session, work, doing)
            finally:
                work.cancelled.set()
                self._metrics.work_ended(work.phase, outcome)
        return outcome

    @contextmanager
    def _at(self, work: Work) -> Iterator[None]:
        self.current = work
        self._connection.waiting_for = f"its own {work.title}"
        try:
            yield
        finally:
            self.current = None

    def _taken_up(
        self, order: federation_pb2.TrainWork, named: federation_pb2.UnlearnWork | None
    ) -> Training:
        if self._held is not None and self._held.answers(order):
            _log.info("%s goes on in this session", self._held.work.title)
            self._stop_timer()
            self._held.order = order  # a server that started again masks in another attempt
            return self._held
        self._drop("other work is asked for")
        work, manifest = work_of(order), self._trainer.manifest
        alone = work.phase in (VERIFICATION, UNLEARNING)
        encoder = Encoder(manifest) if alone else self._encoder
        self._held = Training(order, work, manifest, encoder, named)
        return self._held

    def _drop(self, why: str) -> None:
        """Lets go of training that no session asks for."""
        if self._held is not None:
            _log.info("dropped %s: %s", self._held.work.title, why)
            self._let_go("cancelled")

    def _let_go(self, outcome: str) -> None:
        if self._held is None:
            return
        work, encoder, self._held = self._held.work, self._held.encoder, None
        self._stop_timer()
        work.cancelled.set()
        if encoder is not self._encoder:
            encoder.forget()
        elif outcome != "completed":
            encoder.dropped()
        self._metrics.work_ended(work.phase, outcome)

    def _hold_for(self, seconds: float) -> None:
        self._stop_timer()
        if self._held is not None:
            loop, why = asyncio.get_running_loop(), f"nobody has asked for it in {seconds:.0f} s"
            self._timer = loop.call_later(seconds, self._drop, why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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

    async def _train(self, session: Session, training: Training) -> None:
        order, work = training.order, training.work
        self._revealed.check(order, training.attempt)

        async def download(receiver: Receiver) -> torch.Tensor:
            return await self._download(session, work, order.version, receiver)

        context = context_of(order, work)
        if not training.begun and training.named is None:
            await self._afford(context)

        async def train(given: torch.Tensor) -> Update:
            named = await self._named(session, training)
            what = named.name if named else "training"
            _log.info("%s: %s on version %d", work.title, what, order.version)
            with tracing.span("training", version=order.version, work=what):
                update = await self._worker.run(lambda: self._trainer.train(given, context, named))
            self._metrics.trained(update.seconds)
            return update

        update = await training.update(download, train)
        await self._check(update)
        if order.HasField("masked") or session.masks:
            await self._upload_masked(session, training, update)
        else:
            await self._upload(session, training, update)
        self._metrics.contributed(update.num_examples)
        fields = {"num_examples": update.num_examples, "seconds": round(update.seconds, 3)}
        _log.info(
            "%s done: %d examples in %.1f s",
            *(work.title, update.num_examples, update.seconds),
            extra=fields | {"phase": work.phase, "round": order.round},
        )

    async def _named(self, session: Session, training: Training) -> NamedWork | None:
        """The named work of an order, with the model beside if it has one."""
        named, order, cancelled = training.named, training.order, training.work.cancelled
        if named is None:
            return None
        reference = None
        if named.reference_work_id:
            beside = Work(named.reference_work_id, training.work.phase, "", cancelled)
            receiver = Receiver(self._trainer.manifest)
            reference = await self._download(session, beside, order.version, receiver)
        return NamedWork.of(named, reference)

    async def _afford(self, context: TrainContext) -> None:
        """Raises FednotError (PRIVACY_SPENT), WorkFailedError if the data cannot be read."""
        try:
            await asyncio.to_thread(self._trainer.afford, context)
        except (ValueError, TypeError, OSError) as error:
            raise WorkFailedError(sentence(error)) from error

    async def _evaluate(self, session: Session, work: Work, version: int) -> None:
        receiver = Receiver(self._trainer.manifest)
        given = await self._download(session, work, version, receiver)
        scores = await self._worker.run(lambda: self._trainer.evaluate(given))
        if work.cancelled.is_set():
            raise WorkCancelledError("the work no longer counts")
        await session.report_evaluation(
            work.id, scores.num_examples, scores.metrics, work.cancelled
        )
        _log.info("%s done: %d examples", work.title, scores.num_examples)

    async def _profile(
        self, session: Session, work: Work, order: federation_pb2.ProfileWork
    ) -> None:
        wanted = LookedAt.of(order)
        receiver = Receiver(self._trainer.manifest)
        given = await self._download(session, work, order.version, receiver)

        def look() -> Mapping[int, LossProfile]:
            self._trainer.tombstones.belong(wanted.tombstones, wanted.job_id)
            return self._trainer.profile(given, wanted)

        found = await self._worker.run(look)
        if work.cancelled.is_set():
            raise WorkCancelledError("the work no longer counts")
        await session.report_profile(work.id, found, work.cancelled)
        _log.info("%s done: %d groups of samples", work.title, len(found))

    async def _check(self, update: Update) -> None:
        """Raises WorkFailedError if a sample behind an update was barred since."""
        try:
            self.heed()
            await asyncio.to_thread(update.data.check)
        except (ForgottenMeanwhileError, OSError) as error:
            raise WorkFailedError(str(error)) from error

    async def _download(
        self, session: Session, work: Work, version: int, receiver: Receiver
    ) -> torch.Tensor:
        request = federation_pb2.DownloadModelRequest(session=session.message, work_id=work.id)
        expected = Expected(version, self._trainer.manifest.digest)
        return await self._connection.call(
            lambda: self._carrier.download(request, expected, receiver, work.cancelled),
            work.cancelled,
        )

    async def _upload(self, session: Session, training: Training, update: Update) -> None:
        order = training.order

        async def encode() -> Encoded:
            return await self._worker.run(
                lambda: training.encoder.encode(
                    session.codec, update.flat, order.generation, order.work_id
                )
            )

        encoded = await training.encoded(session.codec, encode)
        await self._sent(session, training, update, encoded, update.metrics)
        training.encoder.counted()

    async def _upload_masked(self, session: Session, training: Training, update: Update) -> None:
        """What training measured stays here: it is of this client's update alone."""
        order, cancelled, signer = training.order, training.work.cancelled, self._signer()
        if signer is None or not (session.masks and order.HasField("masked")):
            raise FednotError(Reason.MASKING_FAILED, "the work and its session differ in masking")
        manifest = self._trainer.manifest
        masking = training.masking(order, lambda: Masking(order, session.client, signer, manifest))
        encoded = await masking.masked(session, update, self._worker, cancelled)
        await self._sent(session, training, update, encoded, {})

        async def before() -> None:
            await self._check(update)
            self._revealed.note(order)

        await masking.unmask(session, cancelled, before)

    async def _sent(
        self,
        session: Session,
        training: Training,
        update: Update,
        encoded: Encoded,
        metrics: Mapping[str, float],
    ) -> None:
        order, work = training.order, training.work
        header = federation_pb2.UpdateHeader(
            session=session.message,
            work_id=work.id,
            base_version=order.version,
            generation=order.generation,
            manifest_digest=self._trainer.manifest.digest,
            num_examples=update.num_examples,
            num_bytes=len(encoded.payload),
            metrics=metrics,
            codec=codec_value(session.codec.name),
            xxh3_128=encoded.checksum,
        )

        async def attempt() -> federation_pb2.UploadUpdateResponse:
            await self._check(update)
            with tracing.span("upload", kind="client", num_bytes=len(encoded.payload)):
                header.origin.CopyFrom(calls.current().message() or federation_pb2.Origin())
                return await self._carrier.upload(header, encoded.payload, work.cancelled)

        try:
            await self._connection.call(attempt, work.cancelled)
        except FednotError as refusal:
            # A reply was lost and the update sent twice: it counts, once.
            if refusal.reason is not Reason.DUPLICATE_UPDATE:
                raise

    async def _report_failure(self, session: Session, work: Work, message: str) -> None:
        try:
            await session.report_failure(work.id, message, work.cancelled)
        except (FednotError, WorkCancelledError) as refusal:
            _log.info("the failure of %s was not noted: %s", work.title, refusal)
