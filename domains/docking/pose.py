"""Ligand poses of many samples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import HeteroData

from domains.docking.graph import TORSION
from domains.docking.torsion import Torsions


@dataclass(frozen=True)
class Pose:
    """Ligand poses of B samples, padded to the largest ligand.

    positions: [B, n, 3] Angstrom, in the frame of the C-alphas; mask: [B, n] which atoms exist; torsions: [B, R].
    """

    positions: Float[Tensor, "b n 3"]
    mask: Bool[Tensor, "b n"]
    torsions: Torsions

    @property
    def flat(self) -> Float[Tensor, "atoms 3"]:
        """Positions of the atoms that exist, sample after sample."""
        return self.positions[self.mask]

    def moved_to(self, positions: Tensor) -> "Pose":
        """The same ligands elsewhere."""
        return replace(self, positions=positions)

    def select(self, index: Tensor | slice) -> "Pose":
        """The samples at ``index``."""
        return Pose(self.positions[index], self.mask[index], self.torsions.select(index))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Pose":
        return Pose(self.positions.to(device, dtype), self.mask.to(device), self.torsions.to(device))

    def centroid(self) -> Float[Tensor, "b 3"]:
        """Mean of the atoms of each sample."""
        weight = self.mask.to(self.positions.dtype)
        return torch.einsum("bna,bn->ba", self.positions, weight / weight.sum(1, keepdim=True))

    @staticmethod
    def concatenate(poses: Sequence["Pose"]) -> "Pose":
        """Samples of several batches, one after the other, padded to the largest ligand of all."""
        n = max(pose.positions.shape[1] for pose in poses)
        r = max(pose.torsions.mask.shape[1] for pose in poses)
        return Pose(
            torch.cat([_grow(p.positions, n, 0.0) for p in poses]),
            torch.cat([_grow(p.mask, n, False) for p in poses]),
            Torsions(
                torch.cat([_grow(p.torsions.bonds, r, 0) for p in poses]),
                torch.cat([_grow(p.torsions.parent, r, -1) for p in poses]),
                torch.cat([_grow(p.torsions.group, n, -1) for p in poses]),
                torch.cat([_grow(p.torsions.mask, r, False) for p in poses]),
            ),
        )


def _grow(x: Tensor, length: int, value: int | float | bool) -> Tensor:
    """Pad the second axis to ``length``."""
    more = x.new_full((x.shape[0], length - x.shape[1], *x.shape[2:]), value)
    return torch.cat([x, more], dim=1)


def single_torsions(
    bonds: Int[np.ndarray, "r 2"], parent: Int[np.ndarray, " r"], group: Int[np.ndarray, " n"]
) -> Torsions:
    """The torsions of one ligand (B = 1)."""
    u_v, outer, inner = (torch.from_numpy(array)[None] for array in (bonds, parent, group))
    return Torsions(u_v, outer, inner, torch.ones(1, len(bonds), dtype=torch.bool))


def pose_of(graph: HeteroData, positions: Tensor | None = None) -> Pose:
    """The ligand of one complex as a pose; ``positions`` [n, 3] instead of the graph's own."""
    ligand, bonds = graph["ligand"], graph[TORSION].edge_index
    place = ligand.pos if positions is None else positions
    return Pose(
        place[None],
        torch.ones(1, len(place), dtype=torch.bool),
        Torsions(
            bonds.T[None], graph[TORSION].parent[None], ligand.group[None],
            torch.ones(1, bonds.shape[1], dtype=torch.bool),
        ),
    )  # fmt: skip
