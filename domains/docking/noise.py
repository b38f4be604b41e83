"""Noise levels of docking: sigma(t) = min^(1 - t) max^t for translation, rotation and torsions (paper section 4.2)."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.geometry import torus
from core.geometry.so3 import IGSO3, AuthorsIGSO3
from core.geometry.torus import TabulatedNorm

FIELDS = ("tr", "rot", "tor")
Range = tuple[float, float]
HEAT = IGSO3(0.5)
TABLE_SIZE = 5001


@dataclass(frozen=True)
class DockingNoise:
    """Levels at times t in [0, 1], the same t for all three parts.

    tr: Angstrom; rot, tor: radians; igso3: law of the rotations; torsion_table: norms of the torsion score that
    converted weights were trained with, None for the exact ones.
    """

    tr: Range = (0.1, 19.0)
    rot: Range = (0.03, 1.55)
    tor: Range = (0.03, 3.14)
    igso3: IGSO3 = HEAT
    torsion_table: TabulatedNorm | None = None

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
        torsion = torus if self.torsion_table is None else self.torsion_table
        return 1 / tr, self.igso3.score_norm(rot), torsion.score_norm(tor)


def authors_noise(torsion_table: TabulatedNorm | None = None) -> DockingNoise:
    """The noise that the published weights belong to. Their table of torsion norms is drawn anew, unseeded, at every
    start of their program, so that no two of their runs agree; without a table the exact norms are used."""
    return DockingNoise(igso3=AuthorsIGSO3(), torsion_table=torsion_table)


class TabledNoise(nn.Module):
    """A noise whose torsion norms are a table of the model's own, kept with its weights.

    mean_squares: [5001] at geometric levels from 3e-3 pi to 2 pi, the grid of the authors.
    """

    def __init__(self, noise: DockingNoise, mean_squares: Tensor | None = None) -> None:
        super().__init__()
        self.noise = noise
        self.mean_squares: Tensor
        table = torch.ones(TABLE_SIZE, dtype=torch.float64) if mean_squares is None else mean_squares
        self.register_buffer("mean_squares", table.double())

    def sigmas(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        return self.noise.sigmas(t)

    def score_norms(self, t: Float[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        table = TabulatedNorm(table_levels().to(t.device), self.mean_squares)
        return replace(self.noise, torsion_table=table).score_norms(t)

    def _apply(self, fn: Any, recurse: bool = True) -> "TabledNoise":
        """Moves between devices; the table stays float64 whatever the network is cast to."""
        self.mean_squares = self.mean_squares.to(fn(self.mean_squares).device)
        return self


@cache
def table_levels() -> Float[Tensor, " n"]:
    """[5001] levels of the authors' table, radians."""
    return math.pi * torch.logspace(math.log10(3e-3), math.log10(2), TABLE_SIZE, dtype=torch.float64)
