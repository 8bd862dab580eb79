"""One attempt at a masked round, as the server leads it: who has taken which step.

It lives on the event loop. Clients bring what each step takes, from calls that wait for the others;
what is kept of it is bounded by the cohort.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Final, Protocol

from fednot.errors import FednotError, Reason
from fednot.secure_aggregation.keys import CIPHERTEXT_BYTES, KEY_BYTES, check_public
from fednot.secure_aggregation.masked_sum import Unmasking, checked
from fednot.secure_aggregation.participant import Advertised, Revealed
from fednot.secure_aggregation.terms import (
    ATTEMPT_BYTES,
    FEWEST_CLIENTS,
    Terms,
    keys_text,
    survivors_text,
)
from server.cohorts.cohort import NoAnswer
from server.pulse import Pulse

TICK: Final = 0.5
Check = Callable[[str, bytes, bytes, bytes], None]
"""Raises FednotError unless a client, by its chain, signed a message: (client, chain, message,
signature)."""


@dataclass(frozen=True)
class MaskingPolicy:
    """`value_range` bounds the elements of an update; each step waits `wait` seconds.

    `check` raises FednotError unless a client signed a message.
    """

    value_range: float
    wait: float
    check: Check


class Step(IntEnum):
    """What is waited for."""

    ADVERTISE = auto()
    SHARE = auto()
    UPLOAD = auto()
    CONFIRM = auto()
    UNMASK = auto()


class Assigned(Protocol):
    """A client's part of the plan."""

    id: str
    answered: bool

    def answer(self, answer: NoAnswer) -> None:
        """Says that the client is no longer waited for."""
        ...


def new_attempt_name() -> bytes:
    """A name that no other attempt has."""
    return os.urandom(ATTEMPT_BYTES)


