"""One interaction layer between ligand atoms and residues, and the edges that its messages run along."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.docking.networks.convolution import TensorProductConv
from domains.docking.networks.edges import Edges
from domains.docking.networks.irreps import Irreps, IrrepsBatchNorm
from domains.docking.networks.products import Product

CROWD = 16.0  # protein atoms near a ligand atom, roughly: keeps their summed messages of order one


@dataclass(frozen=True)
class Wiring:
    """Edges of one layer. wanted: [D] residues whose new features something reads later, None for all; receptor and
    reverse are None in a last layer whose residues nothing reads; contact: from protein atoms, with their features
    ``protein`` [A, s], where the network has such messages."""

    ligand: Edges
    cross: Edges
    receptor: Edges | None
    reverse: Edges | None
    wanted: Tensor | None = None
    contact: Edges | None = None
    protein: Tensor | None = None

    def plan(self, layers: int, residues: int) -> list["Wiring"]:
        """Edges of every layer, without messages that no ligand atom can feel any more."""
        assert self.receptor is not None
        assert self.reverse is not None
        wanted = torch.zeros(residues, dtype=torch.bool, device=self.cross.source.device)
        wanted[self.cross.source] = True
        plan = [replace(self, receptor=None, reverse=None)]
        for _ in range(layers - 1):
            if bool(wanted.all()):
                plan.append(self)
                continue
            rows = wanted.nonzero()[:, 0]
            near = self.receptor.into(rows)
            plan.append(replace(self, receptor=near, reverse=self.reverse.into(rows), wanted=rows))
            wanted = wanted.clone()
            wanted[near.source] = True
        return plan[::-1]


class Interaction(nn.Module):
    """One layer: messages along four sets of edges, averaged over all edges of a node, normalised and added.

    contacts: ligand atoms hear protein atoms as well. Those messages are summed, as forces are: an average could not
    tell a crowded place from an empty one.
    """

    def __init__(self, inputs: Irreps, outputs: Irreps, dropout: float, contacts: bool = False) -> None:
        super().__init__()
        self.growth, s = outputs.dim - inputs.dim, inputs.scalars
        product = Product(inputs, outputs)

        def conv() -> TensorProductConv:
            return TensorProductConv(product, s, s, s, 3 * s, dropout)

        self.ligand, self.ligand_from_receptor = conv(), conv()
        self.receptor, self.receptor_from_ligand = conv(), conv()
        atoms = Product(Irreps(s), outputs)
        self.ligand_from_atom = TensorProductConv(atoms, s, s, s, 3 * s, dropout) if contacts else None
        self.norm = IrrepsBatchNorm(outputs)

    def forward(self, ligand: Tensor, receptor: Tensor, wiring: Wiring) -> tuple[Tensor, Tensor | None]:
        """Features of all ligand atoms, and of the residues in ``wiring.wanted`` (other rows are kept as they were)."""
        update = self.ligand(ligand, wiring.ligand, ligand) + self.ligand_from_receptor(receptor, wiring.cross, ligand)
        update = update / (wiring.ligand.degree + wiring.cross.degree).clamp_min(1)[:, None]
        if self.ligand_from_atom is not None and wiring.contact is not None and wiring.protein is not None:
            update = update + self.ligand_from_atom(wiring.protein, wiring.contact, ligand) / CROWD
        grown = functional.pad(ligand, (0, self.growth))
        if wiring.receptor is None or wiring.reverse is None:
            return grown + self.norm(update), None
        other = self.receptor(receptor, wiring.receptor, receptor)
        other = other + self.receptor_from_ligand(ligand, wiring.reverse, receptor)
        other = other / (wiring.receptor.degree + wiring.reverse.degree).clamp_min(1)[:, None]
        both = self.norm(torch.cat([update, other]))  # one batch norm for all nodes
        update, other = both[: len(update)], both[len(update) :]
        grown_receptor = functional.pad(receptor, (0, self.growth))
        if wiring.wanted is None:
            return grown + update, grown_receptor + other
        return grown + update, grown_receptor.index_add(0, wiring.wanted, other)
