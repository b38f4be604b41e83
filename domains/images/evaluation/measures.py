"""Distances between sets of features. ``generated`` and ``real`` are [N, D] and [K, D] in the same feature space."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import DataError
from core.metrics import frechet_of_moments as frechet
from domains.images.evaluation.moments import Moments

BLOCK = 1024  # rows of a distance matrix at a time


def frechet_of_moments(first: Moments, second: Moments) -> float:
    """``core.metrics.frechet_distance`` of Gaussians that are known by their moments. Raises DataError for moments of
    different feature spaces."""
    if first.mean.shape != second.mean.shape:
        raise DataError(
            f"a Frechet distance needs one feature space, not {len(first.mean)} and {len(second.mean)} features"
        )
    return frechet(first.mean, first.covariance, second.mean, second.covariance)


def kernel_distance(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "k d"], subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the unbiased squared MMD under the kernel (x.y / D + 1)^3:
    the KID of Binkowski et al. 2018 where the features are Inception's.

    size: samples per subset on each side, drawn without replacement. Raises DataError where a set is smaller.
    """
    if min(len(generated), len(real)) < size or size < 2:
        raise DataError(f"subsets of {size} need as many samples; there are {len(generated)} and {len(real)}")
    numbers = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = generated[torch.from_numpy(numbers.choice(len(generated), size, replace=False))].double()
        y = real[torch.from_numpy(numbers.choice(len(real), size, replace=False))].double()
        values.append(_squared_mmd(x, y))
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def without_diagonal(matrix: Tensor) -> Tensor:
        count = len(matrix)
        return (matrix.sum() - matrix.trace()) / (count * (count - 1))

    return float(without_diagonal(kernel(x, x)) + without_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())


def precision_recall(
    generated: Float[Tensor, "n d"], real: Float[Tensor, "k d"], neighbours: int = 3, block: int = BLOCK
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019): the share of generated samples within the real
    manifold, and of real samples within the generated one.

    A manifold is the union of balls around its samples, each as large as the distance to the sample's ``neighbours``-th
    nearest other one. At most ``block`` rows of a distance matrix exist at a time. Raises DataError for sets that are
    too small.
    """
    if min(len(generated), len(real)) <= neighbours:
        raise DataError(f"{neighbours} neighbours need more samples than {min(len(generated), len(real))}")
    centre = real.mean(0)  # products of centred features lose less to rounding
    generated, real = generated - centre, real - centre
    around_generated, around_real = (_radii(each, neighbours, block) for each in (generated, real))
    inside_real, inside_generated = [], torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, radii in zip(generated.split(block), around_generated.split(block), strict=True):
        distance = torch.cdist(rows, real)
        inside_real.append((distance <= around_real).any(1))
        inside_generated |= (distance <= radii[:, None]).any(0)
    return float(torch.cat(inside_real).double().mean()), float(inside_generated.double().mean())


def _radii(features: Tensor, neighbours: int, block: int) -> Tensor:
    """[N] distance of every sample to its ``neighbours``-th nearest other sample (the nearest of all is itself)."""
    parts = [torch.cdist(rows, features).kthvalue(neighbours + 1, dim=1).values for rows in features.split(block)]
    return torch.cat(parts)


def class_score(logits: Float[Tensor, "n k"], splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp E KL(p(class | image) || p(class)): the Inception score of
    Salimans et al. 2016 where the logits are Inception's.

    The samples are shuffled first, for images often come sorted by class. Raises DataError for fewer samples than
    splits.
    """
    count = len(logits)
    if count < splits:
        raise DataError(f"{splits} splits need as many samples, not {count}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count)).to(logits.device)
    scores = []
    for split in range(splits):
        rows = order[split * count // splits : (split + 1) * count // splits]
        log_p = logits[rows].double().log_softmax(1)
        p = log_p.exp()
        divergence = (p * (log_p - p.mean(0).log())).sum(1)
        scores.append(float(divergence.mean().exp()))
    return float(np.mean(scores)), float(np.std(scores))
