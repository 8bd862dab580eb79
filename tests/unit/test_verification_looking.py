"""Looking at a model: what takes long is done beside the event loop, which goes on answering."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from server.verification import looking
from server.verification.looking import Eyes
from server.verification.server_data import Looking, Sight


class BlindEyes(Eyes):
    """Asks nobody."""

    async def _through_clients(self, flat: torch.Tensor) -> dict[Any, Any]:
        return {}

    async def _through_server(self, flat: torch.Tensor) -> Sight:
        return Sight()


async def test_the_attacks_are_not_computed_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one imports scikit-learn, for which a busy server was deaf for 13 s."""
    threads: list[threading.Thread] = []

    def figures_of(groups: object, *, seed: int) -> dict[str, float]:
        threads.append(threading.current_thread())
        return {"auc": seed / 10}

    monkeypatch.setattr(looking, "figures_of", figures_of)
    federation = SimpleNamespace(defaults=SimpleNamespace(seed=5), eligible=set)
    eyes = BlindEyes(cast("Any", federation), cast("Any", None), (), Looking())

    seen = await eyes.look(torch.zeros(1))

    assert seen.figures == {"auc": 0.5}
    assert threads != [threading.main_thread()]
