"""Work for clients as messages."""

from __future__ import annotations

from fednot.v1 import federation_pb2
from server.cohorts.remote import Assignment
from server.destruction import DestroyedCache, DestroyOrder
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


def destroy_work(order: DestroyOrder) -> federation_pb2.DestroyWork:
    """An order to destroy."""
    return federation_pb2.DestroyWork(
        order_id=order.id, generation=order.generation, job_id=order.job_id
    )


def destroyed_cache(message: federation_pb2.DestroyedCache) -> DestroyedCache:
    """What a client says that it destroyed."""
    return DestroyedCache(message.kind, message.sha256, message.num_bytes)
