"""A light equivariant backbone: scalars and vectors on nodes, messages from the nearest neighbours.

The hidden layer of a message sees both ends, their distance, and how their vectors lie to the edge:

    m(i, j) = silu(U h_i + W h_j + F rbf(d_ij) + P (v_i . u_ij) + Q (v_j . u_ij)),

and what a node hears is sum_j m(i, j) (scalars) and sum_j m(i, j) u_ij (vectors), which are mixed after the sum, per
node (in the manner of PaiNN, Schuett et al. 2021). No tensor products with weights of their own per edge: several
times cheaper than the tensor-product backbone, which matters on a CPU.

Protein atoms are sources only, with two vectors from geometry: towards their bonded neighbours, and towards the bulk.
Residues start with vectors to their own atoms, which tell where the side chain points; they hear of ligand and
residues only where something reads them afterwards (encoder, prior).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from domains.docking.chemistry.features import (
    BOND_KINDS,
    LIGAND_FEATURE_SIZES,
    PROTEIN_ATOM_FEATURE_SIZES,
    RESIDUE_FEATURE_SIZES,
)
from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Features, Inputs
from domains.docking.networks.layers import CategoricalEmbedding, GaussianSmearing, time_embedding
from domains.docking.networks.nearest import Nearest, nearest

LIGAND_NEIGHBOURS, RESIDUE_NEIGHBOURS, ATOM_NEIGHBOURS = 24, 24, 32  # of ligand atoms
RECEPTOR_NEIGHBOURS = 12  # of residues, among residues and among ligand atoms
CROSS_CUTOFF = 20.0  # Angstrom, where none is given
CROWD = 8.0  # sums over neighbours are divided by it: they are then of order one
PAIR_KINDS = BOND_KINDS + 2  # bonds, two bonds apart, further


Near = tuple[Nearest, Tensor]  # neighbours and their smeared distances


@dataclass(frozen=True)
class Nodes:
    """Scalars [n, D] and vectors [n, 3, V] of nodes."""

    scalars: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class VectorFeatures(Features):
    """``vectors`` [n, 3, V] of the ligand's atoms beside their scalars."""

    vectors: Float[Tensor, "n 3 v"] | None = None


class Messages(nn.Module):
    """Messages along one set of edges, summed at their receivers: [D, 4, dim], scalars and three components."""

    def __init__(self, dim: int, vectors: int, source_vectors: int, distances: int, kinds: int = 0) -> None:
        super().__init__()
        self.distance = nn.Linear(distances, dim)
        self.kinds = nn.Embedding(kinds, dim) if kinds else None
        self.receiver, self.source = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.along_receiver = nn.Linear(vectors, dim, bias=False)
        self.along_source = nn.Linear(source_vectors, dim, bias=False) if source_vectors else None

    def forward(
        self, near: Nearest, radial: Tensor, receivers: Nodes, sources: Nodes, kinds: Tensor | None = None
    ) -> Tensor:
        """radial: [D, K, distances] the smeared distances; kinds: [D, K] what the pairs are to each other."""
        # In place, because every further copy of [D, K, dim] costs as much as the arithmetic.
        hidden = self.distance(radial)
        hidden += self.receiver(receivers.scalars)[:, None]
        hidden += self.source(sources.scalars)[near.index]
        hidden.baddbmm_(near.direction, self.along_receiver(receivers.vectors))
        if self.along_source is not None:
            along = (near.direction[:, :, None] @ sources.vectors[near.index])[:, :, 0]
            hidden += self.along_source(along)
        if self.kinds is not None and kinds is not None:
            hidden += self.kinds(kinds)
        return torch.bmm(near.sums, functional.silu(hidden)) / CROWD


