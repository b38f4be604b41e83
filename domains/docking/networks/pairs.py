"""Which nodes of the same complex lie within a distance of each other (no torch-cluster)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from domains.docking.networks.edges import Edges, Table
from domains.docking.networks.layers import unit_times_root3


def pairs_within(
    first: Float[Tensor, "n 3"], first_slot: tuple[Tensor, Tensor], second: Float[Tensor, "m 3"],
    second_slot: tuple[Tensor, Tensor], size: int, cutoff: Float[Tensor, " b"], maximum: int | None = None,
    loops: bool = True,
) -> Int[Tensor, "2 e"]:  # fmt: skip
    """[2, E] numbers (i, j) of nodes with |first_i - second_j| <= cutoff of their complex, sorted by i.

    *_slot: complex number and number within it of every node, complexes in ascending order; maximum: keep only that
    many nearest j of every i; loops: whether i = j counts (False for a set with itself).
    """
    a, a_real = pad_nodes(first, first_slot, size)
    b, b_real = pad_nodes(second, second_slot, size)
    distance = torch.stack([a[:, :, None, axis] - b[:, None, :, axis] for axis in range(3)]).square_().sum(0).sqrt_()
    near = (distance <= cutoff[:, None, None]) & a_real[:, :, None] & b_real[:, None, :]
    if not loops:
        near &= ~torch.eye(near.shape[1], dtype=torch.bool, device=near.device)
    if maximum is not None and near.shape[2] > maximum:
        rank = distance.masked_fill(~near, torch.inf).argsort(-1).argsort(-1)
        near &= rank < maximum
    sample, i, j = near.nonzero(as_tuple=True)
    return torch.stack([i + starts(first_slot[0], size)[sample], j + starts(second_slot[0], size)[sample]])


def pad_nodes(x: Tensor, slot: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Bool[Tensor, "b n"]]:
    """[B, longest, 3] and which places are real."""
    longest = int(slot[1].max()) + 1 if len(x) else 0
    padded, real = x.new_zeros(size, longest, 3), torch.zeros(size, longest, dtype=torch.bool, device=x.device)
    padded[slot], real[slot] = x, True
    return padded, real


def starts(sample: Tensor, size: int) -> Tensor:
    """[B] number of the first node of every complex, for sorted sample numbers."""
    counts = torch.bincount(sample, minlength=size)
    return counts.cumsum(0) - counts


def make_edges(
    index: Int[Tensor, "2 e"], receivers: Float[Tensor, "n 3"], sources: Float[Tensor, "m 3"]
) -> tuple[Edges, Float[Tensor, " e"]]:
    """Edges (row 0 of ``index`` receives from row 1) without features, and their lengths in Angstrom."""
    vector = sources[index[1]] - receivers[index[0]]
    length = vector.norm(dim=1)
    table = Table.of(index[0], len(receivers))
    unit = unit_times_root3(vector, length)
    return Edges(index[0], index[1], unit, vector[:, :0], table, len(sources)), length
