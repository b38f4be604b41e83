"""Noise paths sigma(t), s(t), and grids of noise levels to sample on (Karras et al. 2022, "EDM", Table 1)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


class Path(ABC):
    """x(t) = s(t) (y + sigma(t) n). All functions work elementwise on tensors of times."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...
    @abstractmethod
    def sigma_rate(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Inverse of ``sigma``."""

    def scale(self, t: Tensor) -> Tensor:
        """s(t)."""
        return torch.ones_like(t)

    def scale_rate(self, t: Tensor) -> Tensor:
        """ds / dt."""
        return torch.zeros_like(t)


@dataclass(frozen=True)
class EDMPath(Path):
    """sigma(t) = t, s = 1: the path of EDM and of DisCo-Diff."""

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def sigma_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma


@dataclass(frozen=True)
class VEPath(Path):
    """sigma(t) = sqrt(t), s = 1 (Song et al. 2021, variance exploding)."""

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def sigma_rate(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return sigma**2


@dataclass(frozen=True)
class VPPath(Path):
    """sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, s = 1 / sqrt(1 + sigma^2): linear beta, variance preserving.

    ``scaled=False`` keeps the schedule and leaves the scaling away (s = 1).
    """

    beta_d: float = 19.9
    beta_min: float = 0.1
    scaled: bool = True

    @staticmethod
    def through(sigma_min: float, sigma_max: float, eps_t: float = 1e-3, scaled: bool = True) -> "VPPath":
        """The path with sigma(eps_t) = sigma_min and sigma(1) = sigma_max."""
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        beta_d = 2 * (low / eps_t - high) / (eps_t - 1)
        return VPPath(beta_d, high - 0.5 * beta_d, scaled)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t).sqrt()

    def sigma_rate(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_min + self.beta_d * t) * (sigma + 1 / sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return ((self.beta_min**2 + 2 * self.beta_d * torch.log1p(sigma**2)).sqrt() - self.beta_min) / self.beta_d

    def scale(self, t: Tensor) -> Tensor:
        return (1 + self.sigma(t) ** 2).rsqrt() if self.scaled else torch.ones_like(t)

    def scale_rate(self, t: Tensor) -> Tensor:
        if not self.scaled:
            return torch.zeros_like(t)
        return -self.sigma(t) * self.sigma_rate(t) * self.scale(t) ** 3


PATHS: dict[str, type[Path]] = {"edm": EDMPath, "ve": VEPath, "vp": VPPath}


def rho_levels(steps: int, low: float, high: float, rho: float = 7.0) -> Float[Tensor, " n"]:
    """sigma_i = (high^(1/rho) + i/(N-1) (low^(1/rho) - high^(1/rho)))^rho (EDM Eq. 5)."""
    ramp = _ramp(steps)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def geometric_levels(steps: int, low: float, high: float) -> Float[Tensor, " n"]:
    """Geometric grid, sigma_i = high (low/high)^(i/(N-1)): the VE discretisation, and docking's sigma(t)."""
    return high * (low / high) ** _ramp(steps)


def linear_beta_levels(steps: int, low: float, high: float, eps_t: float = 1e-3) -> Float[Tensor, " n"]:
    """Levels at equally spaced times 1..eps_t of the linear-beta path through low and high (VP discretisation)."""
    return VPPath.through(low, high, eps_t).sigma(1 + _ramp(steps) * (eps_t - 1))


@lru_cache(maxsize=8)
def cosine_table(size: int = 1000, c1: float = 1e-3, c2: float = 8e-3) -> Float[Tensor, " n"]:
    """iDDPM's noise levels u_0 > ... > u_size = 0 from the cosine schedule (EDM Table 1, iDDPM)."""

    def alpha_bar(j: int) -> float:
        return math.sin(0.5 * math.pi * j / size / (c2 + 1)) ** 2

    table = [0.0] * (size + 1)
    for j in range(size, 0, -1):
        table[j - 1] = math.sqrt((table[j] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), c1) - 1)
    return torch.tensor(table, dtype=torch.float64)


def cosine_levels(steps: int, low: float, high: float) -> Float[Tensor, " n"]:
    """Entries of the cosine table between low and high, evenly picked by index."""
    table = cosine_table()
    inside = table[(table >= low) & (table <= high)]
    return inside[((len(inside) - 1) * _ramp(steps)).round().long()]


def _ramp(steps: int) -> Tensor:
    """0 .. 1 in ``steps`` points (one point: 0)."""
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def sampling_levels(kind: str, steps: int, low: float, high: float, rho: float = 7.0) -> Float[Tensor, " n"]:
    """[steps + 1] decreasing levels that end in 0. kind: rho, geometric, linear-beta or cosine."""
    levels = {
        "rho": lambda: rho_levels(steps, low, high, rho),
        "geometric": lambda: geometric_levels(steps, low, high),
        "linear-beta": lambda: linear_beta_levels(steps, low, high),
        "cosine": lambda: cosine_levels(steps, low, high),
    }[kind]()
    return torch.cat([levels, levels.new_zeros(1)])