class Attempt:
    """The steps of one attempt; every method that clients call raises FednotError (ROUND_OVER) once
    it has ended, and MASKING_FAILED for what does not fit its step.
    """

    def __init__(self, terms: Terms, check: Check) -> None:
        self.terms: Final = terms
        self.step = Step.ADVERTISE
        self.roster: tuple[Advertised, ...] = ()
        self.sharers: frozenset[str] = frozenset()
        self.survivors: frozenset[str] = frozenset()
        self._check = check
        self._assigned: Mapping[str, Assigned] = {}
        self._keys: dict[str, Advertised] = {}
        self._shares: dict[str, Mapping[str, bytes]] = {}
        self._signatures: dict[str, bytes] = {}
        self._revealed: dict[str, Mapping[str, Revealed]] = {}
        self._over: FednotError | None = None
        self._pulse = Pulse()

    def assigned(self, batch: Mapping[str, Assigned]) -> None:
        """Takes note of the work that the cohort was given."""
        self._assigned = batch

    def works_on(self, client: str, work_id: str) -> bool:
        """Whether this work of the client still counts."""
        found = self._assigned.get(client)
        return self._over is None and found is not None and found.id == work_id

    async def advertise(self, client: str, keys: Advertised, wait: float) -> Sequence[Advertised]:
        """Takes a client's keys and gives the roster; nothing if it is not closed after `wait`."""
        known = self._keys.get(client)
        if known is None:
            self._expect(Step.ADVERTISE, client, self.terms.cohort)
            if keys.client != client or {len(keys.cipher_key), len(keys.mask_key)} != {KEY_BYTES}:
                raise _failed("the keys are none, or another client's")
            _check_usable(keys)
            message = keys_text(self.terms, client, keys.cipher_key, keys.mask_key)
            self._check(client, keys.chain, message, keys.signature)
            self._keys[client] = keys
            self._pulse.beat()
        elif known != keys:
            raise _failed("another process of this client has shown other keys in this attempt")
        await self._until(Step.SHARE, wait)
        if self.step > Step.ADVERTISE and not any(each.client == client for each in self.roster):
            raise _failed("the roster was closed before this client's keys came")
        return self.roster

    async def share(
        self, client: str, shares: Mapping[str, bytes], wait: float
    ) -> dict[str, bytes]:
        """Takes a client's shares and gives those to it, by who gave them; none if it is not time.

        The shares are kept once: a client encrypts them anew at each restart alone, and then it has
        other keys.
        """
        if client not in self._shares:
            names = {each.client for each in self.roster}
            self._expect(Step.SHARE, client, names)
            if set(shares) != names - {client}:
                raise _failed("there must be one share for each of the others in the roster")
            if any(len(sealed) != CIPHERTEXT_BYTES for sealed in shares.values()):
                raise _failed(f"an encrypted share has {CIPHERTEXT_BYTES} bytes")
            self._shares[client] = dict(shares)
            self._pulse.beat()
        await self._until(Step.UPLOAD, wait)
        if self.step < Step.UPLOAD:
            return {}
        return {name: self._shares[name][client] for name in self.sharers if name != client}

    def check_upload(self, client: str, num_examples: int) -> None:
        """Raises FednotError unless a masked update of the client, of this weight, is awaited."""
        self._expect(Step.UPLOAD, client, self.sharers)
        if num_examples > self.terms.most_examples:
            raise FednotError(
                Reason.WRONG_NUM_EXAMPLES,
                f"the update counts {num_examples} examples; the round was masked for at most "
                f"{self.terms.most_examples}",
            )

    async def list_survivors(self, client: str, wait: float) -> Collection[str]:
        """Whose updates are in the sum; none if that is not known after `wait`."""
        await self._until(Step.CONFIRM, wait)
        if self.step < Step.CONFIRM:
            return ()
        self._expect(self.step, client, self.survivors)
        return sorted(self.survivors)

    async def confirm(self, client: str, signature: bytes, wait: float) -> Mapping[str, bytes]:
        """Takes a survivor's signature of the list and gives all; none if too few have signed."""
        if client not in self._signatures:
            self._expect(Step.CONFIRM, client, self.survivors)
            message = survivors_text(self.terms, self.survivors)
            self._check(client, self._keys[client].chain, message, signature)
            self._signatures[client] = signature
            self._pulse.beat()
        await self._until(Step.UNMASK, wait)
        return dict(self._signatures) if self.step is Step.UNMASK else {}

    def reveal(self, client: str, shares: Sequence[Revealed]) -> None:
        """Takes a survivor's shares of the secrets that are wanted."""
        self._expect(Step.UNMASK, client, self._signatures)
        if client not in self._revealed:
            self._revealed[client] = checked(shares, self.sharers, self.survivors)
            self._pulse.beat()

    async def gather(self, seconds: float, mask_wait: float) -> None:
        """Leads to the upload: the roster closes when everybody of the cohort who is there
        has shown keys, or after `seconds`; then each has `mask_wait` seconds to share.

        Whoever is late is no longer waited for. With too few, nobody is, and the attempt has ended.
        """
        await self._everybody(lambda: self.terms.cohort, self._keys, seconds)
        self._dismiss(set(self.terms.cohort) - set(self._keys), "its keys did not come in time")
        if not self._enough(self._keys, "showed keys to mask their updates"):
            return
        self.roster = tuple(self._keys[name] for name in sorted(self._keys))
        self._go_to(Step.SHARE)
        await self._everybody(lambda: self._keys, self._shares, mask_wait)
        self._dismiss(set(self._keys) - set(self._shares), "its shares did not come in time")
        if not self._enough(self._shares, "gave shares of what masks their updates"):
            return
        self.sharers = frozenset(self._shares)
        self._go_to(Step.UPLOAD)

    async def unmasking(
        self, survivors: Collection[str], there: Callable[[], Collection[str]], mask_wait: float
    ) -> Unmasking:
        """Has the survivors agree on who they are, and reveal their shares.

        `there` are the clients that can be reached. Raises FednotError (MASKING_FAILED) if too few
        sent an update, signed or revealed; then nothing of the sum can be read.
        """
        self.survivors = frozenset(survivors)
        self._raise_if_few(self.survivors, "sent a masked update")
        self._go_to(Step.CONFIRM)
        await self._everybody(lambda: self.survivors & set(there()), self._signatures, mask_wait)
        self._raise_if_few(self._signatures, "signed the list of those in the sum")
        self._go_to(Step.UNMASK)
        signers = frozenset(self._signatures)
        await self._everybody(lambda: signers & set(there()), self._revealed, mask_wait)
        self._raise_if_few(self._revealed, "revealed shares")
        roster = {each.client: each for each in self.roster}
        return Unmasking(self.terms, roster, self.sharers, self.survivors, dict(self._revealed))

    def end(self, why: FednotError) -> None:
        """Ends the attempt and drops what clients brought; they are told why."""
        if self._over is None:
            self._over = why
        for kept in (self._keys, self._shares, self._signatures, self._revealed):
            kept.clear()
        self._assigned = {}
        self._pulse.beat()

    def _expect(self, step: Step, client: str, among: Collection[str]) -> None:
        if self._over is not None:
            raise self._over
        if self.step is not step:
            raise _failed(f"this is not the time to do so: the round is at {self.step.name}")
        if client not in among:
            raise _failed(f"{client} takes no part in this step of the masked round")

    async def _until(self, step: Step, wait: float) -> None:
        """Waits until a step has begun, at most `wait` seconds."""
        until = time.monotonic() + wait
        while self._over is None and self.step < step:
            left = until - time.monotonic()
            if left <= 0:
                return
            await self._pulse.wait(left, self._pulse.mark())
        if self._over is not None:
            raise self._over

    async def _everybody(
        self, wanted: Callable[[], Collection[str]], have: Collection[str], seconds: float
    ) -> None:
        """Waits until everybody who is wanted and was not let go has taken the step, or so long.

        A look counts for no more than it was to last: while the server stood still, what clients
        sent lay in their sockets.
        """
        left = seconds
        while left > 0:
            mark = self._pulse.mark()
            if all(name in have or self._gone(name) for name in wanted()):
                return
            look, began = min(left, TICK), time.monotonic()
            await self._pulse.wait(look, mark)
            left -= min(look, time.monotonic() - began)

    def _gone(self, client: str) -> bool:
        found = self._assigned.get(client)
        return self.step < Step.UPLOAD and found is not None and found.answered

    def _go_to(self, step: Step) -> None:
        self.step = step
        self._pulse.beat()

    def _dismiss(self, clients: Collection[str], why: str) -> None:
        for client in sorted(clients):
            found = self._assigned.get(client)
            if found is not None and not found.answered:
                found.answer(NoAnswer(client, why))

    def _enough(self, those: Collection[str], did: str) -> bool:
        try:
            self._raise_if_few(those, did)
        except FednotError as too_few:
            self._dismiss(self.terms.cohort, too_few.message)
            self.end(too_few)
            return False
        return True

    def _raise_if_few(self, those: Collection[str], did: str) -> None:
        fewest = max(self.terms.threshold, FEWEST_CLIENTS)
        if len(those) < fewest:
            raise _failed(
                f"{len(those)} of {len(self.terms.cohort)} clients {did}, and {fewest} are needed"
            )


