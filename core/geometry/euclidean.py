"""Flat space: images, points, any tensor. x(t) = s(t) (y + sigma(t) n) along a noise path."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from core.interfaces import Geometry, expand
from core.rng import SampleStreams
from core.schedules import EDMPath, Path
from core.types import Batch, Corrupted, FlatState, Tangent

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Euclidean(Geometry[FlatState]):
    """Named fields in flat space under one noise path.

    shapes: field name -> shape of one sample; weighting: sigma [B] -> lambda(sigma) [B], the weight of
    ||D(x; sigma) - y||^2 in the loss; dimensions: D of PFGM++ (Xu et al. 2023), None for diffusion, its limit.
    PFGM++'s kernel p_r(x | y) ~ (|x - y|^2 + r^2)^(-(N + D)/2) at r = sigma sqrt(D) is a multivariate Student t of D
    degrees of freedom and scale sigma. The denoiser estimates E[y | x], and the ODE dx/dsigma = (x - D(x))/sigma is the
    same: what is called a score is then (D(x) - x)/sigma^2.
    """

    shapes: Mapping[str, tuple[int, ...]]
    path: Path = field(default_factory=EDMPath)
    weighting: Weighting = torch.ones_like
    dimensions: int | None = None
    flat: ClassVar[bool] = True

    def noise_level(self, t: Tensor) -> Tensor:
        return self.path.sigma(t)

    def time_at(self, level: Tensor) -> Tensor:
        return self.path.time(level)

    def sigma(self, state: FlatState, t: Tensor) -> Tangent:
        level = self.path.sigma(t)
        return {name: expand(level, x) for name, x in state.items()}

    def diffusivity(self, state: FlatState, t: Tensor) -> Tangent:
        """s^2 d sigma^2/dt: the variance rate of the physical state."""
        rate = 2 * self.path.scale(t) ** 2 * self.path.sigma(t) * self.path.sigma_rate(t)
        return {name: expand(rate, x) for name, x in state.items()}

    def corrupt(self, clean: FlatState, t: Tensor, streams: SampleStreams) -> Corrupted[FlatState]:
        """x = y + sigma n; target (y - x)/sigma^2; weight lambda sigma^4, so that the loss is lambda ||D - y||^2."""
        sigma = self.path.sigma(t)
        noise = self._noise(self.draw(clean, streams), streams)
        return Corrupted(
            state={name: y + expand(sigma, y) * noise[name] for name, y in clean.items()},
            target={name: -noise[name] / expand(sigma, y) for name, y in clean.items()},
            weight={name: expand(self.weighting(sigma) * sigma**4, y) for name, y in clean.items()},
        )

    def sample_noise(self, batch: Batch, t: Tensor, streams: SampleStreams) -> FlatState:
        """s(t) sigma(t) n in float64: the start of sampling."""
        size = self.path.scale(t) * self.path.sigma(t)
        noise = {name: streams.normal(*shape, dtype=torch.float64) for name, shape in self.shapes.items()}
        return {name: expand(size, n) * n for name, n in self._noise(noise, streams).items()}

    def _noise(self, gaussian: Tangent, streams: SampleStreams) -> Tangent:
        """What disturbs data at sigma = 1: with D dimensions n / sqrt(chi^2_D / D), one chi^2 per sample."""
        if self.dimensions is None:
            return gaussian
        square = streams.normal(self.dimensions, dtype=torch.float64).square().mean(1)
        return {name: n * expand(square.rsqrt().to(n.dtype), n) for name, n in gaussian.items()}

    @property
    def gaussian(self) -> bool:
        return self.dimensions is None

    def draw(self, state: FlatState, streams: SampleStreams) -> Tangent:
        return {name: streams.normal(*x.shape[1:], dtype=x.dtype) for name, x in state.items()}

    def retract(self, state: FlatState, step: Tangent) -> FlatState:
        return {name: x + step[name] for name, x in state.items()}

    def distance(self, first: FlatState, second: FlatState) -> Tensor:
        """Euclidean distance over all fields."""
        return sum((x - second[name]).square().flatten(1).sum(1) for name, x in first.items()).sqrt()  # type: ignore[union-attr]

    def concatenate(self, states: Sequence[FlatState]) -> FlatState:
        return {name: torch.cat([s[name] for s in states]) for name in states[0]}

    def split(self, tangent: Tangent, parts: int) -> list[Tangent]:
        pieces = {name: x.chunk(parts) for name, x in tangent.items()}
        return [{name: chunk[i] for name, chunk in pieces.items()} for i in range(parts)]

    def canonical(self, state: FlatState, t: Tensor) -> FlatState:
        """x / s(t)."""
        return {name: x / expand(self.path.scale(t), x) for name, x in state.items()}

    def physical(self, state: FlatState, t: Tensor) -> FlatState:
        """s(t) x."""
        return {name: x * expand(self.path.scale(t), x) for name, x in state.items()}

    def velocity(self, state: FlatState, t: Tensor, score: Tangent) -> Tangent:
        """dx/dt = (s'/s) x - s sigma' sigma score(x/s; sigma) (EDM Eq. 4)."""
        path = self.path
        shrink = path.scale_rate(t) / path.scale(t)
        pull = path.scale(t) * path.sigma_rate(t) * path.sigma(t)
        return {name: expand(shrink, x) * x - expand(pull, x) * score[name] for name, x in state.items()}
