"""Flat space: tangents, noise and flow against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from core.geometry import Euclidean
from core.noise import EDMWeighting
from core.schedules import EDMPath, Path, VEPath, VPPath
from core.types import Batch
from tests.support import streams

PATHS = [EDMPath(), VEPath(), VPPath(), VPPath(scaled=False)]
SHAPES = {"x": (2,), "image": (1, 3, 3)}
TIMES = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
every_path = pytest.mark.parametrize("path", PATHS, ids=str)


def state(size: int = 3) -> dict[str, Tensor]:
    noise = streams(size, purpose="state")
    return {name: noise.normal(*shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def column(values: Tensor) -> Tensor:
    return values[:, None]


@every_path
def test_a_zero_step_leaves_the_state(path: Path) -> None:
    here = state()
    moved = Euclidean(SHAPES, path).retract(here, {name: torch.zeros_like(x) for name, x in here.items()})
    assert all(torch.equal(moved[name], x) for name, x in here.items())


@every_path
def test_noise_level_and_time_are_inverse(path: Path) -> None:
    geometry = Euclidean(SHAPES, path)
    torch.testing.assert_close(geometry.time_at(geometry.noise_level(TIMES)), TIMES)


@every_path
def test_canonical_and_physical_states_are_inverse(path: Path) -> None:
    geometry, here = Euclidean(SHAPES, path), state()
    back = geometry.physical(geometry.canonical(here, TIMES), TIMES)
    for name, x in here.items():
        torch.testing.assert_close(back[name], x)


def test_the_canonical_state_of_the_vp_path_has_the_scaling_taken_out() -> None:
    here = state()
    canonical = Euclidean(SHAPES, VPPath()).canonical(here, TIMES)["x"]
    torch.testing.assert_close(canonical, here["x"] * column((1 + VPPath().sigma(TIMES) ** 2).sqrt()))


@every_path
def test_corrupting_adds_noise_of_level_sigma(path: Path) -> None:
    clean, sigma = state(), path.sigma(TIMES)
    corrupted = Euclidean(SHAPES, path).corrupt(clean, TIMES, streams(3))
    noise = streams(3)
    for name, shape in SHAPES.items():
        level = sigma.reshape(3, *[1] * len(shape))
        torch.testing.assert_close(corrupted.state[name], clean[name] + level * noise.normal(*shape, dtype=sigma.dtype))
        towards = (clean[name] - corrupted.state[name]) / level**2
        torch.testing.assert_close(corrupted.target[name], towards)


def test_the_weighted_score_error_is_lambda_times_the_error_of_the_denoiser() -> None:
    clean, guess = state(), state()["x"] ** 2
    corrupted = Euclidean({"x": (2,)}, weighting=EDMWeighting(0.5)).corrupt({"x": clean["x"]}, TIMES, streams(3))
    score = (guess - corrupted.state["x"]) / column(TIMES) ** 2
    error = corrupted.weight["x"] * (score - corrupted.target["x"]) ** 2
    torch.testing.assert_close(error, column(EDMWeighting(0.5)(TIMES)) * (guess - clean["x"]) ** 2)


def test_corrupted_training_data_stays_in_single_precision() -> None:
    corrupted = Euclidean({"x": (2,)}).corrupt({"x": torch.zeros(3, 2)}, TIMES.float(), streams(3))
    assert {corrupted.state["x"].dtype, corrupted.target["x"].dtype, corrupted.weight["x"].dtype} == {torch.float32}


@every_path
def test_start_noise_has_the_scaled_level_as_standard_deviation(path: Path) -> None:
    n, t = 5000, torch.tensor(0.7, dtype=torch.float64)
    noise = Euclidean(SHAPES, path).sample_noise(Batch(torch.arange(n)), t.expand(n), streams(n))
    expected = float(path.scale(t) * path.sigma(t))
    for name, shape in SHAPES.items():
        assert noise[name].shape == (n, *shape)
        assert noise[name].dtype == torch.float64
        count = noise[name].numel()
        assert abs(float(noise[name].std()) / expected - 1) < 4 / math.sqrt(2 * count)
        assert abs(float(noise[name].mean())) < 4 * expected / math.sqrt(count)


@every_path
def test_the_tangent_draw_is_unit_gaussian(path: Path) -> None:
    drawn = Euclidean(SHAPES, path).draw(state(3000), streams(3000))
    for value in drawn.values():
        assert abs(float(value.var()) - 1) < 4 * math.sqrt(2 / value.numel())
        assert abs(float(value.mean())) < 4 / math.sqrt(value.numel())


@every_path
def test_velocity_is_the_derivative_of_the_exact_flow_of_a_gaussian(path: Path) -> None:
    # Data N(0, c^2): every trajectory is proportional to the standard deviation s sqrt(c^2 + sigma^2).
    spread, start, h = 0.4, state(3)["x"], 1e-6

    def flow(t: Tensor) -> Tensor:
        return start * column(path.scale(t) * (spread**2 + path.sigma(t) ** 2).sqrt())

    geometry, here = Euclidean({"x": (2,)}, path), {"x": flow(TIMES)}
    canonical = geometry.canonical(here, TIMES)["x"]
    score = {"x": -canonical / column(spread**2 + path.sigma(TIMES) ** 2)}
    difference = (flow(TIMES + h) - flow(TIMES - h)) / (2 * h)
    torch.testing.assert_close(geometry.velocity(here, TIMES, score)["x"], difference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("path", [EDMPath(), VEPath(), VPPath(scaled=False)], ids=str)
def test_diffusivity_is_the_derivative_of_the_variance(path: Path) -> None:
    h = 1e-6
    rate = (path.sigma(TIMES + h) ** 2 - path.sigma(TIMES - h) ** 2) / (2 * h)
    diffusivity = Euclidean(SHAPES, path).diffusivity(state(), TIMES)
    torch.testing.assert_close(diffusivity["x"], column(rate), rtol=1e-7, atol=1e-9)
    assert diffusivity["image"].shape == (3, 1, 1, 1)


def test_diffusivity_of_the_scaled_vp_path_is_beta() -> None:
    # dx = -beta x / 2 dt + sqrt(beta) dw
    diffusivity = Euclidean(SHAPES, VPPath()).diffusivity(state(), TIMES)["x"]
    torch.testing.assert_close(diffusivity, column(0.1 + 19.9 * TIMES))


@every_path
def test_sigma_is_the_level_of_every_field(path: Path) -> None:
    sigma = Euclidean(SHAPES, path).sigma(state(), TIMES)
    assert sigma["image"].shape == (3, 1, 1, 1)
    torch.testing.assert_close(sigma["x"][:, 0], path.sigma(TIMES))


def test_split_is_the_inverse_of_concatenate() -> None:
    geometry, first, second = Euclidean(SHAPES), state(), {name: -x for name, x in state().items()}
    parts = geometry.split(geometry.concatenate([first, second]), 2)
    assert len(parts) == 2
    for part, whole in zip(parts, (first, second), strict=True):
        assert all(torch.equal(part[name], whole[name]) for name in SHAPES)
