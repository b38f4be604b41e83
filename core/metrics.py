"""Distances between sets of samples that several domains use."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import linalg, optimize
from torch import Tensor


def frechet_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "k d"]) -> float:
    """Frechet distance between Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the formula of FID (Heusel et al. 2017); the name of the feature
    space must always stand next to the number. Needs at least two rows in each set.
    """
    if len(first) < 2 or len(second) < 2:
        raise ValueError("a Frechet distance needs at least two samples on each side")
    a, b = (x.double().flatten(1).cpu().numpy() for x in (first, second))
    root = linalg.sqrtm(np.atleast_2d(np.cov(a.T)) @ np.atleast_2d(np.cov(b.T))).real
    traces = np.trace(np.atleast_2d(np.cov(a.T))) + np.trace(np.atleast_2d(np.cov(b.T))) - 2 * np.trace(root)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces)


def wasserstein2(first: Float[Tensor, "n d"], second: Float[Tensor, "n d"]) -> float:
    """Exact 2-Wasserstein distance between two equally large sets of points (an assignment problem, O(n^3))."""
    if len(first) != len(second):
        raise ValueError(f"sets must be equally large, not {len(first)} and {len(second)}")
    cost = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    rows, columns = optimize.linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean().clamp(min=0).sqrt())
