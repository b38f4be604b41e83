"""Solvers of the probability-flow ODE: Euler, Heun, DPM-Solver++(2M)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import ConfigError, RequestError
from core.guidance import ScoreField
from core.interfaces import scalar_times
from core.rng import SampleStreams
from core.samplers.base import Callback, OneStep, Sampler, Step, combined, level_at, scaled
from core.types import Tangent


@dataclass(frozen=True)
class Euler(OneStep):
    """First order, one network evaluation per step."""

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        return field.geometry.retract(state, scaled(field.velocity(state, t), t_next - t))


@dataclass(frozen=True)
class Heun(OneStep):
    """Second-order Runge-Kutta; a plain Euler step where the next time is noise-free (EDM Alg. 1).

    alpha: place of the second evaluation, 1 = Heun, 1/2 = midpoint, 2/3 = Ralston (EDM Alg. 3). On a curved geometry
    the two tangents are averaged in the frame of the first point: they differ by O(dt), so the commutator this leaves
    out is of third order and the method stays second order.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"option 'alpha' of sampler 'heun' must be above 0 and at most 1, not {self.alpha}")

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        geometry, dt = field.geometry, t_next - t
        first = field.velocity(state, t)
        if level_at(geometry, t_next) == 0:
            return geometry.retract(state, scaled(first, dt))
        ahead = geometry.retract(state, scaled(first, self.alpha * dt))
        second = field.velocity(ahead, t + self.alpha * dt)
        b = 1 / (2 * self.alpha)
        return geometry.retract(state, scaled(combined(first, second, 1 - b, b), dt))


@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M) of Lu et al. 2022 in data prediction; second order with one evaluation per step.

    Uses the previous step's denoised state, so it needs a flat geometry. The last step, to noise-free, is first order.
    """

    def run(
        self, field: ScoreField, state: Any, times: Tensor, streams: SampleStreams, callback: Callback | None = None
    ) -> Any:
        geometry = field.geometry
        if not geometry.flat:
            raise RequestError("the sampler dpmpp-2m needs a flat geometry: use heun")
        previous: tuple[Tangent, float] | None = None  # denoised state, ln of the level ratio of that step
        for index in range(len(times) - 1):
            t, t_next = times[index], times[index + 1]
            if callback is not None:
                callback(Step(index, t, state))
            now = scalar_times(t, len(streams))
            canonical = geometry.canonical(state, now)
            sigma = geometry.sigma(canonical, now)
            score = field.score(state, t)
            denoised = {name: x + sigma[name] ** 2 * score[name] for name, x in canonical.items()}
            ratio = level_at(geometry, t_next) / level_at(geometry, t)
            h = -torch.tensor(ratio, dtype=torch.float64).log().item()
            target: Tangent = denoised
            if previous is not None and ratio > 0:
                half = 0.5 * h / previous[1]  # 1 / (2 r), r = h_previous / h
                target = combined(denoised, previous[0], 1 + half, -half)
            moved = {name: ratio * x + (1 - ratio) * target[name] for name, x in canonical.items()}
            state = geometry.physical(moved, scalar_times(t_next, len(streams)))
            previous = (denoised, h)
        return state
