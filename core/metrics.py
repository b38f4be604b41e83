"""Distances between sets of samples that several domains use."""

import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "k d"]) -> float:
    """Frechet distance between Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the formula of FID (Heusel et al. 2017); the name of the feature
    space must always stand next to the number. Needs at least two rows in each set.
    """
    if len(first) < 2 or len(second) < 2:
        raise ValueError("a Frechet distance needs at least two samples on each side")
    return frechet_of_moments(*_moments(first), *_moments(second))


def frechet_of_moments(
    mean_a: Float[Tensor, " d"], cov_a: Float[Tensor, "d d"], mean_b: Float[Tensor, " d"], cov_b: Float[Tensor, "d d"]
) -> float:
    """The same of Gaussians that are known by their means [D] and covariances [D, D]."""
    # tr (C1 C2)^(1/2) through the symmetric C1^(1/2) C2 C1^(1/2), which is exact for singular covariances too.
    root = _symmetric_root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    rows = features.double().flatten(1).cpu()
    return rows.mean(0), torch.atleast_2d(torch.cov(rows.T))


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def wasserstein2(first: Float[Tensor, "n d"], second: Float[Tensor, "k d"]) -> float:
    """Exact 2-Wasserstein distance between two equally large sets of points (an assignment problem, O(n^3))."""
    if len(first) != len(second):
        raise ValueError(f"sets must be equally large, not {len(first)} and {len(second)}")
    cost = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    rows, columns = optimize.linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean().clamp(min=0).sqrt())
