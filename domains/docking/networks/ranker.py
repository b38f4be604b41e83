"""A cheap confidence model: the coarse backbone on a finished pose, and how closely the protein surrounds its atoms."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

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


class PoseRanker(nn.Module):
    """Logits of "RMSD below a threshold" per pose (column 0 ranks); the same call as ``ConfidenceNet``."""

    def __init__(self, options: BackboneOptions, outputs: int) -> None:
        super().__init__()
        self.options = options
        self.backbone = make_backbone(options, receptor=False)
        width = 2 * options.scalars
        self.atoms = nn.Sequential(
            nn.Linear(self.backbone.invariant_width + len(SHELLS), width), nn.SiLU(), nn.Dropout(options.dropout),
            nn.Linear(width, width), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(2 * width + len(SHELLS) + 3, width), nn.SiLU(), nn.Dropout(options.dropout),
            nn.Linear(width, outputs),
        )  # fmt: skip

    def forward(self, complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "b c"]:
        """positions: [n, 3] ligand atoms in Angstrom, in the frame of the protein."""
        features = self.backbone(complexes, Inputs(positions), read_receptor=False)
        shells, near = surroundings(complexes, positions)
        atoms = self.atoms(torch.cat([self.backbone.invariants(features.ligand), shells], dim=1))
        close = torch.stack([near < CLASH, near < CONTACT], dim=1).to(atoms.dtype)
        seen = torch.cat([atoms, shells, close], dim=1)
        means = mean_of(seen, complexes.atom_sample, complexes.atom_counts)
        sample = complexes.atom_sample[:, None].expand_as(atoms)
        most = atoms.new_zeros(complexes.size, atoms.shape[1]).scatter_reduce(
            0, sample, atoms, "amax", include_self=False
        )
        size = complexes.atom_counts.to(atoms.dtype).log()[:, None] - 3  # about 20 atoms
        result: Tensor = self.head(torch.cat([means, most, size], dim=1))
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
