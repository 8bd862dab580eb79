"""What the server itself can look at models with: its Task, its test data, the folder of probes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import nn

from fednot.data.subset import Subset
from fednot.loss_profile import LossProfile
from fednot.manifest import Manifest
from fednot.task import SampleDataset, Task
from fednot.tensors import load_into
from server.cohorts.cohort import SampleGroup
from server.records import Scope, ScopeKind
from server.verification.probe import Probe, ProbeError, profiles, read_probes, trigger_figures

log = logging.getLogger("server.verification")

_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Sight:
    """What the server saw of one model: `tested` on its own test data, where samples of forgotten
    classes count as unseen ones; `probed` on samples of probes; `figures` of triggers.
    """

    tested: Mapping[SampleGroup, LossProfile] = field(default_factory=dict)
    probed: Mapping[SampleGroup, LossProfile] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Looking:
    """What the server looks with, for one job; `fault` says what is wrong with a probe."""

    probes: Sequence[Probe] = ()
    fault: str = ""

    @property
    def sha256(self) -> str:
        """The sha256 of each probe, in words."""
        return " ".join(probe.sha256 for probe in self.probes)

    @property
    def has_trigger(self) -> bool:
        """Whether a probe has a trigger."""
        return any(probe.trigger is not None for probe in self.probes)


@dataclass(frozen=True)
class ServerData:
    """The Task that the server was given, its test data if it has some, and the probes' folder."""

    task: Task | None = None
    test: SampleDataset | None = None
    probes: Path | None = None

    @cached_property
    def proxy(self) -> SampleDataset | None:
        """The Task's unlabelled data for distillation, None if there is none."""
        return self.task.proxy_data() if self.task is not None else None

    def opened(self, scopes: Sequence[Scope]) -> Looking:
        """The probes of a job's scopes. One that cannot be used is logged, and named as a fault."""
        if self.probes is None:
            return Looking()
        try:
            found = read_probes(self.probes, scopes)
        except ProbeError as error:
            log.exception("a probe cannot be used")
            return Looking(fault=f"the probe {error}")
        if found and self.task is None:
            fault = f"the probe {found[0].name} needs the Task, which this server was not given"
            log.error("%s", fault)
            return Looking(fault=fault)
        return Looking(found)

    async def look(
        self,
        looking: Looking,
        flat: torch.Tensor,
        manifest: Manifest,
        *,
        scopes: Sequence[Scope],
        most: int,
    ) -> Sight:
        """Looks at a model, at most `most` samples of a group. Raises ProbeError."""
        if self.task is None:
            return Sight()
        return await asyncio.to_thread(self._look, self.task, looking, flat, manifest, scopes, most)

    def _look(
        self,
        task: Task,
        looking: Looking,
        flat: torch.Tensor,
        manifest: Manifest,
        scopes: Sequence[Scope],
        most: int,
    ) -> Sight:
        model = task.build_model()
        load_into(model, flat, manifest)
        samples: dict[SampleGroup, LossProfile] = {}
        figures: dict[str, float] = {}
        for probe in looking.probes:
            add_to(samples, profiles(probe, task, model, most))
            if probe.trigger is not None:
                seen = trigger_figures(probe.trigger, model, most)
                if seen["trigger_effect"] >= figures.get("trigger_effect", -1.0):
                    figures = seen
        tested = self._tested(task, self.test, model, scopes, most) if self.test else {}
        return Sight(tested, samples, figures)

    def _tested(
        self, task: Task, test: SampleDataset, model: nn.Module, scopes: Sequence[Scope], most: int
    ) -> dict[SampleGroup, LossProfile]:
        labels = {scope.label for scope in scopes if scope.kind is ScopeKind.CLASS}
        chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0)).tolist()
        split: dict[SampleGroup, list[int]] = {SampleGroup.TEST: [], SampleGroup.UNSEEN: []}
        for index in chosen if labels else chosen[:most]:
            gone = bool(labels) and int(test[index][1]) in labels
            split[SampleGroup.UNSEEN if gone else SampleGroup.TEST].append(index)
        found = {}
        for group, indices in split.items():
            if indices:
                losses, correct = task.sample_losses(model, Subset(test, indices[:most]), _CPU)
                found[group] = LossProfile.of(losses.numpy(), correct.tolist())
        return found


def add_to(groups: dict[SampleGroup, LossProfile], more: Mapping[SampleGroup, LossProfile]) -> None:
    """Adds what others saw of the same groups."""
    for group, profile in more.items():
        groups[group] = groups[group] + profile if group in groups else profile
