"""Poisoned recovery: a client that is not deleted keeps sending the backdoor that should go.

5,000 real MNIST digits, the demonstration's model and backdoor, 8 clients. Client-0 and client-1
hold the same backdoor in 80 % of their images. After 12 rounds of training client-0 is deleted: its
first layer is negated and the other seven recover, client-1 among them, which attacks as told in
ATTACKS. A table says what is left of the backdoor under each rule; the reference is a recovery in
which client-1 is honest. `python -m benchmarks.poisoning` takes half an hour; `--skew` gives each
client mostly one or two classes, `--seed` another draw. What follows from it stands in
docs/aggregation.md.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn

from fednot import SampleDataset, TrainContext, TrainResult
from fednot.data.in_memory import InMemoryDataset
from fednot.data.mnist5k import mnist5k
from fednot.demo.backdoor import BACKDOORS
from fednot.demo.digits import TEST_SIZE, DigitsTask
from fednot.manifest import Manifest
from fednot.tensors import load_into
from server import initial_model
from server.aggregation import Aggregation, RuleName
from server.blocks import Block, Memory
from server.cohorts.cohort import Update, WorkKind, WorkPlan
from server.cohorts.in_process import InProcessCohort
from server.methods.negation import negated
from server.records import RoundPhase, Version, VersionOrigin

CLIENTS: Final = 8
ROUNDS: Final = 12
RECOVERY_ROUNDS: Final = 12
CLIP_NORM: Final = 1.0
"""What honest updates have at the end of training, so that clipping is as tight as it can be."""
CPU: Final = torch.device("cpu")
BACKDOOR: Final = BACKDOORS[0]
FIRST_LAYER: Final = ("conv1.weight",)


@dataclass(frozen=True)
class Attack:
    """What a hostile client does: poisons a share of its images, multiplies its update by `boost`,
    or, with `fits`, scales it to that norm, and claims `claim` times the examples that it has.
    """

    share: float = 0.8
    boost: float = 1.0
    claim: int = 1
    fits: float = 0.0


HONEST: Final = Attack(share=0.0)
ATTACKS: Final[Mapping[str, tuple[Attack, ...]]] = {
    "honest": (HONEST,),
    "same data": (Attack(),),
    "update x 7": (Attack(boost=7.0),),
    "examples x 100": (Attack(claim=100),),
    "at the norm": (Attack(fits=CLIP_NORM),),
    "a tenth poisoned": (Attack(share=0.1),),
    "two of them": (Attack(), Attack()),
}
"""By name, the attacks of client-1 and the clients after it."""

RULES: Final = {
    "mean": Aggregation(),
    "clipped mean": Aggregation(clip_norm=CLIP_NORM),
    "median": Aggregation(RuleName.MEDIAN),
    "trimmed-mean": Aggregation(RuleName.TRIMMED_MEAN),
    "multi-krum": Aggregation(RuleName.MULTI_KRUM),
    "trimmed-mean for 2": Aggregation(RuleName.TRIMMED_MEAN, byzantine=2),
    "multi-krum for 2": Aggregation(RuleName.MULTI_KRUM, byzantine=2),
}
"""Those without a number are set to withstand one hostile client."""


class PoisonedDigits(DigitsTask):
    """Digits of one of the clients, of which it poisons and sends what its attack says."""

    def __init__(
        self, client: int | None, attack: Attack = HONEST, *, seed: int = 0, skew: bool = False
    ) -> None:
        super().__init__("" if client is None else str(client), str(CLIENTS), str(seed))
        self._number = client
        self._attack = attack
        self._drawn_by = seed
        self._skew = skew

    def train_data(self) -> SampleDataset:
        """The client's digits, some with the trigger and its class."""
        digits, own = mnist5k(), self._own_places()
        generator = torch.Generator().manual_seed(self._drawn_by)
        images, labels = BACKDOOR.poisoned(
            digits.inputs[own], digits.targets[own], self._attack.share, generator
        )
        return InMemoryDataset(images, labels, [digits.sample_id(int(place)) for place in own])

    def train(self, model: nn.Module, data: SampleDataset, context: TrainContext) -> TrainResult:
        """Trains as everybody does, and then makes of the update what the attack says."""
        given = {name: value.clone() for name, value in model.state_dict().items()}
        result = super().train(model, data, context)
        attack = self._attack
        with torch.no_grad():
            steps = {name: value - given[name] for name, value in model.state_dict().items()}
            norm = float(sum(step.double().square().sum() for step in steps.values())) ** 0.5
            factor = attack.fits / norm if attack.fits else attack.boost
            for name, value in model.state_dict().items():
                value.copy_(given[name] + factor * steps[name])
        return replace(result, num_examples=result.num_examples * attack.claim)

    def _own_places(self) -> torch.Tensor:
        digits = mnist5k()
        order = torch.randperm(
            len(digits), generator=torch.Generator().manual_seed(self._drawn_by)
        )[TEST_SIZE:]
        number = self._number or 0
        if not self._skew:
            return order[number::CLIENTS]
        by_class = order[digits.targets[order].argsort(stable=True)]
        # Three in four of a client's digits stand side by side in the order of classes.
        near, rest = by_class[torch.arange(len(by_class)) % 4 > 0], by_class[::4]
        size = len(near) // CLIENTS
        return torch.cat([near[number * size :][:size], rest[number::CLIENTS]])


@dataclass(frozen=True)
class Played:
    """A model after some rounds: its scores after each, and the norms of the last round's updates,
    by client.
    """

    flat: torch.Tensor
    scores: tuple[Mapping[str, float], ...]
    norms: Mapping[str, float]
    left_out: Mapping[str, int]


