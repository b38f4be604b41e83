"""Mean and covariance of features that arrive in batches."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import DataError


@dataclass(frozen=True)
class Moments:
    """Mean [D] and unbiased covariance [D, D] in float64 of ``count`` samples (0: it is not known of how many)."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    count: int = 0


class RunningMoments:
    """Adds up batches of features without keeping them.

    Sums of deviations are merged batch by batch (Chan, Golub & LeVeque 1983), which does not cancel as a difference
    of raw sums would.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Take in a batch."""
        if not len(features):
            return
        rows = features.detach().cpu().double()
        mean, total = rows.mean(0), self.count + len(rows)
        centred, shift = rows - mean, mean - self._mean
        self._scatter.addmm_(centred.T, centred)
        self._scatter.addr_(shift, shift, alpha=self.count * len(rows) / total)
        self._mean += shift * (len(rows) / total)
        self.count = total

    def result(self) -> Moments:
        """Moments of all batches so far. Raises DataError for fewer than two samples."""
        if self.count < 2:
            raise DataError(f"a covariance needs at least two images, not {self.count}")
        return Moments(self._mean.clone(), self._scatter / (self.count - 1), self.count)
