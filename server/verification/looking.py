"""Looks at models through the clients that hold what is forgotten, and through the server's own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from fednot.loss_profile import LossProfile
from server.cohorts.cohort import (
    NoAnswer,
    Profiles,
    SampleGroup,
    WorkKind,
    WorkPlan,
)
from server.federation import Federation
from server.records import Job, RoundPhase, Scope, ScopeKind, WaitKind
from server.verification.attacks import figures_of
from server.verification.probe import ProbeError, file_name
from server.verification.scoping import holders_of, profile_order
from server.verification.server_data import Looking, Sight, add_to
from server.verification.verdicts import GONE

log = logging.getLogger("server.verification")

TICK: Final = 1.0
_PAIR: Final = (SampleGroup.FORGOTTEN, SampleGroup.UNSEEN)


@dataclass(frozen=True)
class View:
    """What is known of one model: profiles by group, and figures by name."""

    groups: Mapping[SampleGroup, LossProfile]
    figures: Mapping[str, float]


@dataclass
class Eyes:
    """All that looks at the models of one verification, the same samples each time.

    `missing` says, after the first look, why there is no membership figure, `uncovered` which
    scopes nobody could look for. A client that fails once is not asked again.
    """

    federation: Federation
    job: Job
    scopes: Sequence[Scope]
    looking: Looking
    missing: str = ""
    silent: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)

    async def await_holders(self, seconds: float) -> None:
        """Waits until every client that is named is there, at most so long, and says so."""
        federation = self.federation
        named = {scope.client for scope in self.scopes if scope.kind is not ScopeKind.CLASS}
        until = time.monotonic() + seconds
        try:
            while away := sorted(named - federation.cohort.connected()):
                left = until - time.monotonic()
                if left <= 0:
                    break
                federation.waits_for(
                    WaitKind.VERIFICATION,
                    f"waiting for {', '.join(away)} to verify what is forgotten",
                )
                await federation.cohort.wait_for_change(min(left, TICK))
        finally:
            federation.waits_no_more()
        for name in sorted(named - federation.cohort.connected()):
            self.silent[name] = f"it was not there, {seconds:g} s long"

    async def look(self, flat: torch.Tensor) -> View:
        """Looks at a model, uint8 of shape [nbytes]."""
        groups = await self._through_clients(flat)
        sight = await self._through_server(flat)
        held = SampleGroup.FORGOTTEN in groups
        if any(group not in groups for group in _PAIR):
            for group in _PAIR:
                groups.pop(group, None)
            add_to(groups, sight.probed)
        add_to(groups, sight.tested)
        seed = self.federation.defaults.seed
        figures = await asyncio.to_thread(figures_of, groups, seed=seed)  # its imports take seconds
        self.missing = self._missing(groups, held=held)
        return View(groups, {**figures, **sight.figures})

    def uncovered(self) -> list[str]:
        """The clients that are named and that neither answered nor have a probe."""
        probed = {probe.name for probe in self.looking.probes}
        return sorted(
            {
                scope.client
                for scope in self.scopes
                if scope.kind is not ScopeKind.CLASS
                and scope.client not in self.answered
                and file_name(scope) not in probed
            }
        )

    async def _through_server(self, flat: torch.Tensor) -> Sight:
        data = self.federation.server_data
        most = self.federation.defaults.verification.max_examples
        manifest = self.federation.model.manifest
        try:
            return await data.look(self.looking, flat, manifest, scopes=self.scopes, most=most)
        except ProbeError as error:
            log.exception("a probe cannot be used")
            self.looking = replace(self.looking, probes=(), fault=f"the probe {error}")
        return await data.look(self.looking, flat, manifest, scopes=self.scopes, most=most)

    async def _through_clients(self, flat: torch.Tensor) -> dict[SampleGroup, LossProfile]:
        federation = self.federation
        there = federation.cohort.connected() - self.silent.keys()
        policy = federation.defaults.verification
        order = profile_order(
            self.job.id, self.scopes, there, federation.eligible(), policy.max_examples
        )
        groups: dict[SampleGroup, LossProfile] = {}
        if not order.groups:
            return groups
        current = federation.model.current
        plan = WorkPlan(
            kind=WorkKind.PROFILE,
            round=0,
            phase=RoundPhase.VERIFICATION,
            version=replace(current, sha256=f"{current.sha256}/{id(flat)}"),
            flat=flat,
            clients=tuple(order.groups),
            deadline=policy.wait,
            seed=federation.defaults.seed,
            profile=order,
        )
        async with aclosing(federation.cohort.work(plan)) as answers:
            async for answer in answers:
                if isinstance(answer, Profiles):
                    add_to(groups, answer.groups)
                    if SampleGroup.FORGOTTEN in answer.groups:
                        self.answered.add(answer.client)
                elif isinstance(answer, NoAnswer):
                    log.warning("%s could not be verified with: %s", answer.client, answer.reason)
                    self.silent[answer.client] = answer.reason
                    self.answered.discard(answer.client)
        return groups

    def _missing(self, groups: Mapping[SampleGroup, LossProfile], *, held: bool) -> str:
        if all(group in groups for group in _PAIR):
            return ""
        why = ""
        if held or SampleGroup.FORGOTTEN in groups:
            why = "there are no unseen samples to compare the forgotten ones with"
        else:
            holders = holders_of(self.scopes, self.federation.eligible())
            told = [f"{name}: {self.silent[name]}" for name in sorted(holders & self.silent.keys())]
            others = [] if told else ["nobody holds forgotten samples any more"]
            why = f"{GONE} ({'; '.join(told or others)})"
        if self.looking.fault:
            why += f"; {self.looking.fault}"
        return why
