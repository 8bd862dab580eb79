"""One attempt at masking a round: who has taken which step, and what the others are given of it.

Nothing here can be read by the server: keys are public, shares are encrypted between clients, and
what is revealed in the end takes the masks off the sum alone. All of it lives on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation import Order, PublicKeys, Roster
from server.pulse import Pulse

SHARE_OF_TIME: Final = 0.8
"""Of a round's time so much may go by before who has not trained is left out."""

log = logging.getLogger("server.secure_aggregation")


class Step(IntEnum):
    """The steps of a masked round, in their order."""

    ADVERTISE = 0
    SHARE = 1
    UPLOAD = 2
    CONFIRM = 3
    UNMASK = 4
    DONE = 5


@dataclass(frozen=True)
class Unmasking:
    """What takes the masks off a sum: by client the shares of its secret, by who revealed them.

    `seeds` are of those whose updates are in the sum, `mask_keys` of the others of those that
    `shared`. Everybody is sorted by name.
    """

    roster: Roster
    shared: tuple[str, ...]
    seeds: Mapping[str, Mapping[str, bytes]]
    mask_keys: Mapping[str, Mapping[str, bytes]]


class MaskedRound:
    """Leads a cohort through the steps. Who misses one is out; with too few left the round fails.

    `quorum` is the share of the cohort that makes the round count; each step waits `wait` seconds.
    """

    def __init__(self, order: Order, *, quorum: float, wait: float) -> None:
        self.order: Final = order
        self.enough: Final = max(order.threshold, math.ceil(quorum * len(order.cohort)))
        self.step = Step.ADVERTISE
        self.fault: FednotError | None = None
        self.out: dict[str, str] = {}
        self.roster: Roster | None = None
        self.shared: tuple[str, ...] = ()
        self.survivors: tuple[str, ...] = ()
        self._wait = wait
        self._work: dict[str, str] = {}
        self._give_up: dict[str, Callable[[str], object]] = {}
        self._keys: dict[str, PublicKeys] = {}
        self._shares: dict[str, Mapping[str, bytes]] = {}
        self._uploaded: set[str] = set()
        self._signatures: dict[str, bytes] = {}
        self._seeds: dict[str, Mapping[str, bytes]] = {}
        self._mask_keys: dict[str, Mapping[str, bytes]] = {}
        self._pulse = Pulse()
        self._late = False
        self._timer: asyncio.TimerHandle | None = None

    def assigned(self, client: str, work_id: str, give_up: Callable[[str], object]) -> None:
        """Names the work of a client; `give_up` stops waiting for its update, for a reason."""
        self._work[client], self._give_up[client] = work_id, give_up

    def has(self, client: str, work_id: str) -> bool:
        """Whether this is a client's work in this round."""
        return self._work.get(client) == work_id

    def begin(self, deadline: float) -> None:
        """Starts the clock of a round that has so many seconds."""
        self._in(SHARE_OF_TIME * deadline)

    async def advertise(self, client: str, keys: PublicKeys, wait: float) -> Roster | None:
        """Takes a client's keys; gives those of everybody who takes part, None if not yet known.

        Raises FednotError: MASKING_FAILED for who is out, or ROUND_OVER.
        """
        self._check(client)
        known = self._keys.get(client)
        if self.step > Step.ADVERTISE and known != keys:
            if client not in self._uploaded:
                self._drop(client, "it has other keys than before, as after a start")
            raise _failed(f"the masked round has other keys of {client}")
        self._keys[client] = keys
        self._look()
        await self._after(client, Step.ADVERTISE, wait)
        return self.roster

    async def share(
        self, client: str, shares: Mapping[str, bytes], wait: float
    ) -> Mapping[str, bytes] | None:
        """Takes a client's encrypted shares; gives those for it, None if they are not all there.

        Raises FednotError as `advertise` does, and INVALID_REQUEST for other shares than one for
        each of the others.
        """
        self._check(client, Step.SHARE)
        if self.step is Step.DONE:
            raise FednotError(Reason.ROUND_OVER, "the masked round has ended")
        if shares.keys() != set(self._names()) - {client}:
            raise _invalid("shares: one for each of the others in the roster is wanted")
        if self.step is Step.SHARE:
            self._shares.setdefault(client, shares)
        self._look()
        await self._after(client, Step.SHARE, wait)
        if self.step <= Step.SHARE:
            return None
        return {name: self._shares[name][client] for name in self.shared if name != client}

    def check_upload(self, client: str) -> None:
        """Raises FednotError (MASKING_FAILED, INVALID_REQUEST) unless its update may come now."""
        self._check(client, Step.UPLOAD)

    def uploaded(self, client: str) -> None:
        """A client's masked update is in the sum."""
        self._uploaded.add(client)

    def lost(self, client: str, reason: str) -> None:
        """A client is no longer waited for."""
        if client not in self.out and self.step < Step.CONFIRM:
            self.out[client] = reason
            self._look()

    async def confirmable(self, client: str, wait: float) -> tuple[str, ...]:
        """Whose updates are in the sum, by name; none as long as that is open. Raises FednotError
        as `advertise` does.
        """
        self._check(client, Step.UPLOAD)
        await self._after(client, Step.UPLOAD, wait)
        return self.survivors

    async def confirm(
        self, client: str, signature: bytes, wait: float
    ) -> Mapping[str, bytes] | None:
        """Takes a signature of the list; gives all of them once there are enough, else None.

        Raises FednotError as `advertise` does.
        """
        self._check_survivor(client)
        if self.step < Step.DONE:
            self._signatures.setdefault(client, signature)
        self._pulse.beat()
        await self._after(client, Step.CONFIRM, wait)
        return self._signatures if self.step > Step.CONFIRM else None

    def reveal(
        self, client: str, seeds: Mapping[str, bytes], mask_keys: Mapping[str, bytes]
    ) -> None:
        """Takes the shares that a client reveals; those that are not needed any more are not kept.

        Raises FednotError as `advertise` does, and INVALID_REQUEST unless there is one share of
        each survivor's seed, and one of the key of each that dropped out after it gave shares.
        """
        self._check_survivor(client)
        if client not in self._signatures or self.step < Step.UNMASK:
            raise _invalid("shares: they are revealed after the list of survivors was confirmed")
        dropped = set(self.shared) - set(self.survivors)
        if seeds.keys() != set(self.survivors) or mask_keys.keys() != dropped:
            raise _invalid(
                "shares: one of each survivor's seed is wanted, and one of the mask key of each "
                "that dropped out"
            )
        if self.step is Step.UNMASK:
            self._seeds[client], self._mask_keys[client] = seeds, mask_keys
        self._pulse.beat()

    async def unmasking(self) -> Unmasking:
        """Closes the uploads and gives what takes the masks off, once enough was revealed.

        Raises FednotError (MASKING_FAILED) if too few uploaded, or too few stayed for it.
        """
        self._stop_timer()
        if self.fault is not None:
            raise self.fault
        uploaded = tuple(sorted(self._uploaded))
        if len(uploaded) < self.enough or self.roster is None:
            raise self._fail(f"{len(uploaded)} masked updates came, and {self.enough} must")
        self.survivors = uploaded
        self._moved_to(Step.CONFIRM)
        await self._enough(self._signatures, "confirmed whose updates are in the sum")
        self._moved_to(Step.UNMASK)
        await self._enough(self._seeds, "revealed their shares")
        return Unmasking(
            roster=self.roster,
            shared=self.shared,
            seeds=_turned(self._seeds, uploaded),
            mask_keys=_turned(self._mask_keys, sorted(set(self.shared) - set(uploaded))),
        )

    def finish(self) -> None:
        """The masks are off: who still asks is told what it missed, and no secret is kept."""
        self._forget()
        self._moved_to(Step.DONE)

    def end(self, why: FednotError) -> None:
        """Ends a round that has not come to its end; whoever waits is told why."""
        self._stop_timer()
        if self.step is not Step.DONE and self.fault is None:
            self.fault = why
        self._forget()
        self._pulse.beat()

    def _forget(self) -> None:
        self._stop_timer()
        for kept in (self._shares, self._seeds, self._mask_keys, self._give_up):
            kept.clear()

    def _check(self, client: str, step: Step = Step.ADVERTISE) -> None:
        """Raises FednotError unless a client is in the round and the round has come to a step."""
        if self.fault is not None:
            raise self.fault
        if client in self.out:
            why = self.out[client]
            raise _failed(f"{client} is out of the masked round: {why}")
        if self.step < step:
            raise _invalid(f"the masked round has not come to {step.name.lower()}")

    def _check_survivor(self, client: str) -> None:
        self._check(client, Step.CONFIRM)
        if client not in self.survivors:
            raise _failed(f"the update of {client} is not among those in the sum")

    async def _after(self, client: str, step: Step, wait: float) -> None:
        """Waits until the round is past a step. Raises FednotError if it ends, or the client is
        out.
        """
        until = asyncio.get_running_loop().time() + wait
        while True:
            mark = self._pulse.mark()
            self._check(client)
            left = until - asyncio.get_running_loop().time()
            if self.step > step or left <= 0:
                return
            await self._pulse.wait(left, mark)

    async def _enough(self, taken: Mapping[str, object], what: str) -> None:
        until = asyncio.get_running_loop().time() + self._wait
        while len(taken) < self.order.threshold:
            mark = self._pulse.mark()
            if self.fault is not None:
                raise self.fault
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                late = [name for name in self.survivors if name not in taken]
                raise self._fail(
                    f"after {self._wait:g} s only {len(taken)} of {self.order.threshold} clients "
                    f"have {what}; not {', '.join(late)}"
                )
            await self._pulse.wait(left, mark)

    def _look(self) -> None:
        """Goes on to the next step if nobody has to be waited for."""
        if self.fault is not None:
            return
        if self.step is Step.ADVERTISE:
            self._look_at_keys()
        if self.step is Step.SHARE:
            self._look_at_shares()
        if self.step is Step.UPLOAD and len(self._left(self.shared)) < self.enough:
            self._fail_for_lack_of(self.shared)

    def _look_at_keys(self) -> None:
        left = self._left(self.order.cohort)
        ready = [name for name in left if name in self._keys]
        if len(left) < self.enough:
            self._fail_for_lack_of(self.order.cohort)
        elif len(ready) == len(left) or (self._late and len(ready) >= self.enough):
            try:
                self.roster = Roster.of(self.order, (self._keys[name] for name in ready))
            except FednotError as error:
                self._fail(error.message)
                return
            self._moved_to(Step.SHARE)
            self._in(self._wait)
            self._leave_out(left, ready, "it showed no keys in time")

    def _look_at_shares(self) -> None:
        left = self._left(self._names())
        ready = [name for name in left if name in self._shares]
        if len(left) < self.enough or (self._late and len(ready) < self.enough):
            self._fail_for_lack_of(ready if self._late else left)
        elif len(ready) == len(left) or self._late:
            self.shared = tuple(ready)
            self._moved_to(Step.UPLOAD)
            self._leave_out(left, ready, f"it gave no shares in {self._wait:g} s")

    def _left(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if name not in self.out]

    def _leave_out(self, left: Sequence[str], ready: Sequence[str], why: str) -> None:
        for name in left:
            if name not in ready:
                self._is_out(name, why)

    def _drop(self, client: str, why: str) -> None:
        self._is_out(client, why)
        self._look()
        self._pulse.beat()

    def _is_out(self, client: str, why: str) -> None:
        self.out[client] = why
        give_up = self._give_up.get(client)
        if give_up is not None:
            give_up(why)

    def _names(self) -> tuple[str, ...]:
        return self.roster.names if self.roster else ()

    def _fail_for_lack_of(self, names: Sequence[str]) -> None:
        self._fail(
            f"the masked round needs {self.enough} of its {len(self.order.cohort)} clients and has "
            f"{len(self._left(names))} left in the step {self.step.name.lower()}"
        )

    def _fail(self, why: str) -> FednotError:
        log.warning("%s; what came of it cannot be read and is dropped", why)
        self.fault = fault = _failed(why)
        for name in self._left(self.order.cohort):
            self._is_out(name, why)
        self._forget()
        self._pulse.beat()
        return fault

    def _moved_to(self, step: Step) -> None:
        self.step = step
        self._stop_timer()
        self._pulse.beat()

    def _in(self, seconds: float) -> None:
        self._late = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._late = True
        self._look()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _turned(
    by_holder: Mapping[str, Mapping[str, bytes]], owners: Sequence[str]
) -> dict[str, dict[str, bytes]]:
    """Shares by whose secret they are of, then by who held them."""
    return {
        owner: {holder: shares[owner] for holder, shares in by_holder.items()} for owner in owners
    }


def _invalid(message: str) -> FednotError:
    return FednotError(Reason.INVALID_REQUEST, message)


def _failed(message: str) -> FednotError:
    return FednotError(Reason.MASKING_FAILED, message)
