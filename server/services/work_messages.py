"""Work for clients as messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fednot.calls import Origin
from fednot.errors import FednotError, Reason
from fednot.loss_profile import LossProfile
from fednot.naming import one_line
from fednot.v1 import federation_pb2
from server.cohorts.cohort import ForgottenData, SampleGroup, UnlearningOrder
from server.cohorts.remote import Assignment
from server.destruction import DestroyOrder
from server.forgetting import check_answer, name_of
from server.records import DestroyedCache, ForgetOrder, ScopeKind
from server.services.messages import round_phase
from server.services.moments import timestamp
from server.state.forget_rows import Answer

LONGEST_REFUSAL: Final = 300


def train_work(assignment: Assignment) -> federation_pb2.TrainWork:
    """Training work."""
    plan = assignment.plan
    work = federation_pb2.TrainWork(
        work_id=assignment.id,
        round=plan.round,
        phase=round_phase(plan.phase),
        version=plan.version.number,
        generation=plan.version.generation,
        seed=plan.seed_of(assignment.client),
        deadline=timestamp(assignment.deadline_at),
        origin=plan.origin.message(),
    )
    work.config.update(dict(plan.config))
    if plan.masked is not None:
        terms = plan.masked.terms
        work.masked.CopyFrom(
            federation_pb2.MaskedRound(
                attempt=terms.attempt,
                threshold=terms.threshold,
                cohort=terms.cohort,
                value_range=terms.value_range,
                most_examples=terms.most_examples,
            )
        )
    return work


def unlearn_work(assignment: Assignment, order: UnlearningOrder) -> federation_pb2.UnlearnWork:
    """Named work of an unlearning method."""
    work = federation_pb2.UnlearnWork(
        train=train_work(assignment),
        work=order.works[assignment.client],
        reference_work_id=assignment.reference_id,
        job_id=order.job_id,
    )
    forgotten = order.forgotten.get(assignment.client)
    if forgotten is not None:
        work.forgotten.CopyFrom(_forgotten(forgotten))
    return work


def evaluate_work(assignment: Assignment) -> federation_pb2.EvaluateWork:
    """Evaluation work."""
    return federation_pb2.EvaluateWork(
        work_id=assignment.id,
        version=assignment.plan.version.number,
        generation=assignment.plan.version.generation,
        deadline=timestamp(assignment.deadline_at),
        origin=assignment.plan.origin.message(),
    )


def profile_work(assignment: Assignment) -> federation_pb2.ProfileWork:
    """Work that looks at groups of samples. Raises ValueError for a plan without an order."""
    plan, client = assignment.plan, assignment.client
    order = plan.profile
    if order is None:
        raise ValueError("a plan of PROFILE work needs a profile order")
    forgotten = order.forgotten.get(client, ForgottenData())
    return federation_pb2.ProfileWork(
        work_id=assignment.id,
        version=plan.version.number,
        generation=plan.version.generation,
        deadline=timestamp(assignment.deadline_at),
        job_id=order.job_id,
        forgotten=_forgotten(forgotten),
        groups=[_group_value(group) for group in order.groups.get(client, ())],
        max_examples=order.max_examples,
        seed=plan.seed_of(client),
        origin=plan.origin.message(),
    )


def _forgotten(data: ForgottenData) -> federation_pb2.ForgottenData:
    return federation_pb2.ForgottenData(
        everything=data.everything, tombstones=data.tombstones, class_labels=data.labels
    )


def profiles_of(
    messages: Iterable[federation_pb2.GroupProfile],
) -> dict[SampleGroup, LossProfile]:
    """What a client saw of groups of its samples. Raises FednotError (INVALID_REQUEST)."""
    found = {}
    for index, message in enumerate(messages):
        field = f"profiles[{index}]"
        try:
            name = federation_pb2.SampleGroup.Name(message.group).removeprefix("SAMPLE_GROUP_")
            group = SampleGroup[name]
            found[group] = LossProfile(tuple(message.losses.counts), message.losses.num_correct)
        except (KeyError, ValueError) as error:
            raise FednotError(Reason.INVALID_REQUEST, f"{field}: {error}") from error
    return found


def _group_value(group: SampleGroup) -> federation_pb2.SampleGroup.ValueType:
    return federation_pb2.SampleGroup.Value(f"SAMPLE_GROUP_{group.name}")


def forget_work(order: ForgetOrder, origin: Origin) -> federation_pb2.ForgetWork:
    """An order to bar, or to admit again. One to bar a person's samples has its key."""
    work = federation_pb2.ForgetWork(
        order_id=name_of(order),
        tombstone=order.scope.tombstone,
        lift=order.lift,
        job_id=order.job_id,
        origin=origin.message(),
    )
    if order.lift:
        return work
    if order.scope.kind is ScopeKind.CLASS:
        work.class_label = order.scope.label or 0
    else:
        work.subject = order.scope.subject
    return work


def answer_of(message: federation_pb2.ReportForgettingRequest) -> Answer:
    """What a client says of such an order. Raises FednotError (INVALID_REQUEST)."""
    said = Answer(
        count=message.count,
        sha256=message.sha256,
        refusal=one_line(message.refusal, LONGEST_REFUSAL),
        num_train_examples=message.num_train_examples,
        num_test_examples=message.num_test_examples,
    )
    check_answer(said)
    return said


def destroy_work(order: DestroyOrder, origin: Origin) -> federation_pb2.DestroyWork:
    """An order to destroy."""
    return federation_pb2.DestroyWork(
        order_id=order.id,
        generation=order.generation,
        job_id=order.job_id,
        origin=origin.message(),
    )


def destroyed_cache(message: federation_pb2.DestroyedCache) -> DestroyedCache:
    """What a client says that it destroyed."""
    return DestroyedCache(message.kind, message.sha256, message.num_bytes)
