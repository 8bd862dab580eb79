"""Two models' weights mixed by frequency: the low ones of one, the high ones of the other.

Source: frequency-guided memory preservation of FCU (Deng, Luo, Chen, MICCAI 2024, arXiv 2407.02356,
and github.com/dzp2095/FCU): general knowledge is taken to be in a weight's low frequencies. A
convolution's weight (N, C, D1, D2) is laid out as a matrix (C*D1, D2*N), a linear layer's stays; of
its 2-D Fourier transform the amplitudes in a centred window are one model's, the rest the other's.

Ours: weights of three dimensions are laid out as (C*D1, N), of more as (C*D1, D2*...*N). The phase
is that of the model whose high frequencies are kept. The window is symmetric, |k| <= b with
b = floor(ratio * n / 2) along each axis, where the authors' code takes k = -b to b - 1: so the mix
of two real weights is real, and a ratio of 1 holds all frequencies. With b = 0 it is empty, as in
their code: at a ratio of 0.5, the 3 rows of a 3x3 convolution of grey images keep nothing.
"""

from __future__ import annotations

import math

import torch


def fuses(weight: torch.Tensor) -> bool:
    """Whether a weight has a plane of frequencies: two or more dimensions of more than one."""
    return sum(size > 1 for size in weight.shape) >= 2


@torch.no_grad()
def fused(low: torch.Tensor, high: torch.Tensor, ratio: float) -> torch.Tensor:
    """`high` with the low frequencies' amplitudes of `low`; floats of one shape of 2 or more dims.

    `ratio` from 0 (gives `high`) to 1 (all amplitudes are those of `low`) sizes the window.
    """
    low_plane, high_plane = _plane(low), _plane(high)
    of_low, of_high = torch.fft.fft2(low_plane), torch.fft.fft2(high_plane)
    window = _window(of_high.shape, ratio).to(of_high.device)
    amplitude = torch.where(window, of_low.abs(), of_high.abs())
    mixed = torch.fft.ifft2(torch.polar(amplitude, of_high.angle())).real
    return _from_plane(mixed, high.shape).to(high.dtype)


def _plane(weight: torch.Tensor) -> torch.Tensor:
    values = weight.detach()
    values = values if values.dtype is torch.float64 else values.float()
    if values.dim() == 2:
        return values
    rows = values.shape[1] * values.shape[2]
    return values.movedim(0, -1).reshape(rows, -1)


def _from_plane(plane: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if len(shape) == 2:
        return plane
    return plane.reshape(*shape[1:], shape[0]).movedim(-1, 0)


def _window(shape: torch.Size, ratio: float) -> torch.Tensor:
    """Which frequencies are low, bool [rows, columns], in the order of torch.fft."""
    rows, columns = (_low(size, ratio) for size in shape)
    return rows[:, None] & columns[None, :]


def _low(size: int, ratio: float) -> torch.Tensor:
    reach = math.floor(size * ratio / 2)
    step = torch.arange(size)
    distance = torch.minimum(step, size - step)
    if ratio >= 1:
        return torch.ones(size, dtype=torch.bool)
    return (distance <= reach) & torch.tensor(reach > 0)
