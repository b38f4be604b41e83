"""IGSO(3) against its series, its characters, flat space, the authors' tables, and its own samples."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from core.errors import ConfigError
from core.geometry import IGSO3, AuthorsIGSO3, so3
from core.geometry.rigid import random_rotation, rotation_matrix, rotation_vector
from core.rng import SampleStreams
from tests.support import SHARED_DATA, streams

FOLDER = SHARED_DATA / "golden" / "docking"
golden = pytest.mark.skipif(not FOLDER.exists(), reason=f"no golden references in {FOLDER}")
LEVELS = [1e-6, 0.01, 0.03, 0.2, 0.7, 1.0, 1.55, 2.0, 4.0, 100.0]
every_level = pytest.mark.parametrize("level", LEVELS)
DIFFDOCK, DISCO = IGSO3(0.5), IGSO3(1.0)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def array(name: str) -> Tensor:
    return torch.from_numpy(np.load(FOLDER / "so3_tables.npz")[name])


def series(angle: Tensor, time: float) -> Tensor:
    """The defining sum, for as many terms as matter."""
    l = torch.arange(math.ceil(7 / math.sqrt(time)) + 3, dtype=torch.float64)  # noqa: E741
    ratio = ((l + 0.5) * angle[..., None]).sin() / (angle[..., None] / 2).sin()
    return ((2 * l + 1) * (-l * (l + 1) * time).exp() * ratio).sum(-1)


def angle_cdf(angle: Tensor, time: float) -> Tensor:
    """Integral of the series term by term: sum (2l+1) exp(-l(l+1)T) (sin(l w)/l - sin((l+1) w)/(l+1)) / pi."""
    l = torch.arange(1, math.ceil(7 / math.sqrt(time)) + 3, dtype=torch.float64)  # noqa: E741
    w = angle[..., None]
    terms = (2 * l + 1) * (-l * (l + 1) * time).exp() * ((l * w).sin() / l - ((l + 1) * w).sin() / (l + 1))
    return (angle - angle.sin() + terms.sum(-1)) / math.pi


def along(angles: Tensor) -> Tensor:
    """Rotation vectors about one axis."""
    return angles[..., None] * torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)


def slope(law: IGSO3, angles: Tensor, level: float) -> Tensor:
    """d log f / d angle, out of the score."""
    sigma = torch.full_like(angles, level)
    return (law.score(along(angles), sigma) * along(torch.ones_like(angles))).sum(-1)


def draw(law: IGSO3, level: float, size: int, purpose: str = "draw", dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = SampleStreams(0, range(size), purpose)
    uniform, normal = numbers.uniform(1, dtype=dtype)[:, 0], numbers.normal(3, dtype=dtype)
    return law.sample(uniform, normal, torch.full((size,), level, dtype=dtype))


@pytest.mark.parametrize("time", [0.01, 0.1, 0.5, 1.0, 4.0, 15.0])
def test_the_density_is_its_series(time: float) -> None:
    angles = torch.tensor([1e-3, 0.1, 0.5, 1.0, 2.0, 3.0, 3.14, math.pi], dtype=torch.float64)
    density, exact = DISCO.density(angles, scalar(math.sqrt(time))), series(angles, time)
    torch.testing.assert_close(density, exact, rtol=1e-12, atol=1e-12 * float(exact.max()))


@pytest.mark.parametrize("time", [0.01, 0.1, 0.5, 1.0, 4.0, 15.0])
def test_the_score_is_the_derivative_of_the_log_series(time: float) -> None:
    angles = torch.tensor([1e-3, 0.0999, 0.1001, 0.5, 1.0, 2.0, 3.0, 3.14, math.pi], dtype=torch.float64)
    keep = series(angles, time) > 1e-6
    inside = angles.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(series(inside, time)[keep].log().sum(), inside)
    torch.testing.assert_close(slope(DISCO, angles, math.sqrt(time))[keep], derivative[keep], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_characters_decay_at_their_rates(level: float) -> None:
    # E chi_l(w) = (2l+1) exp(-l(l+1) T) defines the law; l = 0 says that it is normalised.
    top = min(math.pi, 14 * level)
    angles = torch.linspace(0, top, 4001, dtype=torch.float64)
    weight = DIFFDOCK.angle_density(angles, scalar(level)) * (top / 4000)
    weight[-1] /= 2
    for degree in (0, 1, 2, 7):
        turns = torch.arange(-degree, degree + 1, dtype=torch.float64)
        character = (turns * angles[:, None]).cos().sum(-1)
        expected = (2 * degree + 1) * math.exp(-degree * (degree + 1) * level**2 / 2)
        assert float((weight * character).sum()) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.01])
def test_a_small_rotation_is_a_flat_normal_vector(level: float) -> None:
    # Exponent 1/2: variance sigma^2 on each axis. The uniform law has density 1 / (8 pi^2) in rotation vectors near 0.
    angles = level * torch.tensor([1e-3, 0.5, 1.0, 4.0], dtype=torch.float64)
    flat = 8 * math.pi**2 * (-angles.square() / (2 * level**2)).exp() / (math.sqrt(2 * math.pi) * level) ** 3
    torch.testing.assert_close(DIFFDOCK.density(angles, scalar(level)), flat, rtol=2 * level**2 + 1e-14, atol=0)
    torch.testing.assert_close(slope(DIFFDOCK, angles, level), -angles / level**2, rtol=level**2 + 1e-14, atol=0)
    norm = math.sqrt(3) / level
    assert float(DIFFDOCK.score_norm(scalar(level))) == pytest.approx(norm, rel=level**2 + 1e-7)


def test_small_samples_are_normal_on_each_axis() -> None:
    sample = draw(DIFFDOCK, 0.02, 10_000) / 0.02
    for axis in range(3):
        assert kstest(sample[:, axis].numpy(), "norm").pvalue > 1e-3
    covariance = sample.T @ sample / len(sample)
    torch.testing.assert_close(covariance, torch.eye(3, dtype=torch.float64), rtol=0, atol=4 * math.sqrt(2 / 10_000))


@every_level
def test_nothing_overflows(level: float) -> None:
    angles = torch.tensor([0.0, 1e-300, 1e-12, 1e-3, 1.0, 3.1, math.pi, 3.5, 2 * math.pi, 50.0], dtype=torch.float64)
    sigma = torch.full_like(angles, level)
    for law in (DIFFDOCK, DISCO, AuthorsIGSO3()):
        values = (law.density(angles, sigma), law.angle_density(angles, sigma), law.score_norm(sigma))
        assert all(bool(value.isfinite().all()) and float(value.min()) >= 0 for value in values)
        assert bool(law.score(along(angles), sigma).isfinite().all())
        assert law.score(along(angles), sigma)[0].tolist() == [0, 0, 0]
        uniform = torch.tensor([1e-16, 1e-6, 0.5, 1 - 1e-6, 1 - 1e-16], dtype=torch.float64)
        sample = law.sample(uniform, torch.ones(5, 3, dtype=torch.float64), sigma[:5]).norm(dim=-1)
        assert bool((sample.diff() > 0).all())
        assert 0 <= float(sample[0]) <= float(sample[-1]) <= math.pi + 1e-12


@every_level
def test_past_half_a_turn_the_score_is_that_of_the_same_rotation(level: float) -> None:
    angles = torch.tensor([3.2, 4.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(
        slope(DISCO, angles, level), -slope(DISCO, 2 * math.pi - angles, level), rtol=1e-9, atol=1e-12
    )


def test_the_score_is_steady_near_the_identity() -> None:
    angles = torch.tensor([1e-12, 0.9e-8, 1.1e-8, 1e-6, 1e-4], dtype=torch.float64)
    for level in (0.03, 0.5, 1.55):
        curvature = slope(DISCO, angles, level) / angles
        torch.testing.assert_close(curvature, curvature[-1:].expand(5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", [0.01, 0.03, 0.2, 0.333, 0.7, 1.0, 1.55, 2.0])
@pytest.mark.parametrize("law", [DIFFDOCK, DISCO])
def test_the_norm_is_the_root_mean_square_of_the_score(law: IGSO3, level: float) -> None:
    top = min(math.pi, 16 * level)
    angles = torch.linspace(0, top, 4001, dtype=torch.float64)
    square = slope(law, angles, level).square() * law.angle_density(angles, scalar(level))
    assert float(law.score_norm(scalar(level))) == pytest.approx(float(square.sum() * top / 4000) ** 0.5, rel=1e-7)


@pytest.mark.parametrize("level", [0.03, 0.3, 1.0, 2.0])
def test_samples_follow_the_law(level: float) -> None:
    n = 10_000
    sample, sigma = draw(DIFFDOCK, level, n), torch.full((n,), level, dtype=torch.float64)
    angles = sample.norm(dim=-1)
    cdf = angle_cdf(angles, level**2 / 2)
    uniform = SampleStreams(0, range(n), "draw").uniform(1, dtype=torch.float64)[:, 0]
    torch.testing.assert_close(cdf, uniform, rtol=0, atol=3e-8)
    axes = sample / angles[:, None]
    assert float(axes.mean(0).abs().max()) < 4 / math.sqrt(3 * n)
    ratio = DIFFDOCK.score(sample, sigma) / DIFFDOCK.score_norm(sigma)[:, None]
    assert float(ratio.mean(0).abs().max()) < 4 / math.sqrt(3 * n)
    square = ratio.square().sum(-1)
    assert abs(float(square.mean()) - 1) < 4 * float(square.std()) / math.sqrt(n)


def test_two_steps_of_brownian_motion_are_one_longer_step() -> None:
    n, first, second = 10_000, 0.6, 0.8
    steps = (rotation_matrix(draw(DIFFDOCK, level, n, f"step {level}")) for level in (first, second))
    together = rotation_vector(next(steps) @ next(steps)).norm(dim=-1)
    assert kstest(together.numpy(), lambda w: angle_cdf(torch.from_numpy(w), 0.5).numpy()).pvalue > 1e-3


def test_a_large_level_is_uniform() -> None:
    sample = draw(DIFFDOCK, 20.0, 10_000).norm(dim=-1)
    uniform = rotation_vector(random_rotation(streams(10_000).normal(4, dtype=torch.float64))).norm(dim=-1)
    for angles in (sample, uniform):
        assert kstest(angles.numpy(), lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3


@every_level
def test_the_conventions_differ_by_a_scale_of_sigma(level: float) -> None:
    angles = torch.linspace(0, math.pi, 30, dtype=torch.float64)
    one, half = scalar(level), scalar(level * math.sqrt(2))
    torch.testing.assert_close(DISCO.density(angles, one), DIFFDOCK.density(angles, half), rtol=1e-9, atol=1e-300)
    one_slope, half_slope = slope(DISCO, angles, level), slope(DIFFDOCK, angles, float(half))
    torch.testing.assert_close(one_slope, half_slope, rtol=1e-9, atol=1e-14 * (1 + 1 / level**2))
    torch.testing.assert_close(DISCO.score_norm(one), DIFFDOCK.score_norm(half))
    torch.testing.assert_close(draw(DISCO, level, 30), draw(DIFFDOCK, float(half), 30))


def test_results_do_not_depend_on_the_batch_and_keep_their_type() -> None:
    for dtype in (torch.float32, torch.float64):
        sample = draw(DISCO, 0.5, 8, dtype=dtype)
        assert sample.dtype == dtype
        torch.testing.assert_close(draw(DISCO, 0.5, 3, dtype=dtype), sample[:3])
        sigma = torch.linspace(0.03, 1.5, 8, dtype=dtype)
        score, norm = DISCO.score(sample, sigma), DISCO.score_norm(sigma)
        assert score.dtype == norm.dtype == DISCO.density(sigma, sigma).dtype == dtype
        torch.testing.assert_close(DISCO.score(sample[:2], sigma[:2]), score[:2])
        assert DISCO.score_norm(sigma[:3]).equal(norm[:3])
    assert DISCO.score(torch.empty(0, 3), torch.empty(0)).shape == (0, 3)
    assert DISCO.sample(torch.empty(0), torch.empty(0, 3), torch.empty(0)).shape == (0, 3)
    assert DISCO.score(torch.zeros(4, 2, 3), torch.ones(4, 2)).shape == (4, 2, 3)


def test_the_table_of_norms_is_the_same_whenever_it_is_built() -> None:
    sigma = torch.linspace(0.03, 2, 50)
    before = DISCO.score_norm(sigma)
    so3._log_norms.cache_clear()
    with torch.inference_mode():
        DISCO.score_norm(sigma)
    factor = torch.ones(50, requires_grad=True)
    (factor * DISCO.score_norm(sigma)).sum().backward()
    assert factor.grad is not None
    assert factor.grad.equal(before)


@pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan, math.inf])
def test_an_exponent_that_is_not_positive_is_refused(exponent: float) -> None:
    with pytest.raises(ConfigError, match="exponent"):
        IGSO3(exponent)


@golden
def test_the_authors_density_and_score_have_exponent_one() -> None:
    # Their series of 2000 terms loses about 1e-12 to cancellation, hence the cut at small densities.
    sigma, angles, expected = array("eps")[:, None], array("omega"), array("direct_density_at_eps")
    torch.testing.assert_close(DISCO.angle_density(angles, sigma), expected, rtol=1e-12, atol=1e-11)
    assert float((DIFFDOCK.angle_density(angles, sigma) - expected).abs().max()) > 1
    seen = expected > 1e-3
    ours = torch.stack([slope(DISCO, angles, float(level)) for level in sigma[:, 0]])
    torch.testing.assert_close(ours[seen], array("direct_score_at_eps")[seen], rtol=1e-8, atol=1e-9)


@golden
def test_the_authors_rows() -> None:
    law, sigma, rows = AuthorsIGSO3(), array("eps"), array("eps_table_value_at_idx")
    torch.testing.assert_close(law.time(sigma), rows.square(), rtol=1e-14, atol=0)
    torch.testing.assert_close(law.time(sigma.float()), rows.square(), rtol=1e-14, atol=0)
    angles, seen = array("omega"), DISCO.angle_density(array("omega"), rows[:, None]) > 1e-3
    ours = torch.stack([slope(law, angles, float(level)) for level in sigma])
    torch.testing.assert_close(ours[seen], array("score_norm_table")[seen], rtol=1e-8, atol=1e-9)
    # Their distribution function is a sum that counts each node whole: ahead by half a node's weight.
    exact = torch.stack([angle_cdf(angles, float(row) ** 2) for row in rows])
    half = law.angle_density(angles, sigma[:, None]) * (math.pi / 4000)
    torch.testing.assert_close(exact + half, array("cdf"), rtol=0, atol=1e-4)
    # So their samples are half a node short.
    uniform, normal = array("interp_u"), streams(25).normal(3, dtype=torch.float64)
    sample = torch.stack([law.sample(uniform, normal, level.expand(25)).norm(dim=-1) for level in sigma])
    torch.testing.assert_close(sample - math.pi / 4000, array("inverse_cdf"), rtol=0, atol=2e-4)


@golden
def test_the_authors_norms() -> None:
    law, sigma = AuthorsIGSO3(), array("eps")
    torch.testing.assert_close(law.score_norm(sigma), array("exp_score_norm"), rtol=1e-7, atol=0)
    torch.testing.assert_close(law.score_norm(sigma.float()), array("score_norm_fn"), rtol=3e-7, atol=0)
    # One sigma inside the reach of each of the 1000 rows; the first reaches down to 0, the last up to infinity.
    row = torch.arange(1000, dtype=torch.float64)
    asked = 0.01 * 200 ** (row / 1000)
    asked[0], asked[-1] = 1e-3, 5.0
    torch.testing.assert_close(law.score_norm(asked), array("full_exp_score_norms"), rtol=1e-7, atol=0)


@golden
def test_the_authors_rotation_targets() -> None:
    noise = torch.load(FOLDER / "noise_6w70.pt", weights_only=True)
    score = AuthorsIGSO3().score(noise["rot_update"], noise["rot_sigma"])
    torch.testing.assert_close(score.float(), noise["rot_score"], rtol=1e-6, atol=0)
