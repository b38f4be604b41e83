"""A cheap confidence model: the coarse backbone on a finished pose, and how closely the protein surrounds its atoms."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.docking.empirical.field import internal_energies
from domains.docking.empirical.terms import TERMS, WEIGHTS, empirical_terms
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Inputs
from domains.docking.networks.build import make_backbone
from domains.docking.networks.nearest import nearest
from domains.docking.networks.vector import mean_of

SHELLS = (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)  # Angstrom: where the protein atoms around a ligand atom are counted
SHELL_WIDTH = 0.4
REACH = 7.0  # Angstrom
NEIGHBOURS = 48
CLASH, CONTACT = 2.8, 4.0  # Angstrom, between heavy atoms
USUAL = (4.0, 50.0, 0.5, 1.0, 0.3)  # empirical terms of an atom of a true pose


class PoseRanker(nn.Module):
    """Logits of "RMSD below a threshold" per pose (column 0 ranks); the same call as ``ConfidenceNet``.

    empirical: it also hears the terms of Vina's scoring function, per atom and in all, and Vina's energy within the
    ligand. calibration: (a, b) of confidence = a logit + b, a logit of probability; ``ranking.held_out`` sets it.
    """

    def __init__(self, options: BackboneOptions, outputs: int, empirical: bool = False) -> None:
        super().__init__()
        self.options, self.empirical = options, empirical
        self.backbone = make_backbone(options, receptor=False)
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        width, seen = 2 * options.scalars, len(SHELLS) + TERMS * empirical
        self.atoms = nn.Sequential(
            nn.Linear(self.backbone.invariant_width + seen, width), nn.SiLU(), nn.Dropout(options.dropout),
            nn.Linear(width, width), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(2 * width + seen + 3 + 2 * empirical, width), nn.SiLU(), nn.Dropout(options.dropout),
            nn.Linear(width, outputs),
        )  # fmt: skip

    def forward(self, complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "b c"]:
        """positions: [n, 3] ligand atoms in Angstrom, in the frame of the protein."""
        features = self.backbone(complexes, Inputs(positions), read_receptor=False)
        around, near = surroundings(complexes, positions)
        terms = empirical_terms(complexes, positions) if self.empirical else None
        if terms is not None:
            around = torch.cat([around, terms / terms.new_tensor(USUAL)], dim=1)
        atoms = self.atoms(torch.cat([self.backbone.invariants(features.ligand), around], dim=1))
        close = torch.stack([near < CLASH, near < CONTACT], dim=1).to(atoms.dtype)
        means = mean_of(torch.cat([atoms, around, close], dim=1), complexes.atom_sample, complexes.atom_counts)
        sample = complexes.atom_sample[:, None].expand_as(atoms)
        most = atoms.new_zeros(complexes.size, atoms.shape[1]).scatter_reduce(
            0, sample, atoms, "amax", include_self=False
        )
        whole = [complexes.atom_counts.to(atoms.dtype).log()[:, None] - 3]  # about 20 atoms
        if terms is not None:
            energy = terms @ terms.new_tensor(WEIGHTS)
            total = energy.new_zeros(complexes.size).index_add_(0, complexes.atom_sample, energy)
            inner = internal_energies(complexes, positions)
            whole.append((torch.stack([total, inner], dim=1) / 10).asinh())  # overlaps have energies of any size
        result: Tensor = self.head(torch.cat([means, most, *whole], dim=1))
        return result


def surroundings(
    complexes: Structure, positions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n s"], Float[Tensor, " n"]]:
    """Protein atoms in soft shells around every ligand atom, and the distance of the nearest one (at most ``REACH``).

    Raises ValueError where the graphs have no protein atoms.
    """
    slot, places = complexes.protein_slot, complexes.protein_positions
    assert places is not None
    ligand = (complexes.atom_sample, complexes.atom_slot)
    near = nearest(positions, ligand, places, slot, complexes.size, NEIGHBOURS, REACH)
    distance = near.distance.masked_fill(~near.real, REACH)
    centres = positions.new_tensor(SHELLS)
    inside = (-((distance[..., None] - centres) ** 2) / (2 * SHELL_WIDTH**2)).exp() * near.real[..., None]
    return inside.sum(1).div(8), distance.amin(1)
