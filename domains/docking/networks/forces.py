"""Scores from forces on atoms: their mean moves the ligand, their torque turns it, torques about bonds turn these.

    tr = mean_i f_i,   rot = mean_i (r_i - c)/R x g_i,   tor(b) = sum_c w_c(b) axis . sum_{i in part} (r_i - r_b) x q_ic

f, g and q are vectors of the backbone, R is the ligand's radius of gyration. The scores are equivariant by
construction, and a network that has learned how atoms attract and repel need not learn lever arms.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions
from domains.docking.networks.vector import VectorFeatures, mean_of
from domains.docking.pose import Pose
from domains.docking.torsion import Torsions

CHANNELS = 8  # kinds of forces that turn bonds


def moved_atoms(torsions: Torsions, atoms: int) -> Bool[Tensor, "b r n"]:
    """Which atoms every bond moves."""
    size, count = torsions.mask.shape
    none = torch.eye(count + 1, dtype=torch.bool, device=torsions.mask.device)[:, :count]
    inside = none.expand(size, -1, -1).clone()  # [B, R + 1, R]: part r lies in part s; the last row is no part at all
    parent = nn.functional.pad(torsions.parent, (0, 1), value=-1).remainder(count + 1)
    outer = parent
    while bool((outer < count).any()):
        inside |= none[outer]
        outer = parent.gather(1, outer)
    group = torsions.group.remainder(count + 1)[:, :atoms]
    return inside.gather(1, group[..., None].expand(-1, -1, count)).transpose(1, 2)


class ForceHead(nn.Module):
    """Translation [B, 3], rotation [B, 3] and torsion [B, R] scores, before their scaling with the noise level."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        d, forces = options.scalars, 2 + CHANNELS
        self.vectors = nn.Linear(options.vectors, forces, bias=False)
        self.gates = nn.Linear(d, forces)
        self.bonds = nn.Sequential(
            nn.Linear(2 * d + options.sigma_dim, d), nn.SiLU(), nn.Dropout(options.dropout), nn.Linear(d, 2 * CHANNELS)
        )
        self.scale = nn.Sequential(nn.Linear(options.sigma_dim + d, d), nn.SiLU(), nn.Linear(d, 2))

    def forward(
        self, complexes: Structure, pose: Pose, positions: Tensor, features: VectorFeatures
    ) -> tuple[Tensor, Tensor, Tensor]:
        """positions: [n, 3] atoms of the pose in the network's precision."""
        h, v, sigma = features.ligand, features.vectors, features.sigma
        if sigma is None or v is None:
            raise ValueError("scores need a noise level and vectors")
        mask, weight = pose.mask, pose.mask.to(h.dtype)
        flat = self.vectors(v) * (1 + self.gates(h))[:, None]  # [n, 3, forces]
        forces = flat.new_zeros(*mask.shape, 3, flat.shape[2]).masked_scatter(mask[..., None, None], flat)
        place = positions.new_zeros(*mask.shape, 3).masked_scatter(mask[..., None], positions)
        share = (weight / weight.sum(1, keepdim=True))[..., None]
        arms = (place - (place * share).sum(1, keepdim=True)) * weight[..., None]
        radius = (arms.square().sum(-1, keepdim=True) * share).sum(1, keepdim=True).add(0.25).sqrt()
        pooled = mean_of(h, complexes.atom_sample, complexes.atom_counts)
        scale = self.scale(torch.cat([sigma, pooled], dim=1))
        translation = (forces[..., 0] * share).sum(1) * (1 + scale[:, :1])
        rotation = (torch.linalg.cross(arms / radius, forces[..., 1]) * share).sum(1) * (1 + scale[:, 1:])
        return translation, rotation, self._torsions(pose, place, forces[..., 2:], h, sigma)

    def _torsions(self, pose: Pose, place: Tensor, forces: Tensor, h: Tensor, sigma: Tensor) -> Float[Tensor, "b r"]:
        torsions = pose.torsions
        size, bonds = torsions.mask.shape
        if not bonds:
            return place.new_zeros(size, 0)
        padded = h.new_zeros(*pose.mask.shape, h.shape[1]).masked_scatter(pose.mask[..., None], h)
        rows = torch.arange(size, device=h.device)[:, None]
        u, v = torsions.bonds.unbind(-1)
        axis = nn.functional.normalize(place[rows, u] - place[rows, v], dim=-1, eps=1e-6)
        middle = (place[rows, u] + place[rows, v]) / 2
        # axis . ((r - m) x q) = q . (axis x (r - m)), summed over the part that moves and over the rest.
        lever = torch.linalg.cross(axis[:, :, None], place[:, None] - middle[:, :, None], dim=-1)  # [B, R, n, 3]
        moved = moved_atoms(torsions, pose.mask.shape[1])
        sides = torch.stack([moved, ~moved & pose.mask[:, None]], dim=1).to(h.dtype)  # [B, 2, R, n]
        sides = sides / sides.sum(-1, keepdim=True).clamp_min(1).sqrt()
        torque = torch.einsum("bsrn,brnx,bnxc->brsc", sides, lever / 3, forces).flatten(2)
        ends = padded[rows, u] + padded[rows, v]
        known = torch.cat([ends, padded[rows, u] * padded[rows, v], sigma[:, None].expand(-1, bonds, -1)], dim=-1)
        return (torque * self.bonds(known)).sum(-1) * torsions.mask
