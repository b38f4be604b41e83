"""Which noise levels are trained, and how much each counts (EDM Table 1; Kingma & Gao 2023, "VDM++")."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.rng import SampleStreams
from core.schedules import VPPath, cosine_table


class NoiseDistribution(ABC):
    """p(sigma) of training."""

    @abstractmethod
    def sample(self, streams: SampleStreams) -> Float[Tensor, " b"]:
        """One level per sample, float32."""

    @abstractmethod
    def log_density(self, log_sigma: Tensor) -> Tensor:
        """log of the density of ln sigma."""


@dataclass(frozen=True)
class LogNormal(NoiseDistribution):
    """ln sigma ~ N(mean, std^2) (EDM). A resolution shift is added to the mean."""

    mean: float = -1.2
    std: float = 1.2

    def sample(self, streams: SampleStreams) -> Tensor:
        return (streams.normal(1)[:, 0] * self.std + self.mean).exp()

    def log_density(self, log_sigma: Tensor) -> Tensor:
        return -0.5 * ((log_sigma - self.mean) / self.std) ** 2 - math.log(self.std * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class LogUniform(NoiseDistribution):
    """ln sigma uniform on [ln low, ln high] (the VE loss of Song et al. 2021: 0.02 to 100)."""

    low: float = 0.02
    high: float = 100.0

    def sample(self, streams: SampleStreams) -> Tensor:
        return self.low * (self.high / self.low) ** streams.uniform(1)[:, 0]

    def log_density(self, log_sigma: Tensor) -> Tensor:
        inside = (log_sigma >= math.log(self.low)) & (log_sigma <= math.log(self.high))
        height = -math.log(math.log(self.high / self.low))
        return torch.where(inside, torch.full_like(log_sigma, height), torch.full_like(log_sigma, -torch.inf))


@dataclass(frozen=True)
class LinearBeta(NoiseDistribution):
    """sigma(t) of the linear-beta path at uniform t in [eps_t, 1] (the VP loss)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    eps_t: float = 1e-5

    def sample(self, streams: SampleStreams) -> Tensor:
        t = 1 + streams.uniform(1)[:, 0] * (self.eps_t - 1)
        return VPPath(self.beta_d, self.beta_min).sigma(t)

    def log_density(self, log_sigma: Tensor) -> Tensor:
        path, sigma = VPPath(self.beta_d, self.beta_min), log_sigma.exp()
        t = path.time(sigma)
        inside = (t >= self.eps_t) & (t <= 1)
        density = (sigma / path.sigma_rate(t)).log() - math.log1p(-self.eps_t)
        return torch.where(inside, density, torch.full_like(density, -torch.inf))


@dataclass(frozen=True)
class CosineTable(NoiseDistribution):
    """A uniformly drawn entry of the iDDPM table (which is discrete: it has no density)."""

    def sample(self, streams: SampleStreams) -> Tensor:
        table = cosine_table()[:-1].to(streams.ids.device)
        return table[(streams.uniform(1)[:, 0] * len(table)).long()].float()

    def log_density(self, log_sigma: Tensor) -> Tensor:
        raise ValueError("iDDPM's discrete noise levels have no density; use a weighting that needs none")


@dataclass(frozen=True)
class EDMWeighting:
    """lambda(sigma) = (sigma^2 + sd^2) / (sigma sd)^2."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


def inverse_square(sigma: Tensor) -> Tensor:
    """lambda(sigma) = 1 / sigma^2: the noise-prediction loss of VP, VE and iDDPM."""
    return sigma**-2


@dataclass(frozen=True)
class MonotonicWeighting:
    """EDM's effective weight, held at its maximum for all noise above the maximiser (VDM++ "EDM-monotonic").

    In VDM++'s form the loss is an integral over ln sigma of w(ln sigma) ||eps - eps_hat||^2, and EDM's effective
    weight is w = N(ln sigma; mean, std^2) (sigma^2 + sd^2). Dividing by the density that the levels are really drawn
    from keeps the integral the same for every noise distribution. Below the maximiser, with EDM's own log-normal
    levels, it equals ``EDMWeighting``. ``shift`` moves the weight by ln(resolution / 64) to higher noise.
    """

    drawn_from: NoiseDistribution
    sigma_data: float = 0.5
    mean: float = -1.2
    std: float = 1.2
    shift: float = 0.0

    def log_weight(self, log_sigma: Tensor) -> Tensor:
        """ln w without the cap, at unshifted ln sigma."""
        normal = LogNormal(self.mean, self.std).log_density(log_sigma)
        return normal + (torch.exp(2 * log_sigma) + self.sigma_data**2).log()

    @property
    def maximiser(self) -> float:
        """ln sigma where ``log_weight`` is largest: root of -(u - mean)/std^2 + 2 sigma^2/(sigma^2 + sd^2)."""
        low, high = self.mean, self.mean + 2 * self.std**2
        for _ in range(80):
            u = 0.5 * (low + high)
            square = math.exp(2 * u)
            slope = (self.mean - u) / self.std**2 + 2 * square / (square + self.sigma_data**2)
            low, high = (u, high) if slope > 0 else (low, u)
        return low

    def __call__(self, sigma: Tensor) -> Tensor:
        log_sigma = sigma.log()
        capped = (log_sigma - self.shift).clamp(max=self.maximiser)
        # 1/sigma^2 turns the noise-prediction error into that of D; 1/sd^2 is EDM's normalisation.
        log_lambda = self.log_weight(capped) - self.drawn_from.log_density(log_sigma) - 2 * log_sigma
        return log_lambda.exp() / self.sigma_data**2


def resolution_shift(resolution: int, reference: int = 64) -> float:
    """What is added to ln sigma at another resolution: log-SNR moves by 2 ln(reference/resolution) [recalled from
    simple diffusion / VDM++, Hoogeboom et al. 2023; the DisCo-Diff paper names the shift but not the number]."""
    return math.log(resolution / reference)
