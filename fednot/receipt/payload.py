"""What a receipt states: the payload of its signature, and nothing that is not in here.

Names of clients are pseudonyms, those of the audit (docs/audit.md). Times are in UTC; sha256 are 64
hexadecimal digits; a version's is over its tensors. docs/receipts.md has a table of all fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat

FORMAT: Final = 1
STATEMENT: Final = "empirically verified, as far as the verdicts say; not proven"
SCHEMA_ID: Final = "https://fednot.invalid/receipt-1.schema.json"

Text = Annotated[str, Field(max_length=10_000)]
Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Pseudonym = Annotated[str, Field(pattern="^p-[0-9a-f]{32}$")]
Figures = dict[str, FiniteFloat]
VerdictName = Literal["pass", "fail", "not-possible"]


class Part(BaseModel):
    """A part of a receipt: it cannot be changed, and holds no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(Part):
    """A version of the global model."""

    number: Count = Field(description="its number")
    sha256: Hash = Field(description="the hash of its tensors")
    generation: Count = Field(description="how many negations came before it")


class VersionHash(Part):
    """A version that is destroyed, or held."""

    number: Count = Field(description="its number")
    sha256: Hash = Field(description="the hash of its tensors")


class ForgottenScope(Part):
    """One thing that was forgotten."""

    kind: Literal["client", "samples", "class"] = Field(description="what kind of thing it is")
    client: Pseudonym | None = Field(description="whose; null for a class")
    label: int | None = Field(description="the label of the class; null for anything else")
    count: Count | None = Field(
        description="how many samples the clients barred for it; null for a whole client"
    )
    sha256: Hash | None = Field(
        description="the salted digest of the samples' ids, which stay where they are"
    )
    clients_told: Count = Field(description="how many clients were told to bar it")
    clients_confirmed: Count = Field(description="how many of those had done so at the issue")


class Judgement(Part):
    """A verdict with its reason."""

    verdict: VerdictName = Field(description="pass, fail or not-possible")
    reason: Text = Field(description="why, in a sentence")


class Measured(Part):
    """The figures of one model that was verified."""

    model: Text = Field(description="recovered, or undone: and tensors negated again, or a method")
    rounds: Count = Field(description="rounds on retained data after that")
    figures: Figures = Field(description="what was measured; docs/verification.md names each")


class LossHistogram(Part):
    """How the losses of a group of samples are spread; not whose is which."""

    counts: Annotated[tuple[Count, ...], Field(min_length=42, max_length=42)] = Field(
        description="samples below 1e-8, then in 4 bins a decade up to 100, then above"
    )
    correct: Count = Field(description="how many were answered correctly")


class Verified(Part):
    """What verification found of an attempt."""

    behaviour: Judgement = Field(description="does the model treat the forgotten as unseen?")
    depth: Judgement = Field(description="does it still once what was done is undone?")
    thresholds: Figures = Field(description="what the verdicts are measured by")
    findings: tuple[Measured, ...] = Field(description="figures, of the recovered model first")
    forgotten_losses: LossHistogram | None = Field(
        description="of the forgotten data; null if gone"
    )
    unseen_losses: LossHistogram | None = Field(description="of unseen data of the same origin")
    probe_sha256: Hash | None = Field(description="the hash of the probe; null without one")
    found_at: AwareDatetime = Field(description="when")


class CurvePoint(Part):
    """One recovery round."""

    round: Count = Field(description="its number")
    version: Count = Field(description="the version that it made")
    figures: Figures = Field(description="how that scored, such as accuracy")


class Try(Part):
    """One attempt: a change of the base version, recovery, verification."""

    number: Count = Field(description="counts from 1")
    method: Text = Field(description="the method as done")
    tensors: tuple[Text, ...] = Field(description="the tensors that its method took")
    warnings: tuple[Text, ...] = Field(description="what was doubtful about the choice")
    outcome: Literal["running", "succeeded", "abandoned"] = Field(description="how it ended")
    stop_reason: Literal["target", "plateau", "budget", "chance"] | None = Field(
        description="why its recovery stopped"
    )
    explanation: Text = Field(description="the same in a sentence")
    rung: Count = Field(description="the place of its plan on the ladder of a deep assurance")
    start: Model = Field(description="the version that the change made")
    end: Model = Field(description="the version of its last recovery round, or the start")
    participants: Count = Field(description="how many clients' updates are in its recovery")
    rounds: tuple[CurvePoint, ...] = Field(description="the curve of its recovery")
    verification: Verified | None = Field(description="what verification found; null without any")
    steps: Count = Field(
        default=0, description="steps that its method took before the recovery; left out if none"
    )


