"""The wrapped normal against its Fourier series, the authors' tables, and its own samples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.geometry import torus
from tests.support import SHARED_DATA, streams

FOLDER = SHARED_DATA / "golden" / "docking"
golden = pytest.mark.skipif(not FOLDER.exists(), reason=f"no golden references in {FOLDER}")
LEVELS = [1e-6, 0.01, 0.1, 0.5, 1.0, math.pi, 2 * math.pi, 8.0, 50.0]
every_level = pytest.mark.parametrize("level", LEVELS)
CIRCLE = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[1:]


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def array(name: str) -> Tensor:
    return torch.from_numpy(np.load(FOLDER / "torus_tables.npz")[name])


def fourier(angle: Tensor, sigma: float) -> Tensor:
    """(1 + 2 sum_n exp(-n^2 sigma^2 / 2) cos(n a)) / (2 pi)."""
    n = torch.arange(1, 200, dtype=torch.float64)
    return (1 + 2 * ((-(n**2) * sigma**2 / 2).exp() * (n * angle[..., None]).cos()).sum(-1)) / (2 * math.pi)


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0, math.pi, 7.9, 8.1, 50.0])
def test_the_density_is_its_fourier_series(level: float) -> None:
    angles = CIRCLE[::50]
    torch.testing.assert_close(torus.density(angles, scalar(level)), fourier(angles, level), rtol=0, atol=1e-13)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_density_is_normalised(level: float) -> None:
    assert float(torus.density(CIRCLE, scalar(level)).mean()) * 2 * math.pi == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("level", [0.3, 1.0, 3.0, 6.0])
def test_the_score_is_the_derivative_of_the_log_density(level: float) -> None:
    angles = CIRCLE[::97].clone().requires_grad_()
    (derivative,) = torch.autograd.grad(fourier(angles, level).log().sum(), angles)
    keep = torus.density(angles.detach(), scalar(level)) > 1e-4
    score = torus.score(angles.detach(), scalar(level))
    torch.testing.assert_close(score[keep], derivative[keep], rtol=1e-9, atol=1e-11)


@every_level
def test_the_score_is_finite_odd_and_periodic(level: float) -> None:
    angles = torch.tensor([0.0, 1e-9, 0.3, 1.5, 3.0, math.pi], dtype=torch.float64)
    score = torus.score(angles, scalar(level))
    assert bool(score.isfinite().all())
    torch.testing.assert_close(torus.score(-angles, scalar(level)), -score, rtol=0, atol=1e-9 * float(1 + 1 / level**2))
    shifted = torus.score(angles[:-1] + 4 * math.pi, scalar(level))
    torch.testing.assert_close(shifted, score[:-1], rtol=1e-12, atol=1e-14 * (1 + 1 / level**2))


def test_a_small_level_is_a_plain_normal_distribution() -> None:
    angles = torch.tensor([0.0, 1e-5, -3e-4, 2.0], dtype=torch.float64)
    torch.testing.assert_close(torus.score(angles, scalar(1e-4)), -angles / 1e-8, rtol=1e-14, atol=0)
    assert float(torus.score_norm(scalar(1e-4))) == pytest.approx(1e4, rel=1e-12)


@pytest.mark.parametrize("level", [0.04, 0.06, 0.3, 0.77, 1.5, math.pi, 5.0, 7.5])
def test_the_norm_is_the_root_mean_square_of_the_score(level: float) -> None:
    score, density = torus.score(CIRCLE, scalar(level)), torus.density(CIRCLE, scalar(level))
    expected = float((score.square() * density).mean() * 2 * math.pi) ** 0.5
    assert float(torus.score_norm(scalar(level))) == pytest.approx(expected, rel=1e-7)


def test_the_scores_of_samples_have_mean_zero_and_the_norm() -> None:
    n = 20_000
    sigma = torch.tensor([[0.2], [1.0], [2.5]], dtype=torch.float64)
    angles = sigma * streams(3).normal(n, dtype=torch.float64)
    ratio = torus.score(angles, sigma) / torus.score_norm(sigma)
    assert float(ratio.mean(1).abs().max()) < 4 / math.sqrt(n)
    # The fourth moment of a standard normal variable is 3, and wrapping lowers it.
    assert float((ratio.square().mean(1) - 1).abs().max()) < 4 * math.sqrt(2 / n)


def test_shapes_broadcast_and_types_stay() -> None:
    angles, sigma = torch.zeros(4, 7), torch.full((4, 1), 0.5)
    assert torus.score(angles, sigma).shape == torus.density(angles, sigma).shape == (4, 7)
    assert torus.score(angles, sigma).dtype == torus.density(angles, sigma).dtype == torch.float32
    assert torus.score_norm(sigma).shape == (4, 1)
    assert torus.score_norm(sigma[:0]).shape == (0, 1)
    assert torus.score(torch.zeros(0, 3), torch.ones(0, 1)).shape == (0, 3)


def test_wrapping() -> None:
    angles = torch.tensor([0.0, 1e-20, 3.0, -3.0, 3.5, -7.0, 100.0], dtype=torch.float64)
    wrapped = torus.wrap(angles)
    assert wrapped[:4].equal(angles[:4])
    assert float(wrapped.abs().max()) <= math.pi
    torch.testing.assert_close(
        torch.polar(torch.ones_like(angles), wrapped), torch.polar(torch.ones_like(angles), angles)
    )


@golden
def test_the_authors_density_and_score() -> None:
    sigma, angles = array("sigma")[:, None], array("theta")
    density, score = array("p_direct") / (sigma * math.sqrt(2 * math.pi)), array("score_direct")
    seen = array("p_direct") > 1e-290
    ours = torus.density(angles, sigma), torus.score(angles, sigma)
    torch.testing.assert_close(ours[0][seen], density[seen], rtol=1e-12, atol=0)
    torch.testing.assert_close(ours[1][seen], score[seen], rtol=1e-11, atol=1e-10)
    # Where theirs underflows to 0/0, ours goes on.
    assert bool(score.isnan().any())
    assert bool(ours[1].isfinite().all())


@golden
def test_the_authors_norm_by_quadrature() -> None:
    norm = torus.score_norm(array("sigma")).square()
    torch.testing.assert_close(norm, array("score_norm_quadrature"), rtol=1e-7, atol=0)
