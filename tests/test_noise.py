"""Distributions of training noise and loss weights against closed forms."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from core.noise import (
    CosineTable,
    EDMWeighting,
    LinearBeta,
    LogNormal,
    LogUniform,
    MonotonicWeighting,
    NoiseDistribution,
    inverse_square,
    resolution_shift,
)
from core.precondition import EDMPrecondition
from core.schedules import VPPath, cosine_table
from tests.support import streams

SIGMAS = torch.logspace(-2, 2, 41, dtype=torch.float64)
SIZE = 10000


def linear_beta_cdf(sigma: np.ndarray) -> np.ndarray:
    """Share of uniform times in [1e-5, 1] at which sigma(t) is lower."""
    t = np.linspace(1e-5, 1, 20001)
    return np.interp(sigma, np.sqrt(np.expm1(19.9 * t**2 / 2 + 0.1 * t)), (t - 1e-5) / (1 - 1e-5))


CDFS: list[tuple[NoiseDistribution, Callable[[np.ndarray], np.ndarray]]] = [
    (LogNormal(-1.2, 1.2), lambda s: stats.norm.cdf(np.log(s), -1.2, 1.2)),
    (LogNormal(0.5, 0.3), lambda s: stats.norm.cdf(np.log(s), 0.5, 0.3)),
    (LogUniform(0.02, 100.0), lambda s: stats.loguniform.cdf(s, 0.02, 100)),
    (LinearBeta(), linear_beta_cdf),
]


@pytest.mark.parametrize(("distribution", "cdf"), CDFS, ids=lambda value: type(value).__name__)
def test_levels_follow_their_distribution(
    distribution: NoiseDistribution, cdf: Callable[[np.ndarray], np.ndarray]
) -> None:
    levels = distribution.sample(streams(SIZE))
    assert levels.dtype == torch.float32
    # sqrt(n) D > 2.3 has a chance of 5e-5
    assert stats.kstest(levels.double().numpy(), cdf).statistic * math.sqrt(SIZE) < 2.3


def test_lognormal_levels_have_the_given_moments() -> None:
    log_sigma = LogNormal(-1.2, 1.2).sample(streams(SIZE)).log().double()
    assert abs(float(log_sigma.mean()) + 1.2) < 4 * 1.2 / math.sqrt(SIZE)
    assert abs(float(log_sigma.var()) - 1.44) < 4 * 1.44 * math.sqrt(2 / SIZE)


def test_iddpm_levels_are_evenly_drawn_entries_of_the_table_without_its_zero() -> None:
    levels, table = CosineTable().sample(streams(SIZE)), cosine_table().float()
    index = 1000 - torch.searchsorted(table.flip(0), levels)
    assert torch.equal(table[index], levels)
    assert index.max() < 1000
    assert stats.kstest((index.numpy() + 0.5) / 1000, "uniform").statistic * math.sqrt(SIZE) < 2.3


@pytest.mark.parametrize("distribution", [d for d, _ in CDFS], ids=lambda d: type(d).__name__)
def test_densities_integrate_to_one_over_log_sigma(distribution: NoiseDistribution) -> None:
    def density(u: float) -> float:
        return float(distribution.log_density(torch.tensor([u], dtype=torch.float64)).exp())

    # Ends of the supports of the uniform ones, where the integrand jumps.
    jumps = [math.log(0.02), math.log(100), *VPPath().sigma(torch.tensor([1e-5, 1.0])).log().tolist()]
    ends = [-14.0, *sorted(jumps), 8.0]
    total = sum(integrate.quad(density, a, b, limit=60)[0] for a, b in pairwise(ends))
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("distribution", [LogUniform(), LinearBeta()], ids=lambda d: type(d).__name__)
def test_levels_out_of_range_have_no_density(distribution: NoiseDistribution) -> None:
    assert distribution.log_density(torch.tensor([-20.0, 10.0])).exp().tolist() == [0, 0]


def test_the_discrete_levels_of_iddpm_have_no_density() -> None:
    with pytest.raises(ValueError, match="no density"):
        CosineTable().log_density(torch.zeros(1))


@pytest.mark.parametrize("sigma_data", [0.2, 0.5, 2.0])
def test_edm_weight_makes_the_weight_of_the_raw_network_one(sigma_data: float) -> None:
    scale = EDMPrecondition(sigma_data)(SIGMAS).out
    torch.testing.assert_close(EDMWeighting(sigma_data)(SIGMAS) * scale**2, torch.ones_like(SIGMAS))


def test_inverse_square_weight_makes_the_loss_that_of_the_noise() -> None:
    torch.testing.assert_close(inverse_square(SIGMAS) * SIGMAS**2, torch.ones_like(SIGMAS))


@pytest.mark.parametrize(("mean", "std", "sigma_data"), [(-1.2, 1.2, 0.5), (0.0, 0.8, 1.0), (-0.4, 2.0, 0.3)])
def test_the_maximiser_is_where_the_weight_is_largest(mean: float, std: float, sigma_data: float) -> None:
    weighting = MonotonicWeighting(LogNormal(mean, std), sigma_data, mean, std)

    def negative(u: float) -> float:
        return -float(weighting.log_weight(torch.tensor(u, dtype=torch.float64)))

    best = optimize.minimize_scalar(negative, bounds=(mean - 1, mean + 2 * std**2 + 1), method="bounded").x
    assert weighting.maximiser == pytest.approx(best, abs=1e-4)
    grid = torch.linspace(mean - 8 * std, mean + 8 * std, 2000, dtype=torch.float64)
    peak = weighting.log_weight(torch.tensor(weighting.maximiser, dtype=torch.float64))
    assert weighting.log_weight(grid).max() <= peak


def test_below_the_maximiser_the_monotonic_weight_is_edms() -> None:
    weighting = MonotonicWeighting(LogNormal())
    below = SIGMAS[SIGMAS.log() < weighting.maximiser]
    assert 10 < len(below) < len(SIGMAS) - 10
    torch.testing.assert_close(weighting(below), EDMWeighting()(below))


def effective(weighting: MonotonicWeighting, sigma: Tensor) -> Tensor:
    """w(ln sigma) of the noise-prediction error: density x lambda x sigma^2."""
    return weighting.drawn_from.log_density(sigma.log()).exp() * weighting(sigma) * sigma**2


def test_above_the_maximiser_the_effective_weight_is_constant() -> None:
    weighting = MonotonicWeighting(LogNormal())
    above = SIGMAS[SIGMAS.log() > weighting.maximiser]
    weights = effective(weighting, above)
    torch.testing.assert_close(weights, weights[:1].expand(len(weights)))


def test_the_effective_weight_never_falls_with_noise() -> None:
    assert (effective(MonotonicWeighting(LogNormal()), SIGMAS).diff() > -1e-12).all()


@pytest.mark.parametrize("other", [LogUniform(0.002, 200.0), LogNormal(0.3, 0.9), LinearBeta()])
def test_the_weight_of_a_level_does_not_depend_on_how_levels_are_drawn(other: NoiseDistribution) -> None:
    expected = effective(MonotonicWeighting(LogNormal()), SIGMAS)
    torch.testing.assert_close(effective(MonotonicWeighting(other), SIGMAS), expected)


def test_a_shift_moves_the_effective_weight_to_higher_noise() -> None:
    shift = resolution_shift(128)
    shifted = MonotonicWeighting(LogNormal(-1.2 + shift), shift=shift)
    expected = effective(MonotonicWeighting(LogNormal()), SIGMAS)
    torch.testing.assert_close(effective(shifted, SIGMAS * math.exp(shift)), expected)


def test_the_shift_is_the_log_of_the_ratio_of_resolutions() -> None:
    assert resolution_shift(64) == 0
    assert math.exp(resolution_shift(128)) == pytest.approx(2)
    assert math.exp(resolution_shift(32)) == pytest.approx(0.5)
