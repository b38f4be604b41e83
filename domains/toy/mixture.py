"""The paper's 2-D mixture of eight Gaussians, with everything about it in closed form (DisCo-Diff appendix F.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.rng import SampleStreams, inverse_cdf


@dataclass(frozen=True)
class Mixture:
    """Equal mixture of N(mean_k, spread^2 I). means: [K, 2]."""

    means: Float[Tensor, "k 2"]
    spread: float = 0.2

    @staticmethod
    def eight(radius: float = 3.0, spread: float = 0.2) -> "Mixture":
        """Eight means on a circle, 45 degrees apart. 0.2 is read as the standard deviation: the paper writes
        N(mu, sigma I) but adds sigma^2 to t^2 in the network [inferred]."""
        angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
        return Mixture(radius * torch.stack([angles.cos(), angles.sin()], dim=1), spread)

    @property
    def std(self) -> float:
        """Standard deviation of one coordinate of the mixture."""
        return math.sqrt(float(self.means.square().mean()) + self.spread**2)

    def balanced(self, per_mode: int, streams: SampleStreams) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
        """The same number of points from every component, and their components; one stream per point."""
        mode = torch.arange(len(self.means)).repeat_interleave(per_mode)
        noise = streams.normal(2, dtype=torch.float64)
        return self.means[mode] + self.spread * noise, mode

    def independent(self, streams: SampleStreams) -> Float[Tensor, "n 2"]:
        """One independent draw from the mixture per stream."""
        equal = torch.ones(len(streams), len(self.means))
        mode = inverse_cdf(equal, streams.uniform(1)[:, 0])
        return self.means[mode] + self.spread * streams.normal(2, dtype=torch.float64)

    def log_density(self, x: Float[Tensor, "b 2"], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln p(x; sigma), p the mixture convolved with N(0, sigma^2 I)."""
        variance = (sigma**2 + self.spread**2)[:, None]
        square = (x[:, None] - self.means).square().sum(-1)
        terms = -square / (2 * variance) - (2 * math.pi * variance).log()
        return torch.logsumexp(terms, dim=1) - math.log(len(self.means))

    def score(self, x: Float[Tensor, "b 2"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b 2"]:
        """Gradient of ``log_density`` with respect to x."""
        variance = (sigma**2 + self.spread**2)[:, None]
        weight = torch.softmax(-(x[:, None] - self.means).square().sum(-1) / (2 * variance), dim=1)
        return (weight @ self.means - x) / variance

    def component_score(
        self, x: Float[Tensor, "b 2"], sigma: Float[Tensor, " b"], mode: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 2"]:
        """Score of one component: what is left to learn once a latent names the mode."""
        return (self.means[mode] - x) / (sigma**2 + self.spread**2)[:, None]

    def nearest(self, x: Float[Tensor, "b 2"]) -> Int[Tensor, " b"]:
        """The component whose mean is nearest."""
        return torch.cdist(x.to(self.means), self.means).argmin(1)
