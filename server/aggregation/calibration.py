"""FedEraser's calibration: a new update's direction with the length that the stored one had.

Liu et al., "FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning
Models", IWQoS 2021, arXiv 2012.13891: |U_k| * new / |new|. The paper has it by client, the authors'
code by tensor and of the mean of all clients. Here it is by tensor; whose update is stored is the
caller's choice.
"""

from __future__ import annotations

import torch

from fednot.manifest import Manifest, TensorKind, TensorSpec
from fednot.runs import PIECE_ELEMENTS


def calibrated(stored: torch.Tensor, new: torch.Tensor, manifest: Manifest) -> torch.Tensor:
    """A new flat update: each floating parameter of `new` with the L2 norm that it has in `stored`.

    Both are flat updates, uint8 [nbytes], and not written to. A parameter that is all zeros in
    `new` has no direction and stays so; buffers and integers are those of `new`. Norms and products
    are worked out in float64 and rounded once to the dtype. Raises ValueError for another size.
    """
    for flat in (stored, new):
        if flat.numel() != manifest.nbytes:
            raise ValueError(f"the update has {flat.numel()} bytes, not {manifest.nbytes}")
    result = new.clone()
    _calibrate(stored, result, manifest)
    return result


def _calibrate(stored: torch.Tensor, new: torch.Tensor, manifest: Manifest) -> None:
    for spec in manifest:
        if spec.kind is not TensorKind.PARAMETER or not spec.torch_dtype.is_floating_point:
            continue
        length, into = _norm(_view(stored, spec)), _view(new, spec)
        if now := _norm(into):
            for piece in torch.split(into, PIECE_ELEMENTS):
                piece.copy_(piece.double().mul_(length / now))


def _view(flat: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    return flat[spec.byte_offset : spec.byte_offset + spec.nbytes].view(spec.torch_dtype)


def _norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) if values.numel() else 0.0
