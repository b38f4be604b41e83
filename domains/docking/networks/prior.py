"""The autoregressive prior over the latents of a complex: a copy of the denoiser with new heads (paper section 4.5)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.interfaces import PriorNet
from core.types import LatentLogits, Latents, padded
from domains.docking.batch import DockingBatch
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Inputs
from domains.docking.networks.build import make_backbone
from domains.docking.networks.denoiser import ScoreScale
from domains.docking.networks.encoder import HEAD_WIDTH, pooled
from domains.docking.networks.latents import LatentInput, collect
from domains.docking.networks.layers import NodeHead


@dataclass(frozen=True)
class PriorQuirks:
    """channels: how many scalars and pseudoscalars the heads read (the authors' read 16 of 24: their option ``ns`` is
    not that of the denoiser they copy), None for all; shared_head: one head for all latents, which knows the position
    only by the latents set before (the paper describes independent heads)."""

    channels: int | None = None
    shared_head: bool = False


AUTHORS_PRIOR = PriorQuirks(channels=16, shared_head=True)


class DockingPrior(PriorNet):
    """p(z_m | z_<m, complex): the denoiser's layers at t = 1 on the centred conformer, with its null embedding on."""

    def __init__(
        self, options: BackboneOptions, scale: ScoreScale, latents: LatentInput, quirks: PriorQuirks = PriorQuirks()
    ) -> None:
        super().__init__()
        self.backbone = make_backbone(options, receptor=True)
        self.scale, self.latents, self.quirks = scale, latents, quirks
        width = 2 * quirks.channels if quirks.channels else self.backbone.invariant_width
        outputs = 1 if quirks.shared_head else latents.count
        if latents.kind == "pointer":
            self.ligand_head = NodeHead(width, HEAD_WIDTH, outputs, options.dropout)
            self.receptor_head = NodeHead(width, HEAD_WIDTH, outputs, options.dropout)
        else:
            self.pooled_head = NodeHead(2 * self.backbone.invariant_width, HEAD_WIDTH, latents.width, options.dropout)

    def forward(self, batch: DockingBatch, codes: Int[Tensor, "b j"]) -> LatentLogits:
        slots = min(codes.shape[1] + 1, self.latents.count)
        each = [self.next_slot(batch, codes[:, :slot]) for slot in range(slots)]
        return LatentLogits(torch.cat([one.values for one in each], dim=1), each[0].mask)

    def next_slot(self, batch: DockingBatch, codes: Int[Tensor, "b j"]) -> LatentLogits:
        """Logits [B, 1, K] of slot J. In evaluation, samples of one complex with the same codes are computed once."""
        dtype = next(self.parameters()).dtype
        if self.training or torch.is_grad_enabled():
            return self.logits(batch.structure(dtype), prior_positions(batch, dtype), codes)
        keys = [(which, *known) for which, known in zip(batch.index, codes.tolist(), strict=True)]
        different = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        parts = []
        for key in different:
            one = slice(keys.index(key), keys.index(key) + 1)
            part = batch.select(one)
            parts.append(self.logits(part.structure(dtype), prior_positions(part, dtype), codes[one]))
        each, rows = pad_logits(parts), torch.tensor([different[key] for key in keys], device=codes.device)
        return LatentLogits(each.values[rows], None if each.mask is None else each.mask[rows])

    def logits(self, complexes: Structure, positions: Float[Tensor, "n 3"], codes: Int[Tensor, "b j"]) -> LatentLogits:
        """Logits [B, 1, K] of slot J, given codes of the slots before; positions: [n, 3] the conformer."""
        dtype = positions.dtype
        mask = complexes.pointer_mask
        width = mask.shape[1] if self.latents.kind == "pointer" else self.latents.codes
        values = positions.new_zeros(complexes.size, self.latents.count, width)
        slot = codes.shape[1]
        values[:, :slot] = nn.functional.one_hot(codes, width).to(dtype)
        known = self.latents(complexes, Latents(values, mask.new_ones(complexes.size)))
        t = positions.new_ones(complexes.size)
        features = self.backbone(
            complexes,
            Inputs(positions, t, self.scale.sigmas(t)[0].to(dtype), known.atoms, known.residues, torch.ones_like(t)),
            read_receptor=True,
        )
        if self.latents.kind == "pointer" and features.receptor is not None:
            atoms, residues = (self._ends(x) for x in (features.ligand, features.receptor))
            logits = collect(complexes, self.ligand_head(atoms), self.receptor_head(residues))
            chosen = 0 if self.quirks.shared_head else slot
            return LatentLogits(logits.values[:, chosen : chosen + 1], logits.mask)
        pooled_features = pooled(complexes, features, self.backbone)
        every = self.pooled_head(pooled_features).view(complexes.size, self.latents.count, -1)
        return LatentLogits(every[:, slot : slot + 1])

    def _ends(self, features: Tensor) -> Tensor:
        """What the heads read: all invariants, or the first and the last channels (scalars and pseudoscalars)."""
        channels = self.quirks.channels
        return self.backbone.invariants(features) if not channels else torch.cat(
            [features[:, :channels], features[:, -channels:]], dim=1
        )  # fmt: skip


def pad_logits(parts: list[LatentLogits]) -> LatentLogits:
    """Logits of several batches, one after the other, padded to the largest codebook."""
    if parts[0].mask is None:
        return LatentLogits(torch.cat([part.values for part in parts]))
    width = max(part.values.shape[2] for part in parts)
    masks = [part.mask for part in parts if part.mask is not None]
    return LatentLogits(
        torch.cat([padded(part.values, width) for part in parts]),
        torch.cat([nn.functional.pad(mask, (0, width - mask.shape[1])) for mask in masks]),
    )


def prior_positions(batch: DockingBatch, dtype: torch.dtype) -> Float[Tensor, "n 3"]:
    """Conformers at the centre of the C-alphas, turned as in the graphs (no matter: the logits are invariant)."""
    poses = batch.conformers()
    centred = poses.positions.double() - poses.centroid().double()[:, None]
    return centred[poses.mask].to(dtype)
