"""Server momentum: a new model goes on by a share of the last step (FedAvgM, Hsu et al. 2019).

"Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
arXiv 1909.06335. With v = theta_t - theta_(t-1) and the mean of the updates D, theta_(t+1) =
theta_t + D + beta * v is its rule v' = beta * v + D, theta + v', with server learning rate 1.
"""

from __future__ import annotations

import torch

from fednot.errors import FednotError, Reason
from fednot.manifest import Manifest, TensorKind
from fednot.runs import PIECE_ELEMENTS
from server.aggregation.finite import first_not_finite


def add_momentum(
    mean: torch.Tensor,
    current: torch.Tensor,
    previous: torch.Tensor,
    manifest: Manifest,
    beta: float,
) -> None:
    """Adds beta * (current - previous) to `mean`, in place: flat models, uint8 [nbytes].

    `mean` is the model that a round made of `current`, which a round had made of `previous`.
    Floating parameters alone have momentum; buffers and integers stay the mean's. It is worked out
    in float64 and rounded once to the model's dtype. Raises FednotError (NOT_FINITE) if a tensor
    would hold NaN or Inf; then `mean` is half done and of no use.
    """
    for spec in manifest:
        if spec.kind is not TensorKind.PARAMETER or not spec.torch_dtype.is_floating_point:
            continue
        place = slice(spec.byte_offset, spec.byte_offset + spec.nbytes)
        new, now, before = (
            flat[place].view(spec.torch_dtype) for flat in (mean, current, previous)
        )
        for start in range(0, spec.numel, PIECE_ELEMENTS):
            piece = slice(start, start + PIECE_ELEMENTS)
            step = now[piece].double().sub_(before[piece].double())
            new[piece].copy_(step.mul_(beta).add_(new[piece].double()))
            if first_not_finite(new[piece]) is not None:
                raise FednotError(
                    Reason.NOT_FINITE, f"the momentum of recovery makes {spec.name} NaN or Inf"
                )
