"""How discrete latents reach the nodes: as pointers to nodes of the complex, or as words of a fixed codebook."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from core.types import LatentLogits, Latents
from domains.docking.graph import Structure

LatentKind = Literal["pointer", "vocabulary", "none"]


@dataclass(frozen=True)
class NodeLatents:
    """Latents as node inputs: atoms [n, W], residues [N, W]; unconditional: [B] 1 where they were dropped."""

    atoms: Float[Tensor, "n w"] | None = None
    residues: Float[Tensor, "m w"] | None = None
    unconditional: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class LatentInput:
    """kind: ``pointer``: latent m is one node (ligand atoms first, then residues) and its bit m is 1 (paper section
    4.4); ``vocabulary``: latent m is one of ``codes`` words that all nodes see; count: M."""

    kind: LatentKind = "none"
    count: int = 0
    codes: int = 0

    @property
    def width(self) -> int:
        """Numbers per node."""
        return {"pointer": self.count, "vocabulary": self.count * self.codes, "none": 0}[self.kind]

    def __call__(self, complexes: Structure, latents: Latents | None) -> NodeLatents:
        """Node inputs; a model with latents that gets None, or dropped latents, sees zeros and its null embedding."""
        if self.kind == "none":
            return NodeLatents()
        if latents is None:
            atoms, residues = (complexes.ca.new_zeros(len(x), self.width) for x in (complexes.atoms, complexes.ca))
            return NodeLatents(atoms, residues, complexes.ca.new_ones(complexes.size))
        values = latents.values.to(complexes.ca.dtype) * latents.keep[:, None, None]
        atoms, residues = spread(complexes, values) if self.kind == "pointer" else (
            values.flatten(1)[complexes.atom_sample], values.flatten(1)[complexes.residue_sample]
        )  # fmt: skip
        return NodeLatents(atoms, residues, (~latents.keep).to(complexes.ca.dtype))


def spread(complexes: Structure, values: Float[Tensor, "b m k"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "r m"]]:
    """Per-category values to the nodes that the categories stand for: atoms [n, M], residues [N, M]."""
    atom, residue = complexes.pointer_slot
    return values[complexes.atom_sample, :, atom], values[complexes.residue_sample, :, residue]


def collect(complexes: Structure, atoms: Float[Tensor, "n m"], residues: Float[Tensor, "r m"]) -> LatentLogits:
    """Inverse of ``spread``: logits [B, M, K] over the nodes of each complex, with the mask of those that exist."""
    mask = complexes.pointer_mask
    values = atoms.new_zeros(*mask.shape, atoms.shape[1])
    atom, residue = complexes.pointer_slot
    values[complexes.atom_sample, atom] = atoms
    values[complexes.residue_sample, residue] = residues
    return LatentLogits(values.transpose(1, 2), mask)
