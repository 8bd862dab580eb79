"""FUKD: subtract what the client sent, then distil (Wu, Zhu and Mitra 2022, arXiv 2201.09441).

The server was told to keep updates (--keep-updates). What the forgotten client's updates added to
the model, each by its weight in its round, is taken off; then the model before is distilled into
what is left, on data of the server's own (`Task.proxy_data`). Where only every N-th round was kept,
each kept update stands for N of them, which is ours. Temperature 3 and five passes are ours, too:
the paper gives no values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch

from server.methods.distillation import Distillation
from server.methods.fresh import learned
from server.methods.from_base import FromBase
from server.methods.method import Needs, ServerStep, Step, StepContext


class Fukd(FromBase):
    """Take the target's updates off the model and repair it by distillation, then recovery."""

    name: ClassVar[str] = "fukd"
    needs: ClassVar[Needs] = Needs(history=True, proxy=True)

    def steps(self, _context: StepContext) -> int:
        """Two: the subtraction, the distillation."""
        return 2

    def step(self, number: int, context: StepContext) -> Step:
        """Raises ValueError if the server has no Task or no proxy data."""
        if number == 1:
            return ServerStep(partial(_subtracted, context))
        task, proxy, start = context.task, context.proxy, context.start
        if task is None or proxy is None:
            raise ValueError("FUKD needs a Task on the server whose proxy_data() gives data")

        def distil(cancelled: Callable[[], bool]) -> torch.Tensor:
            student = context.made[-1]()
            how = Distillation(seed=start.seed)
            return how.distilled(task, start.base, student, proxy, start.manifest, cancelled)

        return ServerStep(distil)


def _subtracted(context: StepContext, cancelled: Callable[[], bool]) -> torch.Tensor:
    """The model without what the forgotten clients' updates added; its buffers stay."""
    result, manifest = context.made[-1]().clone(), context.start.manifest
    for past in context.history:
        examples = sum(update.num_examples for update in past.updates)
        for update in past.updates:
            if update.client not in context.forgotten or cancelled():
                continue
            flat, weight = update.load(), past.stride * update.num_examples / examples
            for spec in manifest:
                if learned(spec):
                    place = slice(spec.byte_offset, spec.byte_offset + spec.nbytes)
                    into, sent = (each[place].view(spec.torch_dtype) for each in (result, flat))
                    into.copy_(into.double() - weight * sent.double())
    return result
