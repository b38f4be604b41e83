"""The encoder: reads the crystal pose and gives the distribution of the latents (paper section 4.4)."""

import torch
from torch import Tensor

from core.interfaces import DiscreteEncoder
from core.types import LatentLogits
from domains.docking.batch import DockingBatch
from domains.docking.graph import Structure
from domains.docking.networks.backbone import Backbone, BackboneOptions, Features, Inputs
from domains.docking.networks.build import make_backbone
from domains.docking.networks.latents import LatentInput, collect
from domains.docking.networks.layers import NodeHead
from domains.docking.networks.vector import VectorBackbone, mean_of

HEAD_WIDTH = 128


def pooled(complexes: Structure, features: Features, backbone: Backbone | VectorBackbone) -> Tensor:
    """[B, 2 x invariants] means over ligand atoms and over residues."""
    means = []
    for values, sample, counts in (
        (features.ligand, complexes.atom_sample, complexes.atom_counts),
        (features.receptor, complexes.residue_sample, complexes.residue_counts),
    ):
        if values is None:
            raise ValueError("pooling needs the receptor's features")
        means.append(mean_of(backbone.invariants(values), sample, counts))
    return torch.cat(means, dim=1)


class DockingEncoder(DiscreteEncoder):
    """Logits of M latents over the nodes of each complex (ligand atoms first), or over a codebook."""

    def __init__(self, options: BackboneOptions, latents: LatentInput) -> None:
        super().__init__()
        self.backbone, self.latents = make_backbone(options, receptor=True), latents
        channels = self.backbone.invariant_width
        if latents.kind == "pointer":
            self.ligand_head = NodeHead(channels, HEAD_WIDTH, latents.count, 0.0)
            self.receptor_head = NodeHead(channels, HEAD_WIDTH, latents.count, 0.0)
        else:
            self.pooled_head = NodeHead(2 * channels, HEAD_WIDTH, latents.width, 0.0)

    def forward(self, batch: DockingBatch) -> LatentLogits:
        dtype = next(self.parameters()).dtype
        return self.logits(batch.structure(dtype), batch.crystal(dtype))

    def logits(self, complexes: Structure, positions: Tensor) -> LatentLogits:
        """positions: [n, 3] ligand atoms of the crystal pose, in the frame of the C-alphas."""
        features = self.backbone(complexes, Inputs(positions), read_receptor=True)
        if self.latents.kind == "pointer" and features.receptor is not None:
            atoms, residues = (self.backbone.invariants(x) for x in (features.ligand, features.receptor))
            return collect(complexes, self.ligand_head(atoms), self.receptor_head(residues))
        values = self.pooled_head(pooled(complexes, features, self.backbone))
        return LatentLogits(values.view(complexes.size, self.latents.count, self.latents.codes))