class Update(nn.Module):
    """New features of nodes from the sums of ``sets`` kinds of messages, and from ``extra`` scalars."""

    def __init__(self, dim: int, vectors: int, sets: int, extra: int, dropout: float) -> None:
        super().__init__()
        self.mix, self.turn = nn.Linear(sets * dim, vectors, bias=False), nn.Linear(vectors, vectors, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear((1 + sets) * dim + vectors + extra, 2 * dim), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(2 * dim, dim + vectors),
        )  # fmt: skip

    def forward(self, nodes: Nodes, normed: Tensor, sums: list[Tensor], extra: Tensor) -> Nodes:
        """normed: [n, D] normalised scalars; extra: [n, extra]."""
        every = torch.cat(sums, dim=2)
        vectors = nodes.vectors + self.mix(every[:, 1:])
        turned = self.turn(vectors)
        length = turned.square().sum(1).add(1e-6).sqrt()
        known = torch.cat([normed, every[:, 0], length, extra], dim=1)
        new, gate = self.mlp(known).split([nodes.scalars.shape[1], length.shape[1]], dim=1)
        return Nodes(nodes.scalars + new, vectors + turned * gate[:, None].tanh())


class Layer(nn.Module):
    """Ligand atoms hear ligand atoms, residues and protein atoms; residues, where wanted, residues and the ligand."""

    def __init__(self, options: BackboneOptions, receptor: bool) -> None:
        super().__init__()
        d, v, o = options.scalars, options.vectors, options
        self.ligand_norm, self.receptor_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.ligand = Messages(d, v, v, o.distance_dim, PAIR_KINDS)
        self.ligand_from_residue = Messages(d, v, v, o.distance_dim)
        self.ligand_from_atom = Messages(d, v, 2, o.distance_dim) if o.atom_radius else None
        self.update_ligand = Update(d, v, 2 + bool(o.atom_radius), d, o.dropout)
        if receptor:
            self.receptor = Messages(d, v, v, o.distance_dim)
            self.receptor_from_ligand = Messages(d, v, v, o.distance_dim)
            self.update_receptor = Update(d, v, 2, d, o.dropout)

    def forward(
        self, ligand: Nodes, receptor: Nodes, atoms: Nodes | None, near: dict[str, Near], kinds: Tensor,
        complexes: Structure,
    ) -> tuple[Nodes, Nodes]:  # fmt: skip
        own = Nodes(self.ligand_norm(ligand.scalars), ligand.vectors)
        other = Nodes(self.receptor_norm(receptor.scalars), receptor.vectors)
        sums = [self.ligand(*near["ligand"], own, own, kinds), self.ligand_from_residue(*near["cross"], own, other)]
        if self.ligand_from_atom is not None and atoms is not None:
            sums.append(self.ligand_from_atom(*near["contact"], own, atoms))
        around = mean_of(other.scalars, complexes.residue_sample, complexes.residue_counts)
        new = self.update_ligand(ligand, own.scalars, sums, around[complexes.atom_sample])
        if "reverse" not in near:
            return new, receptor
        back = [
            self.receptor(*near["receptor"], other, other), self.receptor_from_ligand(*near["reverse"], other, own)
        ]  # fmt: skip
        whole = mean_of(own.scalars, complexes.atom_sample, complexes.atom_counts)
        return new, self.update_receptor(receptor, other.scalars, back, whole[complexes.residue_sample])


