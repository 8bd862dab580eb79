"""Work for clients as messages."""

from __future__ import annotations

from collections.abc import Iterable

from fednot.errors import FednotError, Reason
from fednot.loss_profile import LossProfile
from fednot.v1 import federation_pb2
from server.cohorts.cohort import ForgottenData, SampleGroup
from server.cohorts.remote import Assignment
from server.destruction import DestroyOrder
from server.records import DestroyedCache
from server.services.messages import round_phase, timestamp


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
    )
    work.config.update(dict(plan.config))
    return work


def evaluate_work(assignment: Assignment) -> federation_pb2.EvaluateWork:
    """Evaluation work."""
    return federation_pb2.EvaluateWork(
        work_id=assignment.id,
        version=assignment.plan.version.number,
        generation=assignment.plan.version.generation,
        deadline=timestamp(assignment.deadline_at),
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
        forgotten=federation_pb2.ForgottenData(
            everything=forgotten.everything,
            tombstones=forgotten.tombstones,
            class_labels=forgotten.labels,
        ),
        groups=[_group_value(group) for group in order.groups.get(client, ())],
        max_examples=order.max_examples,
        seed=plan.seed_of(client),
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


def destroy_work(order: DestroyOrder) -> federation_pb2.DestroyWork:
    """An order to destroy."""
    return federation_pb2.DestroyWork(
        order_id=order.id, generation=order.generation, job_id=order.job_id
    )


def destroyed_cache(message: federation_pb2.DestroyedCache) -> DestroyedCache:
    """What a client says that it destroyed."""
    return DestroyedCache(message.kind, message.sha256, message.num_bytes)
