"""Vina's function as a field: energies of ligands in rigid proteins, and their gradients by the atoms' places."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from domains.docking.empirical.terms import REACH, Pairs, ligand_kinds, near_pairs, pair_energies, protein_kinds
from domains.docking.graph import Structure

BONDS_APART = 4  # atoms of a ligand that feel each other are at least so many bonds apart, as in Vina
MARGIN = 2.0  # Angstrom: protein atoms so far beyond the reach are listed too, for ligands move on


class Field:
    """The field of B complexes. The lists of near protein atoms are those of the last ``look_around``."""

    def __init__(self, complexes: Structure, positions: Float[Tensor, "n 3"]) -> None:
        """positions: [n, 3] Angstrom, of the ligands' atoms in the frame of the protein. Raises ValueError where the
        graphs have no protein atoms."""
        self.complexes = complexes
        self.mine, self.theirs = ligand_kinds(complexes), protein_kinds(complexes)
        self.first, self.second = distant_pairs(complexes)
        self.own = Pairs.of(self.mine, self.mine, (self.first, self.second))
        self.look_around(positions)

    def look_around(self, positions: Float[Tensor, "n 3"]) -> None:
        """List the protein atoms around every ligand atom anew."""
        near, self.pairs = near_pairs(self.complexes, self.mine, self.theirs, positions, REACH + MARGIN)
        assert self.complexes.protein_positions is not None  # near_pairs sees to it
        self.listed, self.places = near.real, self.complexes.protein_positions[near.index]

    def __call__(self, positions: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " b"], Float[Tensor, "n 3"]]:
        """Energies [B] in kcal/mol, with the protein and within the ligand, and gradients [n, 3] in kcal/mol/A."""
        energy, pull = _energies(positions[:, None] - self.places, self.pairs)
        energy, gradient = (energy * self.listed).sum(1), (pull * self.listed[..., None]).sum(1)
        total = energy.new_zeros(self.complexes.size).index_add_(0, self.complexes.atom_sample, energy)
        energy, pull = _energies(positions[self.first] - positions[self.second], self.own)
        total.index_add_(0, self.complexes.atom_sample[self.first], energy)
        gradient = gradient.index_add(0, self.first, pull).index_add(0, self.second, -pull)
        return total, gradient


def internal_energies(complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, " b"]:
    """Vina's energy [B] of pairs within every ligand, kcal/mol."""
    kinds, (first, second) = ligand_kinds(complexes), distant_pairs(complexes)
    energy, _ = _energies(positions[first] - positions[second], Pairs.of(kinds, kinds, (first, second)))
    return energy.new_zeros(complexes.size).index_add_(0, complexes.atom_sample[first], energy)


def distant_pairs(complexes: Structure) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Numbers of the pairs of atoms of one ligand that are at least ``BONDS_APART`` bonds apart."""
    sample, slot, counts = complexes.atom_sample, complexes.atom_slot, complexes.atom_counts
    longest = int(counts.max())
    near = torch.eye(longest, device=sample.device).repeat(complexes.size, 1, 1)
    i, j = complexes.bonds
    near[sample[i], slot[i], slot[j]] = 1.0
    within = near
    for _ in range(BONDS_APART - 2):
        within = within @ near
    real = torch.arange(longest, device=sample.device) < counts[:, None]
    chosen = ((within == 0) & real[:, :, None] & real[:, None]).triu(1)
    which, first, second = chosen.nonzero(as_tuple=True)
    start = (counts.cumsum(0) - counts)[which]
    return start + first, start + second


def _energies(vector: Float[Tensor, "*p 3"], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Energies [...] of pairs within reach and their gradients [..., 3] by the vector between them."""
    distance = vector.square().sum(-1).add(1e-6).sqrt()
    energy, slope = pair_energies(distance - pairs.radius, pairs)
    inside = distance < REACH
    return energy * inside, (slope * inside / distance)[..., None] * vector
