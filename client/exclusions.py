"""What a client cannot do together, each with the reason: refused at the start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from torch import nn

from client.privacy import Privacy
from fednot import distributed
from fednot.privacy.costs import PrivacyError, is_installed
from fednot.task import SampleDataset, Task


class ExcludedError(ValueError):
    """Two settings, or a setting and a Task, that exclude each other; the message says why."""


@dataclass(frozen=True)
class Tried:
    """What a client would train with."""

    task: Task
    model: nn.Module
    train_data: SampleDataset
    privacy: Privacy


NO_OPACUS: Final = "no Opacus"
OWN_TRAINING: Final = "a Task with a train() of its own"
RANKS: Final = "torchrun"
BEFORE: Final = "earlier training without noise"
MODEL: Final = "BatchNorm and other layers that mix samples or that Opacus does not know"

EXCLUSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        NO_OPACUS: "it clips each sample's gradient; install it by `pip install 'fednot[privacy]'`",
        OWN_TRAINING: "only the built-in loop clips and adds noise; leave train() out",
        RANKS: "the steps of several ranks are not accounted for; train with one process",
        BEFORE: "what those updates told has no bound; if the data is other data, take a new "
        "--state-dir, else train without --dp-noise",
        MODEL: "a sample's gradient must be its own; GroupNorm and LayerNorm take its place",
    }
)
"""What excludes --dp-noise, with the reason and what to do."""


def check(tried: Tried) -> None:
    """Raises ExcludedError for the first row of the table that holds."""
    if tried.privacy.noise is None:
        return
    for what, holds in _HOLDS.items():
        said = holds(tried)
        if said is not None:
            detail = f" ({said})" if said else ""
            raise ExcludedError(f"--dp-noise excludes {what}{detail}: {EXCLUSIONS[what]}")


def _no_opacus(_: Tried) -> str | None:
    return None if is_installed() else ""


def _own_training(tried: Tried) -> str | None:
    return None if type(tried.task).train is Task.train else type(tried.task).__name__


def _ranks(_: Tried) -> str | None:
    size = distributed.world_size()
    return f"{size} ranks" if size > 1 else None


def _before(tried: Tried) -> str | None:
    return str(tried.privacy.path) if tried.privacy.history.unprotected else None


def _model(tried: Tried) -> str | None:
    from fednot.privacy import suitability

    try:
        suitability.check(tried.task, tried.model, tried.train_data)
    except PrivacyError as error:
        return str(error)
    return None


_HOLDS: Final[Mapping[str, Callable[[Tried], str | None]]] = MappingProxyType(
    {
        NO_OPACUS: _no_opacus,
        OWN_TRAINING: _own_training,
        RANKS: _ranks,
        BEFORE: _before,
        MODEL: _model,
    }
)
"""How each is seen: None if it does not hold, else what was seen."""
