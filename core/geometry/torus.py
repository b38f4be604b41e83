"""The wrapped normal distribution on the circle: the law of a torsion angle after Gaussian noise of level sigma.

density(a) = sum_k N(a + 2 pi k; 0, sigma^2). Everything is evaluated in float64 and returned in the type of the input.
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from core.geometry.tables import LogTable

# The first Fourier coefficient exp(-sigma^2 / 2) is 1e-14 at 8: from there on the law is uniform. Up to there the
# images beyond the 11th hold less than exp(-36) of it.
_UNIFORM = 8.0
_IMAGES = 11
_LOWEST = 0.05  # below, the norm is 1 / sigma to the last digit


def wrap(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The same angle in [-pi, pi]; one that lies there is returned bit for bit."""
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()


def density(angle: Float[Tensor, "..."], sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Probability per radian; the shapes broadcast. It can underflow to 0."""
    images, spread = _images(angle, sigma)
    value = (-0.5 * (images / spread).square()).exp().sum(-1) / (math.sqrt(2 * math.pi) * spread[..., 0])
    return value.to(angle.dtype)


def score(angle: Float[Tensor, "..."], sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """d log density / d angle; the shapes broadcast. Finite for every sigma > 0 (softmax over the images)."""
    images, spread = _images(angle, sigma)
    weights = torch.softmax(-0.5 * (images / spread).square(), dim=-1)
    return (-(weights * images).sum(-1) / spread[..., 0].square()).to(angle.dtype)


def score_norm(sigma: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Root mean square of the score under the density, by quadrature."""
    return (_log_norms(sigma.device)(sigma).exp() / sigma.double()).to(sigma.dtype)


def _images(angle: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """All images of the angle [..., 2 K + 1], and sigma [..., 1], where the law is not uniform yet."""
    shifts = 2 * math.pi * torch.arange(-_IMAGES, _IMAGES + 1, dtype=torch.float64, device=angle.device)
    images, spread = torch.broadcast_tensors(wrap(angle.double()), sigma.double().clamp(max=_UNIFORM))
    return images[..., None] + shifts, spread[..., None]


@lru_cache(maxsize=8)
def _log_norms(device: torch.device) -> LogTable:
    """log(sigma norm): smooth, and 0 for a small sigma."""
    levels = LogTable.points(_LOWEST, _UNIFORM, 512)
    # The trapezium rule converges exponentially for an even function on a circle; the score vanishes at 0 and pi.
    angles = torch.linspace(0, math.pi, 129, dtype=torch.float64, device="cpu")
    square = score(angles, levels[:, None]).square() * density(angles, levels[:, None])
    norms = (square.sum(-1) * (2 * math.pi / 128)).sqrt()
    return LogTable(_LOWEST, _UNIFORM, (levels * norms).log()).to(device)
