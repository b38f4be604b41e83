"""Noise levels of docking: sigma(t) = min^(1 - t) max^t for translation, rotation and torsions (paper section 4.2)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import DataError
from core.geometry import torus
from core.geometry.so3 import IGSO3, AuthorsIGSO3

FIELDS = ("tr", "rot", "tor")
LOSS_WEIGHTS = (1 / 3, 1 / 3, 1 / 3)  # the authors write 0.33
Range = tuple[float, float]
HEAT = IGSO3(0.5)
TABLE_SIZE = 5001
TABLE_RANGE: Range = (3e-3 * math.pi, 2 * math.pi)  # radians: lowest and highest level of the authors' torsion table


@dataclass(frozen=True)
class DockingNoise:
    """Levels at times t in [0, 1], the same t for all three parts.

    tr: Angstrom; rot, tor: radians; igso3: law of the rotations.
    """

    tr: Range = (0.1, 19.0)
    rot: Range = (0.03, 1.55)
    tor: Range = (0.03, 3.14)
    igso3: IGSO3 = HEAT

    def sigmas(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """[B] levels of translation, rotation and torsions."""
        tr, rot, tor = (low ** (1 - t) * high**t for low, high in (self.tr, self.rot, self.tor))
        return tr, rot, tor

    def growth(self) -> tuple[float, float, float]:
        """d ln sigma^2 / dt of each part."""
        tr, rot, tor = (2 * math.log(high / low) for low, high in (self.tr, self.rot, self.tor))
        return tr, rot, tor

    def score_norms(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """[B] root mean squares of the scores: what the network's outputs are scaled with (translation: 1/sigma)."""
        tr, rot, tor = self.sigmas(t)
        return 1 / tr, self.igso3.score_norm(rot), torus.score_norm(tor)


def authors_noise() -> DockingNoise:
    """The noise that the published weights belong to. Their table of torsion norms is drawn anew, unseeded, at every
    start of their program, so that no two of their runs agree: here the norms are exact."""
    return DockingNoise(igso3=AuthorsIGSO3())


class TabledNoise(nn.Module):
    """A noise whose torsion norms are a table of the model's own, kept with its weights.

    mean_squares: [5001] mean of score^2 at the geometric levels of ``table_levels``; None: the exact ones, so that
    without a table of its own a model scales as ``noise`` does (to 0.7 %, the width of a row). Raises DataError for a
    table of another size or with values that are not positive.
    """

    def __init__(self, noise: DockingNoise, mean_squares: Tensor | None = None) -> None:
        super().__init__()
        self.noise = noise
        self.mean_squares: Tensor
        table = torus.score_norm(table_levels()).square() if mean_squares is None else mean_squares.double()
        if table.shape != (TABLE_SIZE,) or not bool(((table > 0) & table.isfinite()).all()):
            raise DataError(
                f"the torsion norm table has shape {tuple(table.shape)}, or values that are not positive numbers: "
                f"give the {TABLE_SIZE} values of the authors' table"
            )
        self.register_buffer("mean_squares", table)

    def sigmas(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """[B] levels, those of the noise."""
        return self.noise.sigmas(t)

    def score_norms(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """[B] as those of the noise, but for torsions: the row nearest in log sigma, as the authors look it up."""
        (low, high), sigma = TABLE_RANGE, self.noise.sigmas(t)[2]
        place = (sigma.double() / low).log() * ((TABLE_SIZE - 1) / math.log(high / low))
        torsion = self.mean_squares[place.clamp(0, TABLE_SIZE - 1).round().long()].sqrt()
        tr, rot, _ = self.noise.score_norms(t)
        return tr, rot, torsion.to(t.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "TabledNoise":
        """Moves between devices; the table stays float64 whatever the network is cast to."""
        self.mean_squares = self.mean_squares.to(fn(self.mean_squares).device)
        return self


def table_levels() -> Float[Tensor, " n"]:
    """[5001] levels of the authors' table, radians, evenly spaced in log sigma."""
    low, high = (math.log(level) for level in TABLE_RANGE)
    return torch.linspace(low, high, TABLE_SIZE, dtype=torch.float64, device="cpu").exp()
