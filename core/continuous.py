"""The paper's continuous-latent baseline (DisCo-Diff Table 3): Gaussian latents, a KL weight, a diffusion prior.

M latents of D dimensions each, so that M x D matches the discrete model's M x K. The prior is a diffusion model on
the latents with the same Transformer as the autoregressive prior ("DiT-style").
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.errors import RequestError
from core.geometry import Euclidean
from core.guidance import ScoreField
from core.latents import LatentSpace
from core.losses import denoising_loss
from core.noise import EDMWeighting, LogNormal
from core.precondition import EDMPrecondition, PreconditionedDenoiser
from core.prior import PriorOptions
from core.rng import SampleStreams
from core.samplers import Heun
from core.schedules import sampling_levels
from core.transformer import Condition, Transformer, fourier_features
from core.types import Batch, LatentLogits, Latents

SIGMA_LATENT = 1.0  # the KL pulls the latents towards unit variance
SAMPLING_STEPS = 40


class LatentDenoiserNet(nn.Module):
    """Raw network over M latent tokens with one more token for noise level and condition."""

    def __init__(
        self, count: int, dims: int, width: int, depth: int, heads: int, dropout: float, condition: Condition
    ) -> None:
        super().__init__()
        self.condition = condition
        self.into = nn.Linear(dims, width)
        self.position = nn.Parameter(torch.randn(count, width) * 0.02)
        self.noise = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = Transformer(width, depth, heads, dropout)
        self.out = nn.Linear(width, dims)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, noise: Tensor, latents: Latents | None, batch: Batch) -> Tensor:
        """x: [B, M, D] scaled noisy latents; noise: [B] c_noise. Returns [B, M, D]."""
        level = self.noise(fourier_features(noise, self.position.shape[1]))
        token = self.condition(batch.size, batch.label, batch.vector) + level
        tokens = torch.cat([token[:, None], self.into(x) + self.position], dim=1)
        result: Tensor = self.out(self.transformer(tokens)[:, 1:])
        return result


@dataclass(frozen=True)
class GaussianSpace(LatentSpace):
    """M Gaussian latents of ``dims`` dimensions; the encoder gives means and log-variances."""

    discrete: ClassVar[bool] = False
    count: int
    dims: int
    kl_weight: float = 0.1

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.dims

    @property
    def encoder_width(self) -> int:  # type: ignore[override]
        return 2 * self.dims

    def encode(self, encoding: LatentLogits, streams: SampleStreams) -> Tensor:
        mean, log_variance = encoding.values.float().chunk(2, dim=-1)
        noise = streams.normal(*mean.shape[1:]).to(mean.device)
        return mean + (0.5 * log_variance).exp() * noise

    def extract(self, encoding: LatentLogits, streams: SampleStreams) -> Tensor:
        return self.encode(encoding, streams)

    def penalty(self, encoding: LatentLogits) -> Tensor:
        """kl_weight x KL(q(z|y) || N(0, 1)) per latent dimension."""
        mean, log_variance = encoding.values.float().chunk(2, dim=-1)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
        return self.kl_weight * divergence.flatten(1).mean(1)

    def prior_loss(self, prior: nn.Module, batch: Any, values: Tensor, streams: SampleStreams) -> Tensor:
        """EDM loss on the latents."""
        latent_batch = Batch(batch.ids, {"z": values}, batch.label, batch.vector)
        levels = LogNormal(mean=-0.4, std=1.2).sample(streams)
        return denoising_loss(prior, self._geometry(), latent_batch, levels, None, streams)  # type: ignore[arg-type]

    @torch.no_grad()
    def sample(self, prior: nn.Module, batch: Any, streams: SampleStreams, options: PriorOptions) -> Tensor:
        """Heun on the latent diffusion. ``temperature`` scales the initial noise; codes cannot be fixed here."""
        if options.fixed is not None or options.top_p < 1:
            raise RequestError("fixed codes and top-p need discrete latents; this model's are Gaussian")
        times = sampling_levels("rho", SAMPLING_STEPS, 0.002, 80.0).to(streams.ids.device)
        start = times[:1].expand(len(streams)) * math.sqrt(options.temperature)
        field = ScoreField(prior, self._geometry(), batch)
        noise = field.geometry.sample_noise(batch, start, streams)
        return Heun().run(field, noise, times, streams)["z"].float()

    def _geometry(self) -> Euclidean:
        return Euclidean({"z": (self.count, self.dims)}, weighting=EDMWeighting(SIGMA_LATENT))

    def build_prior(self, width: int, depth: int, heads: int, dropout: float, condition: Condition) -> nn.Module:
        """The untrained diffusion prior."""
        network = LatentDenoiserNet(self.count, self.dims, width, depth, heads, dropout, condition)
        return PreconditionedDenoiser(network, EDMPrecondition(SIGMA_LATENT), field="z")
