"""What the next attempt of a job does: as asked, the next layer, or the next rung. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fednot.errors import FednotError
from fednot.layer_choice import Choice, choose, next_choice
from fednot.layer_map import LayerMap
from server.ladder import rounds_of, rung_of
from server.methods import DEFAULT, Method, method_named
from server.methods.retrain import Retrain
from server.records import Assurance, AttemptOutcome, Job

_NOTHING = Choice((), (), ())


@dataclass(frozen=True)
class Plan:
    """A method with the tensors that it takes; `rung` is its place on the ladder, 0 for none."""

    method: Method
    choice: Choice
    explanation: str
    rung: int = 0


def next_plan(
    job: Job, layers: LayerMap, negated: Sequence[str], ladder: Sequence[str]
) -> Plan | None:
    """The next plan from a base whose lineage has negated some tensors.

    None if nothing is left to try and an attempt has recovered.
    """
    if job.assurance is Assurance.DEEP:
        return _next_rung(job, layers, negated, ladder)
    return _next_layer(job, layers, negated)


def _next_layer(job: Job, layers: LayerMap, negated: Sequence[str]) -> Plan:
    method = method_named(job.method)
    if not method.needs.layers:
        if job.attempts:
            return retrained(f"{job.attempts[-1].method} could not be done; retrain")
        return Plan(method, _NOTHING, f"{method.name} from version {job.base_version}")
    note = ""
    if not job.attempts:
        try:
            return _as_asked(job, layers, negated)
        except FednotError as error:
            note = f" ({error.message})"
    tried = [tensor for attempt in job.attempts for tensor in attempt.tensors]
    found = next_choice(layers, tried=tried, negated=_barred(method, negated))
    if found is None:
        return retrained(f"no layer is left to negate{note}")
    told = ", ".join(found.tensors)
    return Plan(method, found, f"{_does(method)} the next eligible layer, {told}{note}")


def _as_asked(job: Job, layers: LayerMap, negated: Sequence[str]) -> Plan:
    method = method_named(job.method)
    barred = _barred(method, negated)
    choice = choose(layers, job.layers, negated=barred, allow_unsafe=job.allow_unsafe_layers)
    return Plan(method, choice, f"{_does(method)} {', '.join(choice.tensors)}")


def _barred(method: Method, negated: Sequence[str]) -> Sequence[str]:
    """What a method may not take: who flips no sign brings nothing back that was negated."""
    return negated if method.negates else ()


def _does(method: Method) -> str:
    return "negates" if method.name == DEFAULT else f"{method.name} of"


def retrained(why: str) -> Plan:
    """The plan that needs nothing of the model, and why it is taken."""
    return Plan(method_named(Retrain.name), _NOTHING, why)


def _next_rung(
    job: Job, layers: LayerMap, negated: Sequence[str], ladder: Sequence[str]
) -> Plan | None:
    notes = []
    method = method_named(job.method)
    asks_for_more = method.name != DEFAULT or job.layers not in ("", "first")
    if not job.attempts and asks_for_more:
        if not method.needs.layers:
            return Plan(method, _NOTHING, f"{method.name} from version {job.base_version}")
        try:
            return _as_asked(job, layers, negated)
        except FednotError as error:
            notes.append(error.message)
    tried = {
        (a.method, frozenset(a.tensors), rounds_of(ladder, a.rung)): a.number for a in job.attempts
    }
    below = max((attempt.rung for attempt in job.attempts), default=0)
    for number, text in enumerate(ladder[below:], below + 1):
        try:
            plan = _on_rung(number, text, layers, negated)
        except FednotError as error:
            notes.append(f"{text}: {error.message}")
            continue
        key = (plan.method.name, frozenset(plan.choice.tensors), rounds_of(ladder, number))
        if key not in tried:
            return _noting(plan, notes)
        notes.append(f"{text} is what attempt {tried[key]} did")
    if any(attempt.outcome is AttemptOutcome.SUCCEEDED for attempt in job.attempts):
        return None
    return _noting(retrained("the ladder has ended and no attempt recovered"), notes)


def _on_rung(number: int, text: str, layers: LayerMap, negated: Sequence[str]) -> Plan:
    rung = rung_of(text)
    method = method_named(rung.method)
    if not method.needs.layers:
        return Plan(method, _NOTHING, f"rung {number} of the ladder, {text}", number)
    barred = _barred(method, negated)
    choice = choose(layers, rung.layers, negated=barred, allow_unsafe=True)
    told = f"{_does(method)} {', '.join(choice.tensors)}"
    return Plan(method, choice, f"rung {number} of the ladder, {text}: {told}", number)


def _noting(plan: Plan, notes: Sequence[str]) -> Plan:
    told = f" ({'; '.join(notes)})" if notes else ""
    return Plan(plan.method, plan.choice, plan.explanation + told, plan.rung)