class Stage:
    """The digits, the initial model, and rounds of production's code over an in-process cohort."""

    def __init__(self, *, seed: int, skew: bool) -> None:
        self._seed = seed
        self._skew = skew
        self._server = PoisonedDigits(None, seed=seed)
        initial = initial_model.from_task(self._server, seed)
        self.initial, self._manifest = initial.flat, initial.manifest

    def task_of(self, client: int, attack: Attack) -> PoisonedDigits:
        """The Task of a client."""
        return PoisonedDigits(client, attack, seed=self._seed, skew=self._skew)

    def trained(self, rounds: int = ROUNDS) -> Played:
        """The model with the backdoor of client-0, which client-1 has as well."""
        attacks = [Attack(), Attack(), *[HONEST] * (CLIENTS - 2)]
        tasks = {f"client-{i}": self.task_of(i, attack) for i, attack in enumerate(attacks)}
        return asyncio.run(self._play(self.initial, tasks, Aggregation(), rounds, 1))

    def recovered(self, base: Played, attacks: tuple[Attack, ...], how: Aggregation) -> Played:
        """The base without client-0: negated, then recovered by the others, hostile ones too."""
        given = [*attacks, *[HONEST] * (CLIENTS - 1 - len(attacks))]
        tasks = {f"client-{i}": self.task_of(i, attack) for i, attack in enumerate(given, 1)}
        start = negated(base.flat, self._manifest, FIRST_LAYER)
        return asyncio.run(self._play(start, tasks, how, RECOVERY_ROUNDS, ROUNDS + 1))

    async def _play(
        self,
        flat: torch.Tensor,
        tasks: Mapping[str, PoisonedDigits],
        how: Aggregation,
        rounds: int,
        first: int,
    ) -> Played:
        cohort, scores = InProcessCohort(tasks), []
        norms: dict[str, float] = {}
        left_out: dict[str, int] = dict.fromkeys(tasks, 0)
        for number in range(first, first + rounds):
            rule = how.begun(self._manifest, Memory(), torch.float64)
            async with aclosing(cohort.work(self._plan(flat, number, tuple(tasks)))) as answers:
                async for answer in answers:
                    if not isinstance(answer, Update):
                        raise TypeError(f"{answer.client} did not train: {answer}")
                    rule.add(answer.client, answer.payload, answer.num_examples, answer.codec)
                    norms[answer.client] = float(answer.payload.tensor.view(torch.float32).norm())
            found = rule.applied_to(Block.of(flat))
            rule.close()
            flat = found.model.tensor.clone()
            for client, kinds in found.oddities.items():
                left_out[client] += "left_out" in kinds
            scores.append(self._scores(flat))
        return Played(flat, tuple(scores), norms, left_out)

    def _plan(self, flat: torch.Tensor, number: int, clients: tuple[str, ...]) -> WorkPlan:
        version = Version(
            number=number,
            sha256=str(number),
            parent=number - 1,
            generation=0,
            lineage=1,
            origin=VersionOrigin.TRAINING,
            round=number,
            created_at=0.0,
            num_bytes=flat.numel(),
        )
        return WorkPlan(
            kind=WorkKind.TRAIN,
            round=number,
            phase=RoundPhase.TRAINING,
            version=version,
            flat=flat,
            clients=clients,
            deadline=600.0,
            seed=self._seed,
        )

    def _scores(self, flat: torch.Tensor) -> Mapping[str, float]:
        model = self._server.build_model()
        load_into(model, flat, Manifest.of(model))
        data = self._server.test_data()
        if data is None:
            raise RuntimeError("the server has no test digits")
        return self._server.evaluate(model, data, CPU)


def row(rule: str, attack: str, played: Played) -> str:
    """A line of the table: the end of the recovery, and the worst of its last three rounds."""
    last, worst = played.scores[-1], max(s["backdoor_success"] for s in played.scores[-3:])
    hostile = len(ATTACKS[attack]) if attack != "honest" else 0
    out = "/".join(str(played.left_out[f"client-{i}"]) for i in range(1, 1 + max(hostile, 1)))
    told = out if "krum" in rule else "-"
    return (
        f"| {rule} | {attack} | {last['accuracy']:.3f} | {last['backdoor_success']:.3f} "
        f"| {worst:.3f} | {told} |"
    )


def lines(*, seed: int, skew: bool, rules: list[str], attacks: list[str]) -> Iterator[str]:
    """The table, a line at a time as it is measured."""
    torch.set_num_threads(1)
    begun, stage = time.perf_counter(), Stage(seed=seed, skew=skew)
    base = stage.trained()
    before = base.scores[-1]
    yield (
        f"seed {seed}, {'skewed' if skew else 'even'} data, {CLIENTS} clients; after {ROUNDS} "
        f"rounds: accuracy {before['accuracy']:.3f}, backdoor {before['backdoor_success']:.3f}"
    )
    usual = sorted(
        norm for name, norm in base.norms.items() if name not in ("client-0", "client-1")
    )
    yield f"norms of honest updates in the last of them: {usual[0]:.2f} to {usual[-1]:.2f}"
    yield "| rule | attack | accuracy | backdoor | worst of the last 3 | left out in rounds |"
    yield "|---|---|---|---|---|---|"
    for attack in attacks:
        for rule in rules:
            yield row(rule, attack, stage.recovered(base, ATTACKS[attack], RULES[rule]))
    yield f"{time.perf_counter() - begun:.0f} s"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skew", action="store_true")
    parser.add_argument("--rule", action="append", choices=RULES)
    parser.add_argument("--attack", action="append", choices=ATTACKS)
    given = parser.parse_args()
    for line in lines(
        seed=given.seed,
        skew=given.skew,
        rules=given.rule or list(RULES),
        attacks=given.attack or list(ATTACKS),
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