class VectorBackbone(nn.Module):
    """The same calls as ``Backbone``; receptor: whether its residues' features can be read.

    Of the options it takes layers, scalars (D), vectors (V), the radii (``ligand_radius``, ``residue_radius``,
    ``atom_radius``: Angstrom where messages end), ``cross_cutoff`` (20 A where None), and the widths of its inputs.
    """

    def __init__(self, options: BackboneOptions, receptor: bool) -> None:
        super().__init__()
        self.options, self.reads_receptor = options, receptor
        d, v, sigma, latent = options.scalars, options.vectors, options.sigma_dim, options.latent_width
        self.ligand_types = CategoricalEmbedding(LIGAND_FEATURE_SIZES, d)
        self.residue_types = CategoricalEmbedding(RESIDUE_FEATURE_SIZES, d)
        self.atom_types = CategoricalEmbedding(PROTEIN_ATOM_FEATURE_SIZES, d)
        self.atom_weights = CategoricalEmbedding(PROTEIN_ATOM_FEATURE_SIZES, v)
        self.language = nn.Linear(options.language, d) if options.language else None
        self.time = nn.Sequential(nn.Linear(sigma, d), nn.SiLU(), nn.Linear(d, 2 * d)) if sigma else None
        self.latents = nn.Linear(latent, 3 * d, bias=False) if latent else None
        self.null = nn.Parameter(torch.zeros(2, d)) if options.dropped else None
        reach = {
            "ligand": options.ligand_radius, "cross": options.cross_cutoff or CROSS_CUTOFF,
            "contact": options.atom_radius, "receptor": options.residue_radius,
        }  # fmt: skip
        self.smearing = nn.ModuleDict(
            {name: GaussianSmearing(radius, options.distance_dim) for name, radius in reach.items() if radius}
        )
        self.layers = nn.ModuleList(Layer(options, receptor) for _ in range(options.layers))
        self.last_norm = nn.LayerNorm(d)

    @property
    def invariant_width(self) -> int:
        """Scalars per node that heads read."""
        return self.options.scalars

    def invariants(self, features: Tensor) -> Tensor:
        """All of them are invariant."""
        return features

    def forward(self, complexes: Structure, inputs: Inputs, read_receptor: bool) -> VectorFeatures:
        """read_receptor: whether the residues' features are wanted; raises ValueError where they are not to be had."""
        if read_receptor and not self.reads_receptor:
            raise ValueError("this backbone was built without updates of its residues")
        o, sigma = self.options, None
        if inputs.t is not None:
            sigma = time_embedding(inputs.t, o.sigma_dim, o.time_scale).to(inputs.positions.dtype)
        ligand, receptor, atoms = self._nodes(complexes, inputs, sigma)
        near, kinds = self._near(complexes, inputs.positions)
        for layer in self.layers:
            ligand, receptor = layer(ligand, receptor, atoms, near, kinds, complexes)
        last = self.last_norm(receptor.scalars) if read_receptor else None
        return VectorFeatures(self.last_norm(ligand.scalars), last, sigma, ligand.vectors)

    def _nodes(self, complexes: Structure, inputs: Inputs, sigma: Tensor | None) -> tuple[Nodes, Nodes, Nodes | None]:
        v = self.options.vectors
        types, positions, residue = complexes.protein_atoms, complexes.protein_positions, complexes.protein_residue
        if types is None or positions is None or residue is None:
            raise ValueError("this network reads the protein's atoms, and these graphs were built without them")
        ligand, residues, atoms = (
            self.ligand_types(complexes.atoms), self.residue_types(complexes.residues), self.atom_types(types)
        )  # fmt: skip
        if self.language is not None and complexes.language is not None:
            residues = residues + self.language(complexes.language)
        if self.time is not None and sigma is not None:
            of_ligand, of_residues = self.time(sigma).chunk(2, dim=1)
            ligand, residues = ligand + of_ligand[complexes.atom_sample], residues + of_residues[
                complexes.residue_sample
            ]  # fmt: skip
        if self.latents is not None and inputs.atom_latents is not None and inputs.residue_latents is not None:
            to_ligand, to_residues, to_atoms = self.latents.weight.chunk(3)
            ligand = ligand + inputs.atom_latents @ to_ligand.T
            residues = residues + inputs.residue_latents @ to_residues.T
            atoms = atoms + (inputs.residue_latents @ to_atoms.T)[residue]
        if self.null is not None and inputs.unconditional is not None:
            ligand = ligand + (inputs.unconditional[:, None] * self.null[0])[complexes.atom_sample]
            residues = residues + (inputs.unconditional[:, None] * self.null[1])[complexes.residue_sample]
        arms = (positions - complexes.ca[residue])[:, :, None] / 3 * self.atom_weights(types)[:, None]
        pointing = arms.new_zeros(len(complexes.ca), 3, v).index_add_(0, residue, arms)
        return (
            Nodes(ligand, ligand.new_zeros(len(ligand), 3, v)),
            Nodes(residues, pointing),
            Nodes(atoms, atom_vectors(complexes)) if self.options.atom_radius else None,
        )

    def _near(self, complexes: Structure, positions: Tensor) -> tuple[dict[str, Near], Tensor]:
        """Neighbours of every kind of edge, and what pairs of ligand atoms are to each other."""
        o, size = self.options, complexes.size
        ligand = (complexes.atom_sample, complexes.atom_slot)
        residues = (complexes.residue_sample, complexes.residue_slot)
        cross = o.cross_cutoff or CROSS_CUTOFF
        near = {
            "ligand": nearest(
                positions, ligand, positions, ligand, size, LIGAND_NEIGHBOURS, o.ligand_radius, loops=False
            ),
            "cross": nearest(positions, ligand, complexes.ca, residues, size, RESIDUE_NEIGHBOURS, cross),
        }
        if o.atom_radius and complexes.protein_positions is not None:
            near["contact"] = nearest(
                positions, ligand, complexes.protein_positions, complexes.protein_slot, size, ATOM_NEIGHBOURS,
                o.atom_radius,
            )  # fmt: skip
        if self.reads_receptor:
            near["reverse"] = nearest(complexes.ca, residues, positions, ligand, size, RECEPTOR_NEIGHBOURS, cross)
            near["receptor"] = nearest(
                complexes.ca, residues, complexes.ca, residues, size, RECEPTOR_NEIGHBOURS, o.residue_radius, loops=False
            )
        smeared = {
            name: (one, self.smearing["cross" if name == "reverse" else name](one.distance))
            for name, one in near.items()
        }
        kinds = pair_kinds(complexes).gather(1, complexes.atom_slot[near["ligand"].index])
        return smeared, kinds


