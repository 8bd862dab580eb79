"""A receipt with something in every field, and a key that is the same in every run."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fednot.receipt import Receipt, SigningKey
from fednot.receipt.payload import (
    Cache,
    ChainHead,
    ClientCaches,
    CurvePoint,
    ForgottenScope,
    Judgement,
    LossHistogram,
    Measured,
    Model,
    PhaseEntry,
    Try,
    Verified,
    VersionHash,
)

START = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)


def golden_key(seed: str = "golden") -> SigningKey:
    """A key made of a text that everybody knows: it signs nothing but tests."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey.from_private_pem(pem)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def sample_receipt(key: SigningKey | None = None, **values: Any) -> Receipt:
    """What a deep deletion of a client and of a person's samples might leave."""
    first = _attempt(1, "behaviour only", "fail", ("features.0.weight",), start=9)
    second = _attempt(2, "both", "pass", ("features.0.weight", "features.3.weight"), start=13)
    fields: dict[str, Any] = {
        "format": 1,
        "statement": "empirically verified, as far as the verdicts say; not proven",
        "federation": sha("federation")[:32],
        "job_id": "job-0123456789ab",
        "request_ids": ("withdrawal-2026-17",),
        "scopes": _scopes(),
        "method_asked": "not",
        "layers_asked": "first",
        "unsafe_layers_allowed": False,
        "method_done": second.method,
        "tensors": second.tensors,
        "assurance": "deep",
        "attempts": (first, second),
        "chosen_attempt": 2,
        "initial": _model(1, 0),
        "base": _model(8, 0),
        "result": _model(16, 2),
        "released": True,
        "target_accuracy": 0.95,
        "recovery_rounds": 3,
        "participants": 4,
        "behaviour": second.verification.behaviour if second.verification else None,
        "depth": second.verification.depth if second.verification else None,
        "destroyed": tuple(VersionHash(number=n, sha256=sha(f"v{n}")) for n in range(2, 16)),
        "held": (),
        "client_caches": _caches(),
        "clients_unacknowledged": 1,
        "aborted_rounds": (8,),
        "history": _history(),
        "ledger": ChainHead(entries=3, sha256=sha("ledger")),
        "audit": ChainHead(entries=41, sha256=sha("audit")),
        "software": "fednot 0.1.0",
        "issued_at": at(12),
        "key_id": (key or golden_key()).id,
    }
    return Receipt(**(fields | values))


def _scopes() -> tuple[ForgottenScope, ...]:
    told = {"clients_told": 1, "clients_confirmed": 1}
    return (
        ForgottenScope(
            **{"kind": "client", "client": f"p-{sha('c3')[:32]}", "label": None, "count": None},
            sha256=None,
            clients_told=0,
            clients_confirmed=0,
        ),
        ForgottenScope(
            kind="samples",
            client=f"p-{sha('c1')[:32]}",
            label=None,
            count=17,
            sha256=sha("ids"),
            **told,
        ),
        ForgottenScope(
            kind="class",
            client=None,
            label=7,
            count=411,
            sha256=None,
            clients_told=4,
            clients_confirmed=4,
        ),
    )


def _caches() -> tuple[ClientCaches, ...]:
    cache = Cache(kind="residual", sha256=sha("residual"), num_bytes=4096)
    return (
        ClientCaches(client=f"p-{sha('c1')[:32]}", acknowledged_at=at(11.5), destroyed=(cache,)),
        ClientCaches(client=f"p-{sha('c2')[:32]}", acknowledged_at=at(11.6), destroyed=()),
    )


def _history() -> tuple[PhaseEntry, ...]:
    phases = ("queued", "negating", "recovering", "verifying", "completed")
    return tuple(PhaseEntry(phase=each, at=at(n)) for n, each in enumerate(phases))


def _model(number: int, generation: int) -> Model:
    return Model(number=number, sha256=sha(f"v{number}"), generation=generation)


def _attempt(number: int, reason: str, depth: Any, tensors: tuple[str, ...], start: int) -> Try:
    scores = (0.81, 0.93, 0.957)
    rounds = tuple(
        CurvePoint(round=start + n, version=start + n, figures={"accuracy": score, "loss": 0.2})
        for n, score in enumerate(scores, 1)
    )
    return Try(
        number=number,
        method="not",
        tensors=tensors,
        warnings=(),
        outcome="succeeded",
        stop_reason="target",
        explanation="accuracy 0.957 reached the target 0.950",
        rung=number - 1,
        start=_model(start, number),
        end=_model(start + 3, number),
        participants=4,
        rounds=rounds,
        verification=_verified(reason, depth),
    )


def _verified(reason: str, depth: Any) -> Verified:
    figures = {"retained_accuracy": 0.961, "forgotten_accuracy": 0.93, "membership_auc": 0.503}
    undone = {"forgotten_accuracy": 0.31, "membership_auc": 0.498}
    return Verified(
        behaviour=Judgement(verdict="pass", reason=f"{reason}: the AUC lies within 0.5 +- 0.1"),
        depth=Judgement(verdict=depth, reason="the undo attack was made"),
        thresholds={"auc_margin": 0.1, "trigger_margin": 0.1},
        findings=(
            Measured(model="recovered", rounds=0, figures=figures),
            Measured(model="undone: features.0.weight", rounds=2, figures=undone),
        ),
        forgotten_losses=LossHistogram(counts=_bell(24), correct=90),
        unseen_losses=LossHistogram(counts=_bell(25), correct=91),
        probe_sha256=None,
        found_at=at(9),
    )


def _bell(centre: int) -> tuple[int, ...]:
    return tuple(max(0, 20 - (n - centre) ** 2) for n in range(42))
