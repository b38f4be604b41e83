"""The graph network under all coarse docking heads: ligand atoms and residues (DiffDock-S; paper section 4.3).

Released settings of the authors are the defaults; deviations of their code from what one would build are switches in
``Quirks`` (docs/docking.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

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
from domains.docking.networks.edges import Edges
from domains.docking.networks.interaction import Interaction, Wiring
from domains.docking.networks.irreps import Irreps, growing
from domains.docking.networks.kept import Kept
from domains.docking.networks.layers import CategoricalEmbedding, EdgeMLP, GaussianSmearing, PartsLinear, time_embedding
from domains.docking.networks.pairs import make_edges, pairs_within

MAX_LIGAND_NEIGHBOURS = 32  # torch-cluster's default, which the authors leave in place; ours are the nearest


@dataclass(frozen=True)
class Quirks:
    """What the authors' code does and a fresh design would not. Converted models have all of them.

    zero_cross_latents: edges between ligand and receptor do not see the latents of their ends; unsigned_reverse: the
    messages receptor <- ligand use the direction vector of ligand <- receptor, not its negative.
    """

    zero_cross_latents: bool = False
    unsigned_reverse: bool = False


AUTHORS = Quirks(zero_cross_latents=True, unsigned_reverse=True)


@dataclass(frozen=True)
class BackboneOptions:
    """Sizes of the network.

    network: ``tensor`` (DiffDock's tensor products) or ``vector`` (light, see vector.py);
    layers, scalars (ns), vectors (nv): of the interaction layers; sigma_dim: width of the noise-level embedding, 0 for
    a network of clean samples; latent_width: numbers per node that carry latents; language: width of the residue
    embeddings of a language model, 0 for none; ligand_radius, residue_radius, cross_radius: Angstrom, where the
    distance embeddings end (ligand edges are cut there); cross_cutoff: fixed cutoff of cross edges, None for
    3 sigma_tr + 20; atom_radius: ligand atoms hear the protein's heavy atoms within so many Angstrom, 0 for none;
    dropped: whether there is a null embedding for dropped latents.
    """

    network: Literal["tensor", "vector"] = "tensor"
    layers: int = 5
    scalars: int = 24
    vectors: int = 6
    sigma_dim: int = 32
    distance_dim: int = 32
    time_scale: float = 1000.0
    latent_width: int = 0
    language: int = 0
    ligand_radius: float = 5.0
    residue_radius: float = 30.0
    cross_radius: float = 80.0
    cross_cutoff: float | None = None
    atom_radius: float = 0.0
    dropped: bool = False
    dropout: float = 0.1
    quirks: Quirks = field(default_factory=Quirks)

    def irreps(self, layer: int) -> Irreps:
        """Features before layer ``layer``."""
        return growing(self.scalars, self.vectors, layer)


@dataclass(frozen=True)
class Inputs:
    """What a network reads besides the complexes.

    positions: [n, 3] ligand atoms in Angstrom, in the frame of the C-alphas; t: [B] times in [0, 1] and sigma_tr: [B]
    the translation's noise level (None for clean samples); atom_latents, residue_latents: [n, W], [N, W];
    unconditional: [B] 1 where the null embedding is added.
    """

    positions: Float[Tensor, "n 3"]
    t: Float[Tensor, " b"] | None = None
    sigma_tr: Float[Tensor, " b"] | None = None
    atom_latents: Float[Tensor, "n w"] | None = None
    residue_latents: Float[Tensor, "m w"] | None = None
    unconditional: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Features:
    """Features after the last layer: ligand [n, dim] and receptor [N, dim] (None where nothing reads it), and the
    embedding of the noise level [B, S] (None for clean samples)."""

    ligand: Tensor
    receptor: Tensor | None
    sigma: Tensor | None


def invariants(features: Tensor, irreps: Irreps) -> Tensor:
    """Scalars and pseudoscalars of nodes: the first and the last block; no pseudoscalars where ``irreps`` has none."""
    last = features.shape[1] - irreps.pseudoscalars
    return torch.cat([features[:, : irreps.scalars], features[:, last:]], dim=1)


class NodeEmbedding(nn.Module):
    """Categorical features, language model, noise level and latents of a node -> scalars."""

    def __init__(self, sizes: Sequence[int], language: int, sigma: int, latent: int, dim: int) -> None:
        super().__init__()
        self.types = CategoricalEmbedding(sizes, dim)
        extra = (language, sigma, latent)
        self.mix = PartsLinear((dim, *extra), dim) if any(extra) else None

    def static(self, features: Tensor, language: Tensor | None) -> Tensor:
        """The part that depends on the complex only."""
        embedded: Tensor = self.types(features)
        if self.mix is None:
            return embedded
        result = self.mix.part(0, embedded) + self.mix.bias
        return result if language is None else result + self.mix.part(1, language)

    def forward(self, static: Tensor, sigma: Tensor | None, latents: Tensor | None, sample: Tensor) -> Tensor:
        """[nodes, dim]; sigma: [B, S] per complex."""
        if self.mix is None:
            return static
        if sigma is not None:
            static = static + self.mix.part(2, sigma)[sample]
        return static if latents is None else static + self.mix.part(3, latents)


class EdgeEmbedding(nn.Module):
    """Attributes, noise level, length and latents of both ends of an edge -> scalars."""

    def __init__(self, options: BackboneOptions, attributes: int, radius: float) -> None:
        super().__init__()
        latent = options.latent_width
        self.smearing = GaussianSmearing(radius, options.distance_dim)
        self.mlp = EdgeMLP(
            (attributes, options.sigma_dim, options.distance_dim, latent, latent), options.scalars, options.dropout
        )

    def static(self, length: Tensor) -> Tensor:
        """The part that depends on the edge's length only."""
        return self.mlp.first.part(2, self.smearing(length))

    def forward(
        self, static: Tensor, edges: Edges, sample: Tensor, sigma: Tensor | None,
        latents: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """[E, dim]; sample: [E] complex of each edge; latents: of all receivers and of all sources."""
        first = self.mlp.first
        if sigma is not None:
            static = static + first.part(1, sigma)[sample]
        if latents is not None:
            static = static + first.part(3, latents[0])[edges.receiver] + first.part(4, latents[1])[edges.source]
        result: Tensor = self.mlp(static)
        return result


@dataclass(frozen=True)
class _Receptor:
    """What does not change between calls for the same proteins: node part, edges, edge part."""

    nodes: Tensor
    edges: Edges
    lengths: Tensor


class Backbone(nn.Module):
    """Embeddings and interaction layers.

    In evaluation, residues that cannot reach a ligand atom in the layers left are not computed, and what depends on
    the protein alone is kept from call to call.
    """

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        self.options = options
        s, sigma, latent = options.scalars, options.sigma_dim, options.latent_width
        self.ligand_nodes = NodeEmbedding(LIGAND_FEATURE_SIZES, 0, sigma, latent, s)
        self.receptor_nodes = NodeEmbedding(RESIDUE_FEATURE_SIZES, options.language, sigma, latent, s)
        self.ligand_edges = EdgeEmbedding(options, BOND_KINDS, options.ligand_radius)
        self.receptor_edges = EdgeEmbedding(options, 0, options.residue_radius)
        self.cross_edges = EdgeEmbedding(options, 0, options.cross_radius)
        contacts = options.atom_radius > 0
        self.layers = nn.ModuleList(
            Interaction(options.irreps(i), options.irreps(i + 1), options.dropout, contacts)
            for i in range(options.layers)
        )
        self.protein_atoms = CategoricalEmbedding(PROTEIN_ATOM_FEATURE_SIZES, s) if contacts else None
        self.contact_edges = EdgeEmbedding(options, 0, options.atom_radius) if contacts else None
        # Null embeddings of ligand nodes, receptor nodes, ligand, receptor and cross edges.
        self.null = nn.Parameter(torch.zeros(5, s)) if options.dropped else None
        self._kept: Kept[_Receptor] = Kept()

    @property
    def dim(self) -> int:
        return self.options.irreps(self.options.layers).dim

    @property
    def invariant_width(self) -> int:
        """Numbers per node that heads read."""
        last = self.options.irreps(self.options.layers)
        return last.scalars + last.pseudoscalars

    def invariants(self, features: Tensor) -> Tensor:
        """Scalars and pseudoscalars of nodes."""
        return invariants(features, self.options.irreps(self.options.layers))

    def forward(self, complexes: Structure, inputs: Inputs, read_receptor: bool) -> Features:
        """read_receptor: whether anything reads the residues' features after the last layer."""
        options = self.options
        sigma = None
        if inputs.t is not None:
            sigma = time_embedding(inputs.t, options.sigma_dim, options.time_scale).to(inputs.positions.dtype)
        kept = self._receptor(complexes)
        ligand = self.ligand_nodes(
            self.ligand_nodes.static(complexes.atoms, None), sigma, inputs.atom_latents, complexes.atom_sample
        )
        receptor = self.receptor_nodes(kept.nodes, sigma, inputs.residue_latents, complexes.residue_sample)
        null = None
        if self.null is not None and inputs.unconditional is not None:
            null = inputs.unconditional[:, None, None] * self.null  # [B, 5, dim]
            ligand = ligand + null[complexes.atom_sample, 0]
            receptor = receptor + null[complexes.residue_sample, 1]
        edges = self._edges(complexes, inputs, kept, sigma, null)
        every = self.training or read_receptor
        plan = [edges] * options.layers if every else edges.plan(options.layers, len(receptor))
        for layer, wiring in zip(self.layers, plan, strict=True):
            ligand, new = layer(ligand, receptor, wiring)
            receptor = receptor if new is None else new
        return Features(ligand, receptor if read_receptor else None, sigma)

    def _edges(
        self, complexes: Structure, inputs: Inputs, kept: _Receptor, sigma: Tensor | None, null: Tensor | None
    ) -> Wiring:
        """All edges with their features."""
        atoms, residues = complexes.atom_sample, complexes.residue_sample
        ligand, ligand_total = self._ligand_edges(complexes, inputs.positions)
        latents = None
        if inputs.atom_latents is not None and inputs.residue_latents is not None:
            latents = (inputs.atom_latents, inputs.residue_latents)
        between, between_length = self._cross_edges(complexes, inputs)
        sets = (
            (self.ligand_edges, ligand, ligand_total, atoms, latents and (latents[0], latents[0])),
            (self.receptor_edges, kept.edges, kept.lengths, residues, latents and (latents[1], latents[1])),
            (
                self.cross_edges, between, self.cross_edges.static(between_length), atoms,
                None if self.options.quirks.zero_cross_latents else latents,
            ),
        )  # fmt: skip
        done = []
        for number, (embed, edges, static, node_sample, ends) in enumerate(sets):
            sample = node_sample[edges.receiver]
            embedding = embed(static, edges, sample, sigma, ends)
            if null is not None:
                embedding = embedding + null[sample, 2 + number]
            done.append(edges.embed(embedding))
        cross = done[2]
        reverse = cross.reverse()
        if not self.options.quirks.unsigned_reverse:
            reverse = reverse.turned()
        contact, protein = self._contacts(complexes, inputs, sigma)
        return Wiring(done[0], cross, done[1], reverse, contact=contact, protein=protein)

    def _contacts(
        self, complexes: Structure, inputs: Inputs, sigma: Tensor | None
    ) -> tuple[Edges, Tensor] | tuple[None, None]:
        """Edges to ligand atoms from the protein atoms near them, and features of the latter."""
        if self.protein_atoms is None or self.contact_edges is None:
            return None, None
        slot = complexes.protein_slot
        atoms, positions, residue = complexes.protein_atoms, complexes.protein_positions, complexes.protein_residue
        assert atoms is not None and positions is not None and residue is not None  # noqa: PT018
        radius = inputs.positions.new_full((complexes.size,), self.options.atom_radius)
        index = pairs_within(
            inputs.positions, (complexes.atom_sample, complexes.atom_slot), positions, slot, complexes.size, radius
        )
        edges, length = make_edges(index, inputs.positions, positions)
        latents = None
        if inputs.atom_latents is not None and inputs.residue_latents is not None:
            latents = (inputs.atom_latents, inputs.residue_latents[residue])
        sample = complexes.atom_sample[edges.receiver]
        embedding = self.contact_edges(self.contact_edges.static(length), edges, sample, sigma, latents)
        return edges.embed(embedding), self.protein_atoms(atoms)

    def _ligand_edges(self, complexes: Structure, positions: Tensor) -> tuple[Edges, Tensor]:
        """Chemical bonds, then all pairs within the radius (a bonded pair stands in both sets, as in DiffDock)."""
        slot = (complexes.atom_sample, complexes.atom_slot)
        cutoff = positions.new_full((complexes.size,), self.options.ligand_radius)
        near = pairs_within(
            positions, slot, positions, slot, complexes.size, cutoff, MAX_LIGAND_NEIGHBOURS, loops=False
        )
        edges, length = make_edges(torch.cat([complexes.bonds, near], dim=1), positions, positions)
        total = self.ligand_edges.static(length)
        bonds = self.ligand_edges.mlp.first.row(0, complexes.kinds)
        return edges, total + functional.pad(bonds, (0, 0, 0, near.shape[1]))

    def _cross_edges(self, complexes: Structure, inputs: Inputs) -> tuple[Edges, Tensor]:
        """Every ligand atom with every residue within the cutoff."""
        if self.options.cross_cutoff is not None:
            cutoff = inputs.positions.new_full((complexes.size,), self.options.cross_cutoff)
        elif inputs.sigma_tr is not None:
            cutoff = 3 * inputs.sigma_tr + 20
        else:
            raise ValueError("cross edges need a fixed cutoff or the translation's noise level")
        index = pairs_within(
            inputs.positions, (complexes.atom_sample, complexes.atom_slot), complexes.ca,
            (complexes.residue_sample, complexes.residue_slot), complexes.size, cutoff,
        )  # fmt: skip
        return make_edges(index, inputs.positions, complexes.ca)

    def _receptor(self, complexes: Structure) -> _Receptor:
        weights = chain(self.receptor_nodes.parameters(), self.receptor_edges.parameters())
        return self._kept.get(complexes, weights, lambda: self._build_receptor(complexes))

    def _build_receptor(self, complexes: Structure) -> _Receptor:
        edges, length = make_edges(complexes.near, complexes.ca, complexes.ca)
        nodes = self.receptor_nodes.static(complexes.residues, complexes.language)
        return _Receptor(nodes, edges, self.receptor_edges.static(length))