def pair_kinds(complexes: Structure) -> Tensor:
    """[n, longest] what ligand atoms are to each other in their ligand: kind of bond, two bonds apart, further."""
    counts, device = complexes.atom_counts, complexes.bonds.device
    longest = int(counts.max())
    table = torch.full((len(complexes.atoms), longest), BOND_KINDS + 1, device=device)
    i, j = complexes.bonds
    bonded = torch.zeros(complexes.size, longest, longest, device=device)
    sample = complexes.atom_sample[i]
    bonded[sample, complexes.atom_slot[i], complexes.atom_slot[j]] = 1
    apart = torch.bmm(bonded, bonded)[complexes.atom_sample, complexes.atom_slot] > 0
    table = table.masked_fill(apart, BOND_KINDS)
    table[i, complexes.atom_slot[j]] = complexes.kinds
    return table


def atom_vectors(complexes: Structure) -> Float[Tensor, "a 3 2"]:
    """Mean vectors of every protein atom to its bonded neighbours, and to its nearest ones, in units of typical
    lengths: where lone pairs point, and which side is buried."""
    positions, near = complexes.protein_positions, complexes.protein_near
    assert positions is not None
    assert near is not None
    neighbour, own = near
    vector = positions[neighbour] - positions[own]
    bonded = complexes.protein_bonded.to(vector.dtype)
    weights = torch.stack([bonded, torch.ones_like(bonded)], dim=1)
    total = vector.new_zeros(len(positions), 3, 2).index_add_(0, own, vector[:, :, None] * weights[:, None])
    count = vector.new_zeros(len(positions), 2).index_add_(0, own, weights).clamp_min(1)
    return total / count[:, None] / vector.new_tensor([1.5, 3.0])


def mean_of(values: Tensor, sample: Tensor, counts: Tensor) -> Tensor:
    """[B, dim] means over the nodes of every complex."""
    total = values.new_zeros(len(counts), values.shape[1]).index_add_(0, sample, values)
    return total / counts.clamp_min(1)[:, None]
