"""The score network, with or without discrete latents."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from core.interfaces import Denoiser
from core.types import Latents, Tangent
from domains.docking.batch import DockingBatch
from domains.docking.graph import Structure
from domains.docking.networks.backbone import Backbone, BackboneOptions, Inputs
from domains.docking.networks.heads import RigidHead, TorsionHead
from domains.docking.networks.latents import LatentInput, NodeLatents
from domains.docking.pose import Pose


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
        self.backbone = Backbone(options)
        self.rigid, self.torsion = RigidHead(options), TorsionHead(options)
        self.scale, self.latents = scale, latents

    def forward(self, state: Pose, level: Tensor, latents: Latents | None, batch: DockingBatch) -> Tangent:
        """level: [B] times in [0, 1]. Padded torsions get a score of 0.

        In evaluation on a CPU samples are computed one after the other: small arrays stay in its cache.
        """
        if self.training or torch.is_grad_enabled() or batch.ids.device.type != "cpu" or batch.size == 1:
            return self.scores(state, level, latents, batch)
        parts = []
        for one in (slice(i, i + 1) for i in range(batch.size)):
            chosen = None if latents is None else latents.select(one)
            parts.append(self.scores(state.select(one), level[one], chosen, batch.select(one)))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def scores(self, state: Pose, level: Tensor, latents: Latents | None, batch: DockingBatch) -> Tangent:
        """As ``forward``, in one call for all samples."""
        dtype = next(self.parameters()).dtype
        complexes, t = batch.structure(dtype), level.to(dtype)
        positions = state.flat.to(dtype)
        tr, rot, tor = self.flat_scores(complexes, positions, t, self.latents(complexes, latents))
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
        inputs = Inputs(
            positions, t, self.scale.sigmas(t)[0].to(t.dtype), latents.atoms, latents.residues, latents.unconditional
        )
        features = self.backbone(complexes, inputs, read_receptor=False)
        translation, rotation = self.rigid(complexes, positions, features)
        torsion = self.torsion(complexes, positions, features)
        tr, rot, tor = (norm.to(t.dtype) for norm in self.scale.score_norms(t))
        return translation * tr[:, None], rotation * rot[:, None], torsion * tor[complexes.torsion_sample]
