"""Samplers: order of convergence, cost, exact distributions, independence of the batch, and their options."""

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from core.errors import ConfigError, RequestError
from core.geometry import Euclidean
from core.guidance import ScoreField
from core.rng import SampleStreams
from core.samplers import SAMPLERS, make_sampler
from core.samplers.base import Sampler, Step
from core.samplers.mixed import Mixed, Segment, run_segments
from core.samplers.ode import DPMSolver2M, Euler, Heun
from core.samplers.sde import DDPM, Churn, EulerMaruyama, LowTemperature, Restart, RestartInterval
from core.schedules import EDMPath, Path, VEPath, VPPath, rho_levels, sampling_levels
from core.types import Batch
from domains.toy.mixture import Mixture
from tests.support import exact_field, streams

MEAN, SPREAD = 1.0, 0.5  # of the Gaussian target
PATHS = [EDMPath(), VEPath(), VPPath()]
MIXTURE = Mixture.eight()
ORDERS: list[tuple[Sampler, int]] = [
    (Euler(), 1), (Heun(), 2), (Heun(alpha=0.5), 2), (Heun(alpha=2 / 3), 2), (DPMSolver2M(), 2),
]  # fmt: skip
SHORT = (RestartInterval(10, 2, 1.09, 1.92), RestartInterval(7, 3, 0.06, 0.30))
STOCHASTIC: list[tuple[Sampler, int]] = [  # sampler, and steps at which its own bias of the variance is at most 4 %
    (Churn(s_churn=20.0, s_noise=1.0), 80), (EulerMaruyama(), 150), (LowTemperature(temperature=1.0), 150),
    (DDPM(), 200), (Mixed(threshold=2.0, high=Heun(), low=DDPM()), 200), (Restart(SHORT, s_noise=1.0), 18),
]  # fmt: skip
every_path = pytest.mark.parametrize("path", PATHS, ids=str)


