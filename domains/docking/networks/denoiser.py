"""The score network, with or without discrete latents."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from core.interfaces import Denoiser
from core.types import Latents, Tangent
from domains.docking.batch import DockingBatch
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Inputs
from domains.docking.networks.build import make_backbone
from domains.docking.networks.forces import ForceHead
from domains.docking.networks.heads import RigidHead, TorsionHead
from domains.docking.networks.latents import LatentInput, NodeLatents
from domains.docking.networks.vector import VectorBackbone
from domains.docking.noise import FIELDS
from domains.docking.pose import Pose

VECTOR_AT_ONCE = 8  # samples per call of the light network on a CPU


@runtime_checkable
class ScoreScale(Protocol):
    """Typical sizes of scores at times t [B]."""

    def sigmas(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise levels of translation, rotation and torsions."""

    def score_norms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Root mean squares of the three scores (translation: 1/sigma)."""


class DockingDenoiser(Denoiser):
    """Scores of a noisy pose: tangent fields tr [B, 3] (1/A), rot [B, 3] and tor [B, R] (1/rad)."""

    def __init__(self, options: BackboneOptions, scale: ScoreScale, latents: LatentInput) -> None:
        super().__init__()
        self.backbone = make_backbone(options, receptor=False)
        if options.network == "vector":
            self.forces = ForceHead(options)
        else:
            self.rigid, self.torsion = RigidHead(options), TorsionHead(options)
        self.scale, self.latents = scale, latents

    def forward(self, state: Pose, level: Tensor, latents: Latents | None, batch: DockingBatch) -> Tangent:
        """level: [B] times in [0, 1]. Padded torsions get a score of 0.

        In evaluation on a CPU few samples are computed at a time: small arrays stay in its cache.
        """
        few = VECTOR_AT_ONCE if isinstance(self.backbone, VectorBackbone) else 1
        if self.training or torch.is_grad_enabled() or batch.ids.device.type != "cpu" or batch.size <= few:
            return self.scores(state, level, latents, batch)
        parts = []
        for one in (slice(i, min(i + few, batch.size)) for i in range(0, batch.size, few)):
            chosen = None if latents is None else latents.select(one)
            parts.append(self.scores(state.select(one), level[one], chosen, batch.select(one)))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def scores(self, state: Pose, level: Tensor, latents: Latents | None, batch: DockingBatch) -> Tangent:
        """As ``forward``, in one call for all samples."""
        dtype = next(self.parameters()).dtype
        complexes, t = batch.structure(dtype), level.to(dtype)
        positions, known = state.flat.to(dtype), self.latents(complexes, latents)
        if isinstance(self.backbone, VectorBackbone):
            return self._force_scores(state, complexes, positions, t, known)
        tr, rot, tor = self.flat_scores(complexes, positions, t, known)
        if not len(tor) and torch.is_grad_enabled():  # several processes need a gradient for every parameter
            tr = tr + 0 * sum(p.sum() for p in self.torsion.parameters())
        padded = tor.new_zeros(state.torsions.mask.shape)
        padded[state.torsions.mask] = tor
        out = state.positions.dtype
        return {"tr": tr.to(out), "rot": rot.to(out), "tor": padded.to(out)}

    def flat_scores(
        self, complexes: Structure, positions: Float[Tensor, "n 3"], t: Float[Tensor, " b"], latents: NodeLatents
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3], [B, 3] and [R] scores of concatenated complexes."""
        features = self.backbone(complexes, self._inputs(positions, t, latents), read_receptor=False)
        translation, rotation = self.rigid(complexes, positions, features)
        torsion = self.torsion(complexes, positions, features)
        tr, rot, tor = (norm.to(t.dtype) for norm in self.scale.score_norms(t))
        return translation * tr[:, None], rotation * rot[:, None], torsion * tor[complexes.torsion_sample]

    def _force_scores(
        self, state: Pose, complexes: Structure, positions: Tensor, t: Tensor, latents: NodeLatents
    ) -> Tangent:
        features = self.backbone(complexes, self._inputs(positions, t, latents), read_receptor=False)
        scores = self.forces(complexes, state, positions, features)
        norms = self.scale.score_norms(t)
        out = state.positions.dtype
        return {
            name: (score * norm.to(t.dtype)[:, None]).to(out)
            for name, score, norm in zip(FIELDS, scores, norms, strict=True)
        }

    def _inputs(self, positions: Tensor, t: Tensor, latents: NodeLatents) -> Inputs:
        sigma = self.scale.sigmas(t)[0].to(t.dtype)
        return Inputs(positions, t, sigma, latents.atoms, latents.residues, latents.unconditional)
