"""Obeys the server's orders to bar samples: durably first, then in memory, then it reports."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from client.forgotten import Forgotten
from client.rounds import Rounds
from client.session import Session
from client.trainer import Trainer
from fednot.errors import FednotError
from fednot.task import Task
from fednot.tombstones import Tombstone
from fednot.v1 import federation_pb2

NO_SUBJECTS: Final = "its Task does not define samples_of(subject)"

_log = logging.getLogger("client")


class CannotForgetError(ValueError):
    """This client's Task cannot bar what it was told to; the message has no data in it."""


def unsupported_scopes(task: Task) -> dict[str, str]:
    """Which kinds of scope ("samples", "class", "subject") a Task cannot forget, and why."""
    found = dict(task.unsupported_scopes)
    if "samples" in found:
        found.setdefault("subject", found["samples"])
    elif type(task).samples_of is Task.samples_of:
        found.setdefault("subject", NO_SUBJECTS)
    return found


async def obey(
    session: Session, order: federation_pb2.ForgetWork, rounds: Rounds, trainer: Trainer
) -> bool:
    """Bars and reports; False if that has to be tried again.

    Raises SessionLostError and FinalRefusalError; the server then gives the order again.
    """
    try:
        forgotten = await asyncio.to_thread(forget, order, trainer)
    except OSError as error:
        _log.error("cannot bar what %s wants: %s", order.job_id or "the server", error)
        return False
    if not forgotten.refusal and not order.lift and not await rounds.forget_for_good():
        _log.warning("waiting for cancelled training to stop before a deletion is confirmed")
        return False
    try:
        await session.report_forgetting(order.order_id, forgotten)
    except FednotError as refusal:
        _log.warning("the server did not take the report of a deletion: %s", refusal.message)
        return False
    _tell(order, forgotten)
    return True


def forget(order: federation_pb2.ForgetWork, trainer: Trainer) -> Forgotten:
    """Writes or lifts the tombstone that an order names. It blocks: run it in a thread.

    The same order again changes nothing. Raises TombstoneError.
    """
    refusal, stone = "", None
    try:
        stone = _barred(order, trainer)
    except CannotForgetError as error:
        refusal = str(error)
    num_train, num_test = trainer.own.counts()
    if stone is None:
        return Forgotten(0, "", num_train, num_test, refusal)
    count = trainer.own.under((stone,))
    return Forgotten(count, stone.sha256, num_train, num_test)


def _barred(order: federation_pb2.ForgetWork, trainer: Trainer) -> Tombstone | None:
    if order.lift:
        trainer.tombstones.lift(order.tombstone)
        return None
    known = trainer.tombstones.now().named((order.tombstone,))
    if known:
        return known[0]
    kind = order.WhichOneof("scope")
    if kind == "class_label":
        _check(trainer, "class")
        return trainer.tombstones.bar_class(
            order.class_label, name=order.tombstone, job_id=order.job_id
        )
    if kind != "subject":
        raise CannotForgetError("this client's version does not know what it was told to forget")
    ids = _samples_of(trainer.task, order.subject)
    return trainer.tombstones.bar_samples(ids, name=order.tombstone, job_id=order.job_id)


def _check(trainer: Trainer, kind: str) -> None:
    reason = unsupported_scopes(trainer.task).get(kind)
    if reason is not None:
        raise CannotForgetError(reason)
    if kind == "class":
        try:
            trainer.own.check_classes()
        except TypeError as error:
            raise CannotForgetError("the targets of its data are no classes") from error


def _samples_of(task: Task, subject: str) -> list[str]:
    reason = unsupported_scopes(task).get("subject")
    if reason is not None:
        raise CannotForgetError(reason)
    try:
        return [str(sample_id) for sample_id in task.samples_of(subject)]
    except NotImplementedError as error:
        raise CannotForgetError(NO_SUBJECTS) from error
    except Exception as error:
        kind = type(error).__name__
        _log.error("samples_of() failed: %s", kind)  # its text may name the person
        raise OSError(f"samples_of() of the Task raised {kind}; it is asked again") from error


def _tell(order: federation_pb2.ForgetWork, forgotten: Forgotten) -> None:
    job = order.job_id or "the server"
    if forgotten.refusal:
        _log.warning("cannot forget what %s wants: %s", job, forgotten.refusal)
    elif order.lift:
        _log.info("a tombstone was lifted, as %s wanted", job)
    else:
        _log.info(
            "barred %d samples for good, as %s wanted; %d training samples are left",
            forgotten.count,
            job,
            forgotten.num_train,
        )
