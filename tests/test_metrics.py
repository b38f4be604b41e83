"""Frechet and Wasserstein distances against closed forms and brute force."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from core.metrics import frechet_distance, wasserstein2
from tests.support import streams


def with_moments(mean: Tensor, covariance: Tensor, size: int = 40) -> Tensor:
    """Points whose sample mean and covariance are exactly the given ones."""
    raw = streams(size).normal(len(mean), dtype=torch.float64)
    white = raw - raw.mean(0)
    factor = torch.linalg.cholesky(torch.atleast_2d(torch.cov(white.T)))
    white = torch.linalg.solve_triangular(factor, white.T, upper=False).T
    values, vectors = torch.linalg.eigh(covariance)
    return mean + white @ (vectors * values.clamp(min=0).sqrt()).T


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_points(size: int, dims: int, seed: int) -> Tensor:
    return streams(size, seed).normal(dims, dtype=torch.float64)


def rotation(dims: int) -> Tensor:
    return torch.linalg.qr(random_points(dims, dims, seed=9)).Q


def test_sets_that_differ_in_their_means_only_are_the_squared_distance_apart() -> None:
    points = random_points(30, 3, seed=0)
    assert frechet_distance(points, points + doubles(1, 2, -2)) == pytest.approx(9)


def test_commuting_covariances_give_the_squared_difference_of_their_roots() -> None:
    q, first, second = rotation(3), doubles(1, 4, 0.25), doubles(9, 1, 0.25)
    a = with_moments(doubles(0, 0, 0), q @ torch.diag(first) @ q.T)
    b = with_moments(doubles(1, 0, 1), q @ torch.diag(second) @ q.T)
    assert frechet_distance(a, b) == pytest.approx(2 + (1 - 3) ** 2 + (2 - 1) ** 2)


def test_frechet_distance_in_one_dimension() -> None:
    a, b = with_moments(doubles(0), doubles(4)[:, None]), with_moments(doubles(3), doubles(1)[:, None])
    assert frechet_distance(a, b) == pytest.approx(9 + 1)


def test_frechet_distance_agrees_with_the_matrix_square_root_of_the_product() -> None:
    a, b = random_points(50, 4, seed=0), random_points(60, 4, seed=1) @ random_points(4, 4, seed=2) + 0.3
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(
        cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real
    )
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    points = random_points(30, 4, seed=0)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_is_symmetric_and_does_not_change_under_rotation() -> None:
    a, b = random_points(30, 3, seed=0), random_points(20, 3, seed=1) * doubles(1, 2, 3)
    q = rotation(3)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a @ q, b @ q) == pytest.approx(frechet_distance(a, b))


def test_singular_covariances_are_exact() -> None:
    # Fewer points than dimensions, as for small sets of deep features.
    q = rotation(5)
    a = with_moments(doubles(0, 0, 0, 0, 0), q @ torch.diag(doubles(4, 1, 0, 0, 0)) @ q.T)
    b = with_moments(doubles(0, 0, 0, 0, 0), q @ torch.diag(doubles(0, 1, 9, 0, 0)) @ q.T)
    assert frechet_distance(a, b) == pytest.approx(4 + 0 + 9, abs=1e-6)
    few = random_points(3, 5, seed=0)
    assert frechet_distance(few, few + 1) == pytest.approx(5, abs=1e-6)


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (0, 5)])
def test_frechet_distance_needs_two_samples_on_each_side(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        frechet_distance(torch.zeros(sizes[0], 2), torch.zeros(sizes[1], 2))


def test_a_translated_set_is_the_length_of_the_translation_away() -> None:
    points = random_points(40, 2, seed=0)
    assert wasserstein2(points, points + doubles(3, -4)) == pytest.approx(5)


def test_the_order_of_points_does_not_matter() -> None:
    points = random_points(40, 2, seed=0)
    assert wasserstein2(points, points.flip(0)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_wasserstein_distance_equals_the_best_of_all_permutations(seed: int) -> None:
    a, b = random_points(5, 3, seed), random_points(5, 3, seed + 100)
    best = min(float((a - b[list(order)]).square().sum(1).mean()) for order in permutations(range(5)))
    assert wasserstein2(a, b) ** 2 == pytest.approx(best)


def test_wasserstein_distance_on_a_line_matches_sorted_points() -> None:
    a, b = random_points(50, 1, seed=0), random_points(50, 1, seed=1) * 2 + 1
    expected = (a.sort(0).values - b.sort(0).values).square().mean().sqrt()
    assert wasserstein2(a, b) == pytest.approx(float(expected))


def test_wasserstein_distance_is_symmetric() -> None:
    a, b = random_points(20, 2, seed=0), random_points(20, 2, seed=1)
    assert wasserstein2(a, b) == pytest.approx(wasserstein2(b, a))


def test_close_points_far_from_the_origin_keep_their_distance() -> None:
    points = random_points(20, 2, seed=0) + 1e4
    assert wasserstein2(points, points + doubles(1e-3, 0)) == pytest.approx(1e-3, rel=1e-6)


def test_wasserstein_distance_needs_equally_large_sets() -> None:
    with pytest.raises(ValueError, match="equally large, not 3 and 4"):
        wasserstein2(torch.zeros(3, 2), torch.zeros(4, 2))