class KeptUpdates(Part):
    """Updates of clients that the server had kept, and destroyed."""

    count: Count = Field(description="how many")
    num_bytes: Count = Field(description="their size in bytes, together")
    sha256: Hash = Field(
        description="over their hashes as text, sorted, with a newline between two"
    )


class Cache(Part):
    """Something made of older models or of updates that a client kept, and destroyed."""

    kind: Text = Field(description="what it was")
    sha256: Hash = Field(description="the hash of what it was")
    num_bytes: Count = Field(description="its size in bytes")


class ClientCaches(Part):
    """What one client destroyed, by its own word."""

    client: Pseudonym = Field(description="who")
    acknowledged_at: AwareDatetime = Field(description="when it said so")
    destroyed: tuple[Cache, ...] = Field(description="what; empty if it kept nothing")


class PhaseEntry(Part):
    """When the job came into a phase."""

    phase: Text = Field(description="the phase")
    at: AwareDatetime = Field(description="when")


class ChainHead(Part):
    """Where a chain of hashes ended."""

    entries: Count = Field(description="how many entries it had")
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = Field(
        description="the hash of the last; empty if there was none"
    )


class Receipt(Part):
    """The statement of what a deletion did."""

    format: Literal[1] = Field(description="the version of this format")
    statement: Literal["empirically verified, as far as the verdicts say; not proven"] = Field(
        description="what this is worth"
    )
    federation: Text = Field(description="the id of the federation's state")
    job_id: Text = Field(description="the job that did it")
    request_ids: tuple[Text, ...] = Field(description="the requests that it served")
    scopes: tuple[ForgottenScope, ...] = Field(description="what was forgotten")
    method_asked: Text = Field(description="the method as asked for")
    layers_asked: Text = Field(description="the choice of layers as asked for")
    unsafe_layers_allowed: bool = Field(description="whether the choice might break the rules")
    method_done: Text = Field(description="the method of the chosen attempt")
    tensors: tuple[Text, ...] = Field(description="the tensors that the chosen attempt took")
    assurance: Literal["behaviour", "deep"] = Field(description="how far it was to be verified")
    attempts: tuple[Try, ...] = Field(description="every attempt")
    chosen_attempt: Count = Field(description="the number of the one whose model was kept")
    initial: Model = Field(description="the version without any data; it is kept")
    base: Model = Field(description="the version that the forgotten was in")
    result: Model = Field(description="the version that the job ended with")
    released: bool = Field(description="whether that was released; else another deletion is open")
    target_accuracy: FiniteFloat | None = Field(description="what recovery had to reach")
    recovery_rounds: Count = Field(description="rounds of the chosen attempt")
    participants: Count = Field(description="how many clients' updates are in its recovery")
    behaviour: Judgement = Field(description="the verdict on behaviour of the chosen attempt")
    depth: Judgement = Field(description="the verdict on depth of the chosen attempt")
    destroyed: tuple[VersionHash, ...] = Field(description="versions that were destroyed")
    held: tuple[VersionHash, ...] = Field(description="versions that a legal hold keeps")
    client_caches: tuple[ClientCaches, ...] = Field(description="what clients destroyed")
    clients_unacknowledged: Count = Field(description="clients that had not answered that order")
    aborted_rounds: tuple[Count, ...] = Field(description="rounds aborted as it was accepted")
    history: tuple[PhaseEntry, ...] = Field(description="when it came into each phase")
    ledger: ChainHead = Field(description="the head of the ledger of deletions at the issue")
    audit: ChainHead = Field(description="the head of the audit at the issue")
    software: Text = Field(description="what signed this, with its version")
    issued_at: AwareDatetime = Field(description="when")
    key_id: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{43}$")] = Field(
        description="the thumbprint (RFC 7638) of the key that signed it"
    )
    kept_updates: KeptUpdates | None = Field(
        default=None, description="updates that the server destroyed; left out if it kept none"
    )

    @property
    def chosen(self) -> Try:
        """The attempt whose model was kept. Raises LookupError if it is not among them."""
        for attempt in self.attempts:
            if attempt.number == self.chosen_attempt:
                return attempt
        raise LookupError(f"the receipt has no attempt {self.chosen_attempt}")


def schema() -> dict[str, Any]:
    """The JSON Schema of the payload (draft 2020-12)."""
    made = Receipt.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **made}
