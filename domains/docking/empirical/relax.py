"""Poses relaxed in Vina's field: the ligand as a whole and its torsions move, bonds and angles and the protein do not.

Sampled poses have the place and the shape of a binding mode and atoms that overlap the protein by a few tenths of an
Angstrom, which is what scoring functions punish most. The minimiser is BFGS, as in Vina, on all poses at once: one
step of each per call of the field, and a step that does not lower its pose's energy is tried again at a third.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from core.geometry.rigid import rotation_matrix
from domains.docking.empirical.field import Field
from domains.docking.graph import Structure
from domains.docking.networks.forces import moved_atoms
from domains.docking.pose import Pose
from domains.docking.torsion import turn

LEVER = 2.0  # Angstrom: how far a turn of one radian about a bond moves atoms, roughly
LONGEST = 1.0  # Angstrom, of one step
STIFFNESS = 50.0  # kcal/mol/A^2 that the first step supposes
DECREASE = 1e-4  # of what the slope promises, at least (Armijo)
SHORTER = 0.3
LOOK = 8  # steps between lists of near atoms


class Motion:
    """Steps [B, 6 + R] of poses: translation, rotation about the centroid, torsions; Angstrom that atoms move."""

    def __init__(self, pose: Pose) -> None:
        self.mask, self.torsions = pose.mask, pose.torsions
        dtype = pose.positions.dtype
        self.weight = pose.mask.to(dtype) / pose.mask.sum(1, keepdim=True)
        self.moved = moved_atoms(pose.torsions, pose.mask.shape[1]).to(dtype)
        arms = (pose.positions - self._centre(pose.positions)).square().sum(-1)
        self.radius = (arms * self.weight).sum(1, keepdim=True).add(0.25).sqrt()

    def _centre(self, x: Float[Tensor, "b n 3"]) -> Float[Tensor, "b 1 3"]:
        return (x * self.weight[..., None]).sum(1, keepdim=True)

    def move(self, x: Float[Tensor, "b n 3"], step: Float[Tensor, "b d"]) -> Float[Tensor, "b n 3"]:
        """Atoms after turning bonds, then the whole."""
        centre = self._centre(x)
        rotation = rotation_matrix(step[:, 3:6] / self.radius)
        turned = turn(x, self.torsions, step[:, 6:] / LEVER)
        return (turned - centre) @ rotation.mT + centre + step[:, None, :3]

    def slope(self, x: Float[Tensor, "b n 3"], gradient: Float[Tensor, "b n 3"]) -> Float[Tensor, "b d"]:
        """Derivatives by the steps at 0, from those by the atoms' places."""
        torque = torch.linalg.cross(x - self._centre(x), gradient).sum(1)
        rows = torch.arange(len(x), device=x.device)[:, None]
        u, v = (x[rows, end] for end in self.torsions.bonds.unbind(-1))
        axis = functional.normalize(u - v, dim=-1)
        # axis . sum_i (r_i - v) x g_i over the atoms that the bond moves
        about = self.moved @ torch.linalg.cross(x, gradient) - torch.linalg.cross(v, self.moved @ gradient, dim=-1)
        bonds = (axis * about).sum(-1) * self.torsions.mask
        return torch.cat([gradient.sum(1), torque / self.radius, bonds / LEVER], dim=1)


@torch.no_grad()
def relaxed(complexes: Structure, pose: Pose, steps: int) -> Pose:
    """The poses after so many steps downhill; none ends higher than it began, and those that are not finite stay.

    complexes: in the precision of the pose. Raises ValueError where the graphs have no protein atoms.
    """
    x, motion = pose.positions, Motion(pose)
    field = Field(complexes, x[pose.mask])

    def look(places: Tensor) -> tuple[Tensor, Tensor]:
        energy, gradient = field(places[pose.mask])
        padded = torch.zeros_like(places).masked_scatter(pose.mask[..., None], gradient)
        return energy, motion.slope(places, padded)

    energy, slope = look(x)
    inverse = torch.eye(slope.shape[1], dtype=x.dtype, device=x.device).expand(len(x), -1, -1) / STIFFNESS
    fresh, scale = torch.ones_like(energy, dtype=torch.bool), torch.ones_like(energy)
    for number in range(1, steps + 1):
        way = -(inverse @ slope[..., None])[..., 0]
        step = way * (scale * (LONGEST / way.norm(dim=1).clamp_min(1e-9)).clamp_max(1))[:, None]
        there = motion.move(x, step)
        new_energy, new_slope = look(there)
        lower = new_energy <= energy + DECREASE * (step * slope).sum(1)
        inverse, fresh = _updated(inverse, step, new_slope - slope, lower, fresh)
        x = torch.where(lower[:, None, None], there, x)
        energy, slope = torch.where(lower, new_energy, energy), torch.where(lower[:, None], new_slope, slope)
        scale = torch.where(lower, 1.0, scale * SHORTER)
        if number % LOOK == 0 and number < steps:
            field.look_around(x[pose.mask])
            energy, slope = look(x)
    return pose.moved_to(x)


def _updated(
    inverse: Float[Tensor, "b d d"], step: Float[Tensor, "b d"], change: Float[Tensor, "b d"],
    taken: Bool[Tensor, " b"], fresh: Bool[Tensor, " b"],
) -> tuple[Float[Tensor, "b d d"], Bool[Tensor, " b"]]:  # fmt: skip
    """The BFGS update of inverse Hessians (Nocedal & Wright 2006, eq. 6.17) where a step was taken along which the
    slope grew; the first one also sets the scale (their eq. 6.20). change: of the slope."""
    along = (step * change).sum(1)
    good = taken & (along > 1e-8)
    first = (good & fresh)[:, None, None]
    size = along / change.square().sum(1).clamp_min(1e-12)
    identity = torch.eye(step.shape[1], dtype=step.dtype, device=step.device)
    inverse = torch.where(first, size[:, None, None] * identity, inverse)
    rho = torch.where(good, 1 / along.where(good, 1.0), 0.0)[:, None, None]
    turned = inverse @ change[..., None]  # [B, D, 1]
    s = step[..., None]
    curved = 1 + rho * (change[:, None] @ turned)
    update = rho * (curved * (s @ s.mT) - turned @ s.mT - s @ turned.mT)
    return torch.where(good[:, None, None], inverse + update, inverse), fresh & ~good
