"""Preconditioning of the network, D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (EDM Table 1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.interfaces import Denoiser, expand
from core.schedules import cosine_table
from core.types import FlatState, Latents, Tangent


@dataclass(frozen=True)
class Coefficients:
    """The four factors at given noise levels, each [B]."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


Precondition = Callable[[Tensor], Coefficients]


@dataclass(frozen=True)
class EDMPrecondition:
    """Unit variance of input and target for data of standard deviation sigma_data."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            skip=self.sigma_data**2 / total,
            out=sigma * self.sigma_data * total.rsqrt(),
            into=total.rsqrt(),
            noise=sigma.log() / 4,
        )


@dataclass(frozen=True)
class VPPrecondition:
    """F predicts the noise; c_noise = (M - 1) t."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    timesteps: int = 1000

    def __call__(self, sigma: Tensor) -> Coefficients:
        # The inverse of VPPath.sigma. Not by log1p: published weights have learned the rounding of ln(1 + sigma^2) in
        # float32, which Fourier embeddings amplify.
        t = ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), (self.timesteps - 1) * t)


@dataclass(frozen=True)
class VEPrecondition:
    """F predicts the negative noise; c_noise = ln(sigma / 2)."""

    def __call__(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (sigma / 2).log())


@dataclass(frozen=True)
class IDDPMPrecondition:
    """F predicts the noise at the nearest entry of the cosine table; c_noise is that entry's time index."""

    def __call__(self, sigma: Tensor) -> Coefficients:
        table = cosine_table().to(sigma.device)
        index = (table - sigma.double()[:, None]).abs().argmin(-1)
        time = (len(table) - 2 - index).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), time)


class PreconditionedDenoiser(Denoiser):
    """Score of one flat field from a raw network F(x, c_noise, latents, batch).

    The state may be float64 (samplers) while the network runs in its own precision, in which c_noise is computed as in
    training; the skip connection is always added in the state's precision.
    """

    def __init__(self, network: nn.Module, precondition: Precondition, field: str = "x") -> None:
        super().__init__()
        self.network, self.precondition, self.field = network, precondition, field

    def denoise(self, x: Tensor, sigma: Tensor, latents: Latents | None, batch: Any) -> Tensor:
        """D(x; sigma, z, c), an estimate of the clean sample; x [B, ...], sigma [B]."""
        c = self.precondition(sigma)
        dtype = next(self.network.parameters()).dtype
        noise = c.noise if sigma.dtype == dtype else self.precondition(sigma.to(dtype)).noise.to(dtype)
        raw: Tensor = self.network((expand(c.into, x) * x).to(dtype), noise, latents, batch)
        return expand(c.skip, x) * x + expand(c.out, x) * raw.to(x.dtype)

    def forward(self, state: FlatState, level: Tensor, latents: Latents | None, batch: Any) -> Tangent:
        """(D(x; sigma) - x) / sigma^2."""
        x = state[self.field]
        sigma = level.to(x.dtype)
        return {self.field: (self.denoise(x, sigma, latents, batch) - x) / expand(sigma, x) ** 2}