class Attempts:
    """The attempts that have not ended, by their names."""

    def __init__(self) -> None:
        self._open: dict[bytes, Attempt] = {}
        self._stopping = False

    def stop(self) -> None:
        """Says that the server stops: clients keep their work for the next one, which goes on."""
        self._stopping = True

    def open(self, attempt: Attempt) -> None:
        """Lets clients find an attempt."""
        self._open[attempt.terms.attempt] = attempt

    def close(self, attempt: Attempt) -> None:
        """Ends an attempt; its clients are told ROUND_OVER, or SHUTTING_DOWN."""
        attempt.end(self._why_over())
        self._open.pop(attempt.terms.attempt, None)

    def of(self, name: bytes, client: str, work_id: str) -> Attempt:
        """The attempt in which a client has this work.

        Raises FednotError (ROUND_OVER), or SHUTTING_DOWN if the server stops.
        """
        found = self._open.get(name)
        if found is None or not found.works_on(client, work_id):
            raise self._why_over()
        return found

    def works_on(self, client: str, work_id: str) -> bool:
        """Whether some attempt still needs the client for this work."""
        return any(attempt.works_on(client, work_id) for attempt in self._open.values())

    def _why_over(self) -> FednotError:
        if self._stopping:
            return FednotError(Reason.SHUTTING_DOWN, "the server is stopping", retry_after=1.0)
        return FednotError(
            Reason.ROUND_OVER, "the masked round has ended; this work no longer counts"
        )


def _check_usable(keys: Advertised) -> None:
    """Raises FednotError (MASKING_FAILED): one such key would end the attempt for everybody."""
    try:
        check_public(keys.cipher_key)
        check_public(keys.mask_key)
    except ValueError as error:
        raise _failed(f"a key of {keys.client} is none: {error}") from error


def _failed(message: str) -> FednotError:
    return FednotError(Reason.MASKING_FAILED, message)
