"""What a sampler is: it carries a state of noise along a decreasing grid of times."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from core.errors import RequestError
from core.guidance import ScoreField
from core.interfaces import Geometry, scalar_times
from core.rng import SampleStreams
from core.types import Tangent


@dataclass(frozen=True)
class Step:
    """What a callback is told before every step: its number, its time and the physical state there."""

    index: int
    t: Tensor
    state: Any


Callback = Callable[[Step], None]


class Sampler(ABC):
    """Solves the reverse process on a grid of times.

    default_steps: steps that belong to the sampler's published setting; None: the model's own; adds_noise: whether it
    adds Gaussian noise on the way.
    """

    default_steps: ClassVar[int | None] = None
    adds_noise: ClassVar[bool] = False

    @abstractmethod
    def run(
        self, field: ScoreField, state: Any, times: Tensor, streams: SampleStreams, callback: Callback | None = None
    ) -> Any:
        """State at ``times[-1]``, from the physical ``state`` at ``times[0]``.

        times: [N + 1] decreasing, float64; the last one may be noise-free. streams: one per sample, for the noise of
        stochastic samplers.
        """


class OneStep(Sampler):
    """A sampler whose steps do not depend on earlier ones."""

    @abstractmethod
    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        """State at ``t_next`` (scalar tensor) from the state at ``t``; ``steps`` is the length of the whole run."""

    def run(
        self, field: ScoreField, state: Any, times: Tensor, streams: SampleStreams, callback: Callback | None = None
    ) -> Any:
        check_noise(field.geometry, self)
        steps = len(times) - 1
        for index in range(steps):
            if callback is not None:
                callback(Step(index, times[index], state))
            state = self.step(field, state, times[index], times[index + 1], streams, steps)
        return state


def level_at(geometry: Geometry[Any], t: Tensor) -> float:
    """Noise level of a scalar time."""
    return float(geometry.noise_level(scalar_times(t, 1))[0])


def scaled(tangent: Tangent, factor: Tensor | float) -> Tangent:
    """factor x tangent, per field."""
    return {name: factor * value for name, value in tangent.items()}


def combined(first: Tangent, second: Tangent, a: float = 1.0, b: float = 1.0) -> Tangent:
    """a first + b second, per field."""
    return {name: a * value + b * second[name] for name, value in first.items()}


def add_noise(
    field: ScoreField, state: Any, t: Tensor, t_up: Tensor, streams: SampleStreams, noise_scale: float = 1.0
) -> Any:
    """Forward process from t up to the noisier t_up: variance sigma(t_up)^2 - sigma(t)^2, times noise_scale^2."""
    geometry, size = field.geometry, len(streams)
    low, high = scalar_times(t, size), scalar_times(t_up, size)
    clean = geometry.canonical(state, low)
    noise = geometry.draw(clean, streams)
    sigma_low, sigma_high = geometry.sigma(clean, low), geometry.sigma(clean, high)
    step = {
        name: noise_scale * (sigma_high[name] ** 2 - sigma_low[name] ** 2).clamp(min=0).sqrt() * value
        for name, value in noise.items()
    }
    return geometry.physical(geometry.retract(clean, step), high)


def check_noise(geometry: Geometry[Any], sampler: Sampler) -> None:
    """Raises RequestError for a sampler that adds Gaussian noise where the model's noise is another."""
    if sampler.adds_noise and not geometry.gaussian:
        raise RequestError(
            "this sampler adds Gaussian noise, and the model's noise is PFGM++'s: use euler, heun or dpmpp-2m"
        )


def check_levels(geometry: Geometry[Any], sampler: str) -> None:
    """Raises RequestError where a sampler that multiplies noise levels meets levels that are no multiples of sigma."""
    if not geometry.level_is_sigma:
        raise RequestError(f"the sampler {sampler} needs noise levels that are sigma: use heun or low-temperature here")


def raised_time(geometry: Geometry[Any], t: Tensor, factor: float) -> Tensor:
    """The time whose noise level is ``factor`` times that of t."""
    return geometry.time_at(factor * geometry.noise_level(scalar_times(t, 1)))[0].to(torch.float64)
