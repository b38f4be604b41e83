"""PFGM++ in flat space: its kernel, its limit, and its flow, against closed forms."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from core.errors import RequestError
from core.geometry import Euclidean
from core.guidance import ScoreField
from core.registry import get_domain
from core.samplers import SAMPLERS, Heun, make_sampler
from core.schedules import rho_levels
from core.types import Batch
from tests.support import streams, tiny_config

SHAPES = {"x": (2,), "image": (1, 1, 3)}
SIZE = 5
DETERMINISTIC = {"euler", "heun", "dpmpp-2m"}


@pytest.mark.parametrize("dimensions", [1, 3, 64])
def test_noise_has_the_radii_and_directions_of_the_kernel(dimensions: int) -> None:
    """Of p_r(x | y) ~ (R^2 + r^2)^(-(N + D)/2) follows R^2 / (R^2 + r^2) ~ Beta(N/2, D/2)."""
    n, sigma = 40_000, 0.7
    geometry, t = Euclidean(SHAPES, dimensions=dimensions), torch.full((n,), sigma, dtype=torch.float64)
    clean = {name: torch.ones(n, *shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    start = geometry.sample_noise(Batch(torch.arange(n)), t, streams(n))
    for state in (geometry.corrupt(clean, t, streams(n)).state, {name: x + 1 for name, x in start.items()}):
        flat = torch.cat([(state[name] - clean[name]).flatten(1) for name in SHAPES], dim=1)
        square = flat.square().sum(1)
        share = square / (square + sigma**2 * dimensions)
        assert stats.kstest(share.numpy(), stats.beta(SIZE / 2, dimensions / 2).cdf).pvalue > 0.01
        direction = flat / square.sqrt()[:, None]
        assert float(direction.mean(0).abs().max()) < 4 / (SIZE * n) ** 0.5


def test_many_dimensions_are_diffusion() -> None:
    clean, t = {name: torch.zeros(3, *shape) for name, shape in SHAPES.items()}, torch.tensor([0.1, 1.0, 10.0])
    found = Euclidean(SHAPES, dimensions=200_000).corrupt(clean, t, streams(3)).state
    expected = Euclidean(SHAPES).corrupt(clean, t, streams(3)).state
    for name in SHAPES:
        torch.testing.assert_close(found[name], expected[name], rtol=0.01, atol=0)


@pytest.mark.parametrize("dimensions", [2, 16])
def test_the_flow_carries_one_noise_level_s_distribution_to_another_s(dimensions: int) -> None:
    """Data of two points on a line: p(x; sigma) is a mixture of two Student t, and E[y | x] is known."""
    n, high, low = 2000, 20.0, 0.5
    points, shares = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)

    def score(state: dict[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        x, sigma = state["x"], level[:, None]
        kernel = (((x - points) / sigma) ** 2 + dimensions).log() * (-(1 + dimensions) / 2)
        mean = torch.softmax(kernel + shares.log(), dim=1) @ points
        return {"x": (mean[:, None] - x) / sigma**2}

    geometry = Euclidean({"x": (1,)}, dimensions=dimensions)
    data = {"x": points[(torch.arange(n) % 4 > 0).long()][:, None]}  # a quarter and three quarters
    start = geometry.corrupt(data, torch.full((n,), high, dtype=torch.float64), streams(n)).state
    field = ScoreField(score, geometry, Batch(torch.arange(n)))
    x = Heun().run(field, start, rho_levels(60, low, high), streams(n))["x"][:, 0].numpy()
    pairs = list(zip(points.tolist(), shares.tolist(), strict=True))

    def cdf(kernel: Any) -> Callable[[Any], Any]:
        return lambda at: sum(share * kernel.cdf((at - point) / low) for point, share in pairs)

    assert stats.kstest(x, cdf(stats.t(dimensions))).pvalue > 0.01
    if dimensions == 2:  # so heavy tails cannot be taken for a Gaussian's
        assert stats.kstest(x, cdf(stats.norm)).pvalue < 1e-6


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers_that_add_noise_are_refused(name: str) -> None:
    sampler, geometry = make_sampler(name), Euclidean({"x": (2,)}, dimensions=8)
    if name == "mixed":
        sampler = dataclasses.replace(sampler, low=make_sampler("ddpm"))  # type: ignore[call-arg]
    field = ScoreField(lambda state, *_: {"x": -state["x"]}, geometry, Batch(torch.arange(2)))
    times = torch.tensor([20.0, 1.0, 0.0], dtype=torch.float64)
    state = geometry.sample_noise(Batch(torch.arange(2)), times[:1].expand(2), streams(2))
    if name in DETERMINISTIC:
        assert sampler.run(field, state, times, streams(2))["x"].isfinite().all()
    else:
        with pytest.raises(RequestError, match="euler, heun or dpmpp-2m"):
            sampler.run(field, state, times, streams(2))


def test_the_setting_reaches_the_geometry() -> None:
    config = tiny_config("toy", ["model.noise.dimensions=32"])
    assert get_domain("toy")(config).geometry().dimensions == 32  # type: ignore[attr-defined]
