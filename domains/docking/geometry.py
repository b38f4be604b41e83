"""Poses as points of R3 x SO(3) x T^k: noise on translation, rotation and torsions, and steps along them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from core.geometry import torus
from core.geometry.rigid import random_rotation, rotation_matrix, superpose
from core.interfaces import Geometry
from core.rng import SampleStreams
from core.types import Corrupted, Tangent
from domains.docking.batch import DockingBatch
from domains.docking.noise import FIELDS, LOSS_WEIGHTS, DockingNoise
from domains.docking.pose import Pose
from domains.docking.torsion import turn


@dataclass(frozen=True)
class DockingGeometry(Geometry[Pose]):
    """Fields: tr [B, 3] Angstrom, rot [B, 3] rotation vectors about the ligand's centroid, tor [B, R] radians.

    The time t in [0, 1] is itself what the denoiser is conditioned on.
    """

    noise: DockingNoise = DockingNoise()
    weights: tuple[float, float, float] = LOSS_WEIGHTS  # of the fields' losses
    flat: ClassVar[bool] = False
    level_is_sigma: ClassVar[bool] = False

    def noise_level(self, t: Tensor) -> Tensor:
        return t

    def time_at(self, level: Tensor) -> Tensor:
        return level

    def sigma(self, state: Pose, t: Tensor) -> Tangent:
        return {name: sigma[:, None] for name, sigma in zip(FIELDS, self.noise.sigmas(t), strict=True)}

    def diffusivity(self, state: Pose, t: Tensor) -> Tangent:
        """d sigma^2/dt = sigma^2 2 ln(max/min)."""
        growth = dict(zip(FIELDS, self.noise.growth(), strict=True))
        return {name: growth[name] * sigma**2 for name, sigma in self.sigma(state, t).items()}

    def corrupt(self, clean: Pose, t: Tensor, streams: SampleStreams) -> Corrupted[Pose]:
        """Noisy pose; targets are the scores of the three kernels. With the weights the mean loss of a network that
        answers 0 is 1/3 for translation and torsions, and 1/9 for rotation, whose norm is that of the whole vector (as
        in DiffDock). Torsions that only pad the batch count nothing."""
        t = t.to(clean.positions.dtype)
        tr_sigma, rot_sigma, tor_sigma = self.noise.sigmas(t)
        torsions = clean.torsions.mask
        tr = tr_sigma[:, None] * streams.normal(3, dtype=t.dtype)
        angle = streams.uniform(1, dtype=torch.float64)[:, 0]
        rot = self.noise.igso3.sample(angle, streams.normal(3, dtype=torch.float64), rot_sigma.double()).to(t.dtype)
        tor = tor_sigma[:, None] * self._torsion_normals(clean, streams)
        target = {
            "tr": -tr / tr_sigma[:, None] ** 2,
            "rot": self.noise.igso3.score(rot, rot_sigma),
            "tor": torus.score(tor, tor_sigma[:, None]) * torsions,
        }
        norms = dict(zip(FIELDS, self.noise.score_norms(t), strict=True))
        weight = {name: w / norms[name][:, None] ** 2 for name, w in zip(FIELDS, self.weights, strict=True)}
        # The loss takes the mean over all columns; this makes it the mean over a ligand's own bonds.
        share = torsions.shape[1] / torsions.sum(1, keepdim=True).clamp_min(1)
        weight["tor"] = weight["tor"] * share * torsions
        return Corrupted(self.retract(clean, {"tr": tr, "rot": rot, "tor": tor}), target, weight)

    def sample_noise(self, batch: DockingBatch, t: Tensor, streams: SampleStreams) -> Pose:
        """Conformers with uniform torsions and orientations, at normal distances from the C-alphas' mean."""
        start = batch.conformers().to(batch.ids.device, torch.float64)
        torsions = start.torsions
        uniform = streams.uniform(torsions.mask.shape[1], dtype=torch.float64)
        turned = start.moved_to(turn(start.positions, torsions, (2 * uniform - 1) * math.pi))
        rotation = random_rotation(streams.normal(4, dtype=torch.float64))
        place = self.noise.sigmas(t.double())[0][:, None] * streams.normal(3, dtype=torch.float64)
        centred = turned.positions - turned.centroid()[:, None]
        return turned.moved_to(centred @ rotation.mT + place[:, None])

    def draw(self, state: Pose, streams: SampleStreams) -> Tangent:
        dtype = state.positions.dtype
        tr, rot = streams.normal(3, dtype=dtype), streams.normal(3, dtype=dtype)
        return {"tr": tr, "rot": rot, "tor": self._torsion_normals(state, streams)}

    @staticmethod
    def _torsion_normals(state: Pose, streams: SampleStreams) -> Float[Tensor, "b r"]:
        """By inversion, so that a ligand's numbers do not depend on how far the batch pads it."""
        uniform = streams.uniform(state.torsions.mask.shape[1], dtype=torch.float64)
        return torch.special.ndtri(uniform).to(state.positions.dtype) * state.torsions.mask

    def retract(self, state: Pose, step: Tangent) -> Pose:
        """Rotate about the centroid and translate; then turn the torsions and lay the result on the rigidly moved pose,
        so that turning bonds neither moves nor rotates the ligand (paper section 4.2)."""
        centre = state.centroid()[:, None]
        dtype = state.positions.dtype
        rotation = rotation_matrix(step["rot"].to(dtype))
        moved = (state.positions - centre) @ rotation.mT + centre + step["tr"].to(dtype)[:, None]
        if not state.torsions.mask.shape[1]:
            return state.moved_to(moved)
        turned = turn(moved, state.torsions, step["tor"].to(dtype))
        back, shift = superpose(turned, moved, state.mask)
        return state.moved_to(turned @ back.mT + shift[:, None])

    def distance(self, first: Pose, second: Pose) -> Tensor:
        """RMSD in Angstrom without superposition, atom by atom."""
        square = (first.positions - second.positions).square().sum(-1) * first.mask
        return (square.sum(1) / first.mask.sum(1)).sqrt()

    def concatenate(self, states: Sequence[Pose]) -> Pose:
        return Pose.concatenate(states)

    def split(self, tangent: Tangent, parts: int) -> list[Tangent]:
        pieces = {name: value.chunk(parts) for name, value in tangent.items()}
        return [{name: piece[i] for name, piece in pieces.items()} for i in range(parts)]
