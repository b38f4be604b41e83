"""Stochastic samplers: EDM's churn, Euler-Maruyama, DDPM, Restart, low temperature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from core.errors import RequestError
from core.guidance import ScoreField
from core.interfaces import scalar_times
from core.rng import SampleStreams
from core.samplers.base import (
    Callback,
    OneStep,
    Sampler,
    Step,
    add_noise,
    check_levels,
    check_noise,
    level_at,
    raised_time,
)
from core.samplers.ode import Heun
from core.schedules import rho_levels


@dataclass(frozen=True)
class Churn(OneStep):
    """EDM's stochastic sampler (EDM Alg. 2): raise the noise a little, then take an ODE step from there.

    s_churn: total amount, gamma = min(s_churn / steps, sqrt 2 - 1) per step while s_min <= level <= s_max;
    s_noise: standard deviation of the fresh noise; solver: the ODE step.
    """

    adds_noise: ClassVar[bool] = True
    s_churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003
    solver: OneStep = field(default_factory=Heun)

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        check_levels(field.geometry, "churn")
        inside = self.s_min <= level_at(field.geometry, t) <= self.s_max
        gamma = min(self.s_churn / steps, math.sqrt(2) - 1) if inside else 0.0
        t_up = raised_time(field.geometry, t, 1 + gamma)
        # Noise is drawn at gamma = 0 too: a sample's stream then does not depend on the interval.
        state = add_noise(field, state, t, t_up, streams, self.s_noise)
        return self.solver.step(field, state, t_up, t_next, streams, steps)


@dataclass(frozen=True)
class EulerMaruyama(OneStep):
    """The reverse SDE (DisCo-Diff Eq. 1 with beta = sigma'/sigma): twice the ODE's score term, and fresh noise.

    No noise is added in the last step.
    """

    adds_noise: ClassVar[bool] = True

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        geometry, now, dt = field.geometry, scalar_times(t, len(streams)), t_next - t
        score = field.score(state, t)
        drift = geometry.velocity(state, now, {name: 2 * value for name, value in score.items()})
        noise = geometry.draw(state, streams)
        if level_at(geometry, t_next) == 0:
            return geometry.retract(state, {name: dt * value for name, value in drift.items()})
        diffusivity = geometry.diffusivity(state, now)
        step = {name: dt * v + (diffusivity[name] * dt.abs()).sqrt() * noise[name] for name, v in drift.items()}
        return geometry.retract(state, step)


@dataclass(frozen=True)
class DDPM(OneStep):
    """Ancestral sampling from q(x_s | x_t, x_0 = D): the step of DDPM (Ho et al. 2020) in variance-exploding form.

    x_s = x_t + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_s^2 (sigma_t^2 - sigma_s^2) / sigma_t^2) n.
    """

    adds_noise: ClassVar[bool] = True

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        geometry = field.geometry
        now, then = scalar_times(t, len(streams)), scalar_times(t_next, len(streams))
        canonical = geometry.canonical(state, now)
        score, noise = field.score(state, t), geometry.draw(canonical, streams)
        high, low = geometry.sigma(canonical, now), geometry.sigma(canonical, then)
        step = {}
        for name, value in score.items():
            removed = high[name] ** 2 - low[name] ** 2
            step[name] = removed * value + low[name] / high[name] * removed.sqrt() * noise[name]
        return geometry.physical(geometry.retract(canonical, step), then)


@dataclass(frozen=True)
class RestartInterval:
    """``repeats`` times: noise from low up to high, then ``points`` - 1 ODE steps back on a rho = 7 grid."""

    points: int
    repeats: int
    low: float
    high: float


# "623 NFE" setting for ImageNet-64 of Xu et al. 2023 (github.com/Newbeeer/diffusion_restart_sampling,
# params_imagenet_edm.txt), which DisCo-Diff takes over unchanged; with 36 main steps: 71 + 552 evaluations.
IMAGENET64_623 = (
    RestartInterval(10, 3, 19.35, 40.79),
    RestartInterval(10, 3, 1.09, 1.92),
    RestartInterval(7, 6, 0.59, 1.09),
    RestartInterval(7, 6, 0.30, 0.59),
    RestartInterval(7, 25, 0.06, 0.30),
)


@dataclass(frozen=True)
class Restart(Sampler):
    """Restart sampling (Xu et al. 2023): Heun, and where the main grid comes nearest to an interval's low end, the
    interval is repeated: strong noise up to its high end, ODE back.

    Inside intervals a churn of gamma acts where s_min <= level <= s_max; s_noise scales all fresh noise. The low end
    is moved to the nearest point of the main grid; an interval above the grid's first point is left out.
    """

    adds_noise: ClassVar[bool] = True
    default_steps: ClassVar[int | None] = 36
    intervals: tuple[RestartInterval, ...] = IMAGENET64_623
    gamma: float = 0.05
    s_min: float = 0.01
    s_max: float = 1.0
    s_noise: float = 1.003

    def run(
        self, field: ScoreField, state: Any, times: Tensor, streams: SampleStreams, callback: Callback | None = None
    ) -> Any:
        geometry, steps, solver = field.geometry, len(times) - 1, Heun()
        check_noise(geometry, self)
        check_levels(geometry, "restart-623")
        levels = geometry.noise_level(times[:-1])
        places = [int((levels - interval.low).abs().argmin()) for interval in self.intervals]
        for index in range(steps):
            if callback is not None:
                callback(Step(index, times[index], state))
            state = solver.step(field, state, times[index], times[index + 1], streams, steps)
            for place, interval in zip(places, self.intervals, strict=True):
                for _ in range(interval.repeats if place == index + 1 else 0):
                    state = self._restart(field, state, times[index + 1], interval, streams)
        return state

    def _restart(
        self, field: ScoreField, state: Any, t_low: Tensor, interval: RestartInterval, streams: SampleStreams
    ) -> Any:
        geometry, solver = field.geometry, Heun()
        levels = rho_levels(interval.points, level_at(geometry, t_low), interval.high)
        times = geometry.time_at(levels.to(t_low.device))
        state = add_noise(field, state, t_low, times[0], streams, self.s_noise)
        for t, t_next in pairwise(times):
            inside = self.s_min <= level_at(geometry, t) <= self.s_max
            t_up = raised_time(geometry, t, 1 + self.gamma) if inside else t
            state = add_noise(field, state, t, t_up, streams, self.s_noise)
            state = solver.step(field, state, t_up, t_next, streams, interval.points)
        return state


@dataclass(frozen=True)
class LowTemperature(OneStep):
    """Low-temperature reverse SDE of the authors' docking code (disco-diffdock, MIT; per field).

    step = g^2 dt (lambda + T psi / 2) score + g sqrt(dt (1 + psi)) n, with g^2 = d sigma^2/dt and
    lambda = (s + sigma) / (s + sigma / T), an inverse temperature: T at large noise, 1 at small. Where the path scales,
    its drift is added. T = 1 is the plain reverse SDE. Every parameter is one number or a mapping from field to number.
    temperature: T > 1 is colder; psi: extra Langevin noise; sigma_data: s, in units of the field. The last step adds
    no noise.
    """

    adds_noise: ClassVar[bool] = True
    temperature: float | Mapping[str, float] = 1.5
    psi: float | Mapping[str, float] = 0.0
    sigma_data: float | Mapping[str, float] = 0.5

    def step(self, field: ScoreField, state: Any, t: Tensor, t_next: Tensor, streams: SampleStreams, steps: int) -> Any:
        geometry, now, dt = field.geometry, scalar_times(t, len(streams)), t_next - t
        score, noise = field.score(state, t), geometry.draw(state, streams)
        sigma, diffusivity = geometry.sigma(state, now), geometry.diffusivity(state, now)
        pull, spread = {}, {}
        for name, value in score.items():
            cold, psi, data = (_of(p, name) for p in (self.temperature, self.psi, self.sigma_data))
            psi = 0.0 if cold == 1 else psi  # the authors' code takes T = 1 as "plain SDE", psi ignored
            strength = (data + sigma[name]) / (data + sigma[name] / cold) + cold * psi / 2
            pull[name], spread[name] = 2 * strength * value, 1 + psi
        move = {name: dt * drift for name, drift in geometry.velocity(state, now, pull).items()}
        if level_at(geometry, t_next) > 0:
            for name, extra in spread.items():
                move[name] = move[name] + (diffusivity[name] * extra * dt.abs()).sqrt() * noise[name]
        return geometry.retract(state, move)


def _of(value: float | Mapping[str, float], name: str) -> float:
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise RequestError(f"the sampler low-temperature was given no number for the field '{name}'")
    return value[name]
