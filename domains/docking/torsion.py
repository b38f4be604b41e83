"""Turning rotatable bonds of many ligands at once, without a loop over bonds or molecules.

Each bond moves the smaller part of its molecule, and the parts of two bonds are either nested or disjoint. So an atom
moves with the innermost part it belongs to, and the motion of a part is that of the part around it after its own turn:
T(r) = T(parent(r)) o M(r). Pointer doubling composes a chain of d parts in log2(d) batched products.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.geometry.rigid import rotation_matrix


@dataclass(frozen=True)
class Torsions:
    """Rotatable bonds of B ligands, padded.

    bonds: [B, R, 2] atoms (u, v), v in the part that moves; parent: [B, R] the bond whose part is the next around it,
    -1 for none; group: [B, n] the bond whose part is the innermost around an atom, -1 for none; mask: [B, R] which
    exist.
    """

    bonds: Int[Tensor, "b r 2"]
    parent: Int[Tensor, "b r"]
    group: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b r"]

    def select(self, index: Tensor | slice) -> "Torsions":
        """The samples at ``index``."""
        return Torsions(self.bonds[index], self.parent[index], self.group[index], self.mask[index])

    def to(self, device: torch.device | str) -> "Torsions":
        return Torsions(
            self.bonds.to(device), self.parent.to(device), self.group.to(device), self.mask.to(device)
        )  # fmt: skip


def nesting(moves: Bool[np.ndarray, "r n"]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " n"]]:
    """``parent`` [R] and ``group`` [n] of ``Torsions`` from the atoms that each bond moves (nested or disjoint)."""
    bonds, atoms = moves.shape
    if not bonds:
        return np.empty(0, np.int64), np.full(atoms, -1, np.int64)
    size = moves.sum(1)
    common = moves.astype(np.int64) @ moves.T
    around = (common == size[:, None]) & (size[None] > size[:, None])
    return _smallest(around, size), _smallest(moves.T, size)


def _smallest(inside: Bool[np.ndarray, "x r"], size: Int[np.ndarray, " r"]) -> Int[np.ndarray, " x"]:
    """[X] the smallest part that each row is inside of, -1 for none."""
    choice = np.where(inside, size, size.max() + 1).argmin(1)
    return np.where(inside.any(1), choice, -1)


def turn(positions: Float[Tensor, "b n 3"], torsions: Torsions, angles: Float[Tensor, "b r"]) -> Float[Tensor, "b n 3"]:
    """Atoms after turning every bond by its angle (radians).

    A positive angle turns the part of v right-handedly about the axis from v to u (the convention of torsional
    diffusion and DiffDock). The atoms that no bond moves stay where they are. All bonds turn by the geometry at the
    start; since parts are nested, the order in which one would turn them one by one does not matter.
    """
    size, count = angles.shape
    if not count:
        return positions
    u, v = (_gather(positions, torsions.bonds[:, :, end]) for end in (0, 1))
    axis = torch.nn.functional.normalize(u - v, dim=-1)
    turns = rotation_matrix(axis * (angles * torsions.mask)[..., None])
    # One identity behind the last bond: the motion of everything that has no parent.
    identity = torch.eye(3, dtype=positions.dtype, device=positions.device).expand(size, 1, 3, 3)
    rotation = torch.cat([turns, identity], dim=1)
    shift = torch.cat([v - (turns @ v[..., None])[..., 0], v.new_zeros(size, 1, 3)], dim=1)
    parent = torch.nn.functional.pad(torsions.parent, (0, 1), value=-1).remainder(count + 1)
    while bool((parent < count).any()):
        outer = _gather(rotation.flatten(2), parent).view_as(rotation)
        shift = (outer @ shift[..., None])[..., 0] + _gather(shift, parent)
        rotation = outer @ rotation
        parent = parent.gather(1, parent)
    group = torsions.group.remainder(count + 1)
    turned = (_gather(rotation.flatten(2), group).unflatten(2, (3, 3)) @ positions[..., None])[..., 0]
    return turned + _gather(shift, group)


def _gather(values: Float[Tensor, "b k c"], index: Int[Tensor, "b j"]) -> Float[Tensor, "b j c"]:
    """Rows of every sample."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