def gaussian_field(size: int, path: Path | None = None) -> ScoreField:
    """Exact score of N(MEAN, SPREAD^2)."""

    def score(state: Mapping[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        return {"x": (MEAN - state["x"]) / (SPREAD**2 + level[:, None] ** 2)}

    return ScoreField(score, Euclidean({"x": (2,)}, path or EDMPath()), Batch(torch.arange(size)))


def zero_field(size: int) -> ScoreField:
    """Nothing moves but by noise."""
    return ScoreField(lambda state, *_: {"x": 0 * state["x"]}, Euclidean({"x": (2,)}), Batch(torch.arange(size)))


def grid(steps: int, path: Path | None = None, high: float = 20.0) -> Tensor:
    return (path or EDMPath()).time(sampling_levels("rho", steps, 0.01, high))


def solve(sampler: Sampler, field: ScoreField, times: Tensor, size: int, ids: list[int] | None = None) -> Tensor:
    """From pure noise to the end of the grid."""
    stream = SampleStreams(0, ids or range(size), "test")
    start = field.geometry.sample_noise(Batch(torch.arange(size)), times[:1].expand(size), stream)
    return sampler.run(field, start, times, stream)["x"]


@lru_cache
def flow(target: str) -> tuple[Tensor, Tensor]:
    """16 canonical states at level 5, and where the exact ODE takes them at level 0.5."""
    start = 5 * streams(16).normal(2, dtype=torch.float64)
    if target == "gaussian":
        return start, MEAN + (start - MEAN) * math.sqrt((SPREAD**2 + 0.25) / (SPREAD**2 + 25))

    def slope(sigma: float, x: np.ndarray) -> np.ndarray:
        at = torch.full((16,), sigma, dtype=torch.float64)
        return (-sigma * MIXTURE.score(torch.from_numpy(x).reshape(16, 2), at)).numpy().ravel()

    solution = integrate.solve_ivp(slope, (5, 0.5), start.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-11)
    return start, torch.from_numpy(solution.y[:, -1]).reshape(16, 2)


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=str)
@pytest.mark.parametrize(("target", "path"), [("gaussian", VPPath()), ("mixture", EDMPath()), ("mixture", VEPath())])
def test_order_of_convergence(sampler: Sampler, order: int, target: str, path: Path) -> None:
    # (The midpoint rule is of third order on a Gaussian under EDM's path, by a coincidence of that equation.)
    field = gaussian_field(16, path) if target == "gaussian" else exact_field(16, path)
    start, end = flow(target)
    counts, errors = [40, 80, 160], []
    for steps in counts:
        times = path.time(rho_levels(steps + 1, 0.5, 5.0))
        state = {"x": start * path.scale(times[0])}
        found = sampler.run(field, state, times, streams(16))["x"] / path.scale(times[-1])
        errors.append(float((found - end).norm()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.2


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [(Euler(), 9), (Heun(), 17), (Heun(alpha=0.5), 17), (DPMSolver2M(), 9), (DDPM(), 9), (EulerMaruyama(), 9),
     (LowTemperature(), 9), (Churn(), 17), (Mixed(threshold=0.5), 9 + 5)],
    ids=str,
)  # fmt: skip
def test_network_evaluations_of_nine_steps(sampler: Sampler, expected: int) -> None:
    field, times = gaussian_field(1), grid(9)
    assert int((times > 0.5).sum()) == 5  # Heun steps of the mixed sampler
    solve(sampler, field, times, 1)
    assert field.nfe == expected


def test_restart_with_36_steps_takes_623_evaluations() -> None:
    field = gaussian_field(1)
    solve(Restart(), field, sampling_levels("rho", 36, 0.002, 80.0), 1)
    assert field.nfe == 623


@pytest.mark.parametrize("path", [EDMPath(), VPPath()], ids=str)
@pytest.mark.parametrize(("sampler", "steps"), STOCHASTIC, ids=lambda v: type(v).__name__)
def test_stochastic_samplers_reproduce_a_gaussian(sampler: Sampler, steps: int, path: Path) -> None:
    n = 2000
    x = solve(sampler, gaussian_field(n, path), grid(steps, path), n)
    # The start is centred at 0 with variance 20^2; the Gaussian itself would be at MEAN, and wider by SPREAD^2.
    assert (x.mean(0) - MEAN).abs().max() < 4.5 * SPREAD / math.sqrt(n) + MEAN * SPREAD / 20
    assert abs(float(x.var()) / SPREAD**2 - 1) < 4 * math.sqrt(2 / (2 * n)) + 0.04


@pytest.mark.parametrize(("sampler", "steps"), STOCHASTIC, ids=lambda v: type(v).__name__)
def test_stochastic_samplers_reproduce_the_mixture(sampler: Sampler, steps: int) -> None:
    n = 1600
    x = solve(sampler, exact_field(n), grid(steps), n)
    mode = MIXTURE.nearest(x)
    spread = float((x - MIXTURE.means[mode]).square().mean().sqrt())
    assert abs(spread / 0.2 - 1) < 4 / math.sqrt(2 * 2 * n) + 0.04
    counts = torch.bincount(mode, minlength=8)
    assert (counts - n / 8).abs().max() < 4.5 * math.sqrt(n * 7 / 64)


@every_path
def test_deterministic_samples_do_not_depend_on_the_path(path: Path) -> None:
    reference = solve(Heun(), exact_field(8), grid(150), 8)
    torch.testing.assert_close(solve(Heun(), exact_field(8, path), grid(150, path), 8), reference, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    sampler, times = make_sampler(name), grid(12)
    together, alone = solve(sampler, exact_field(4), times, 4), solve(sampler, exact_field(1), times, 1, [2])
    torch.testing.assert_close(alone, together[2:3], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_callback_sees_every_step(name: str) -> None:
    seen: list[Step] = []
    times, start = grid(7), {"x": 20 * streams(2).normal(2, dtype=torch.float64)}
    make_sampler(name).run(gaussian_field(2), start, times, streams(2), seen.append)
    assert [step.index for step in seen] == list(range(7))
    assert [float(step.t) for step in seen] == times[:-1].tolist()
    assert torch.equal(seen[0].state["x"], start["x"])
    assert all((a.state["x"] != b.state["x"]).any() for a, b in pairwise(seen))


@every_path
def test_churn_without_noise_is_heun(path: Path) -> None:
    heun, churn = (solve(s, exact_field(4, path), grid(10, path), 4) for s in (Heun(), Churn(s_churn=0.0)))
    if path == EDMPath():
        assert torch.equal(churn, heun)
    torch.testing.assert_close(churn, heun)  # elsewhere up to the rounding of time_at(noise_level(t))


@pytest.mark.parametrize(
    ("s_churn", "level", "gamma"), [(1.0, 2.0, 0.1), (100.0, 2.0, math.sqrt(2) - 1), (1.0, 5.1, 0.0), (1.0, 0.9, 0.0)]
)
def test_churn_raises_the_level_by_gamma_inside_its_interval(s_churn: float, level: float, gamma: float) -> None:
    sampler, zero = Churn(s_churn, s_min=1.0, s_max=5.0, s_noise=1.1), {"x": torch.zeros(3, 2, dtype=torch.float64)}
    t, t_next = torch.tensor([level, 0.5 * level], dtype=torch.float64)
    moved = sampler.step(zero_field(3), zero, t, t_next, streams(3), steps=10)["x"]
    added = level * math.sqrt((1 + gamma) ** 2 - 1) * 1.1
    torch.testing.assert_close(moved, added * streams(3).normal(2, dtype=torch.float64))


def test_restart_adds_the_noise_of_its_interval_and_a_churn_inside() -> None:
    sampler = Restart((RestartInterval(3, 2, 1.0, 4.0),), gamma=0.1, s_min=3.0, s_max=9.0, s_noise=1.2)
    noise, middle = streams(3), float(rho_levels(3, 1.0, 4.0)[1])
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for level, raised in [(1.0, 4.0), (4.0, 4.4), (middle, middle)] * 2:  # the middle is outside [s_min, s_max]
        expected += 1.2 * math.sqrt(raised**2 - level**2) * noise.normal(2, dtype=torch.float64)
    times, start = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64), {"x": torch.zeros_like(expected)}
    torch.testing.assert_close(sampler.run(zero_field(3), start, times, streams(3))["x"], expected)


def test_the_multistep_solver_extrapolates_the_denoised_state_by_hand() -> None:
    x, size = {"x": 4 * streams(3).normal(2, dtype=torch.float64)}, 3
    levels = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)

    def denoised(x: Tensor, level: Tensor) -> Tensor:
        return x + level**2 * MIXTURE.score(x, level.expand(size))

    first = denoised(x["x"], levels[0])
    middle = 0.25 * x["x"] + 0.75 * first
    # r = ln 4 / ln 2 = 2, so the weights are 1 + 1/(2 r) and -1/(2 r).
    end = 0.5 * middle + 0.5 * (1.25 * denoised(middle, levels[1]) - 0.25 * first)
    torch.testing.assert_close(DPMSolver2M().run(exact_field(size), x, levels, streams(size))["x"], end)


def test_a_ddpm_step_is_the_posterior_of_ancestral_sampling() -> None:
    field, x = exact_field(3), {"x": streams(3, purpose="x").normal(2, dtype=torch.float64)}
    t, s = torch.tensor([2.0, 1.5], dtype=torch.float64)
    denoised = x["x"] + t**2 * MIXTURE.score(x["x"], t.expand(3))
    mean = s**2 / t**2 * x["x"] + (1 - s**2 / t**2) * denoised
    noise = streams(3).normal(2, dtype=torch.float64)
    expected = mean + (s**2 * (t**2 - s**2) / t**2).sqrt() * noise
    torch.testing.assert_close(DDPM().step(field, x, t, s, streams(3), 1)["x"], expected)


@every_path
def test_low_temperature_of_one_is_the_reverse_sde(path: Path) -> None:
    cold = solve(LowTemperature(temperature=1.0, psi=3.0), exact_field(4, path), grid(50, path), 4)
    plain = solve(EulerMaruyama(), exact_field(4, path), grid(50, path), 4)
    torch.testing.assert_close(cold, plain)


def test_a_low_temperature_step_by_hand() -> None:
    sampler = LowTemperature({"x": 2.0}, {"x": 0.5}, {"x": 0.3})
    field, x = exact_field(3), {"x": streams(3, purpose="x").normal(2, dtype=torch.float64)}
    t, t_next = torch.tensor([2.0, 1.9], dtype=torch.float64)
    variance = 2 * 2.0 * 0.1  # g^2 dt with g^2 = d t^2 / dt
    strength = (0.3 + 2.0) / (0.3 + 2.0 / 2.0) + 2.0 * 0.5 / 2
    step = variance * strength * MIXTURE.score(x["x"], t.expand(3))
    noise = math.sqrt(variance * 1.5) * streams(3).normal(2, dtype=torch.float64)
    torch.testing.assert_close(sampler.step(field, x, t, t_next, streams(3), 1)["x"], x["x"] + step + noise)
    end = sampler.step(field, x, t, 0 * t, streams(3), 1)["x"]
    torch.testing.assert_close(end, x["x"] + step * 2.0 / 0.1)  # the last step adds no noise


def test_lower_temperatures_give_narrower_samples() -> None:
    widths = [
        float(solve(LowTemperature(temperature=t), gaussian_field(500), grid(50), 500).std()) for t in (1.0, 1.5, 3.0)
    ]
    assert widths[1] < 0.9 * widths[0]
    assert widths[2] < 0.9 * widths[1]


@pytest.mark.parametrize(("threshold", "pure"), [(1e3, Heun()), (0.0, Euler()), (0.005, Euler())])
def test_mixed_with_all_levels_on_one_side_is_one_sampler(threshold: float, pure: Sampler) -> None:
    mixed = solve(Mixed(threshold, high=Euler(), low=Heun()), exact_field(4), grid(10), 4)
    assert torch.equal(mixed, solve(pure, exact_field(4), grid(10), 4))


@pytest.mark.parametrize("place", [1, 4, 9])
@pytest.mark.parametrize("offset", [0.0, 1e-9])
def test_mixed_switches_at_the_first_level_not_above_the_threshold(place: int, offset: float) -> None:
    times, other = grid(10), exact_field(4)
    field = exact_field(4)
    mixed = solve(Mixed(float(times[place]) + offset, Euler(), Heun(), low_field=other), field, times, 4)
    assert other.nfe == 2 * (10 - place) - 1
    assert field.nfe == place + other.nfe
    segments = [Segment(Euler(), times[: place + 1]), Segment(Heun(), times[place:])]
    start = {"x": times[0] * streams(4).normal(2, dtype=torch.float64)}
    assert torch.equal(mixed, run_segments(segments, exact_field(4), start, streams(4))["x"])


def test_options_reach_the_sampler() -> None:
    assert make_sampler("heun", {"alpha": 0.5}) == Heun(alpha=0.5)
    assert make_sampler("churn", {"s_churn": 3.0, "solver": "euler"}) == Churn(s_churn=3.0, solver=Euler())
    assert make_sampler("mixed", {"threshold": 2.0, "high": "dpmpp-2m"}) == Mixed(2.0, high=DPMSolver2M())
    assert make_sampler("low-temperature", {"psi": {"x": 1.0}}) == LowTemperature(psi={"x": 1.0})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rk4", {}, "unknown sampler 'rk4'; known: euler, heun"),
        ("euler", {"alpha": 1.0}, "'euler' has no option 'alpha'; it has: none"),
        ("heun", {"alhpa": 1.0}, "'heun' has no option 'alhpa'; it has: alpha"),
        ("mixed", {"low_field": 1.0}, "no option 'low_field'"),
        ("restart-623", {"intervals": 1.0}, "no option 'intervals'"),
        ("heun", {"alpha": "much"}, "must be a number, not 'much'"),
        ("heun", {"alpha": True}, "must be a number, not True"),
        ("heun", {"alpha": None}, "must be a number"),
        ("heun", {"alpha": {"x": 1.0}}, "alpha"),
        ("mixed", {"high": "rk4"}, "unknown sampler 'rk4'"),
        ("mixed", {"high": ["heun"]}, "heun"),
        ("churn", {"solver": "dpmpp-2m"}, "solver"),
        ("low-temperature", {"psi": {"x": "much"}}, "psi"),
    ],
)
def test_wrong_names_and_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sampler(name, options)


def test_the_multistep_solver_refuses_curved_spaces() -> None:
    class Curved(Euclidean):
        flat: ClassVar[bool] = False

    field = ScoreField(lambda state, *_: state, Curved({"x": (2,)}), Batch(torch.arange(1)))
    with pytest.raises(RequestError, match="flat"):
        solve(DPMSolver2M(), field, grid(2), 1)
