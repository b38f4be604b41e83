"""The confidence model: all protein atoms, harmonics up to degree 2 (DiffDock's; paper section 4.7)."""

from dataclasses import dataclass
from itertools import chain

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
from domains.docking.networks.backbone import MAX_LIGAND_NEIGHBOURS, invariants
from domains.docking.networks.convolution import TensorProductConv
from domains.docking.networks.edges import Edges
from domains.docking.networks.irreps import Irreps, IrrepsBatchNorm, growing
from domains.docking.networks.kept import Kept
from domains.docking.networks.layers import CategoricalEmbedding, EdgeMLP, GaussianSmearing, time_embedding
from domains.docking.networks.pairs import make_edges, pairs_within
from domains.docking.networks.products import Product

# Receiver, source and edge set of each of the nine convolutions of a layer.
ROUTES = {
    "ligand": ("ligand", "ligand", "ligand"),
    "ligand_from_receptor": ("ligand", "receptor", "cross"),
    "ligand_from_atom": ("ligand", "atom", "contact"),
    "atom": ("atom", "atom", "atom"),
    "atom_from_ligand": ("atom", "ligand", "contact"),
    "atom_from_receptor": ("atom", "receptor", "member"),
    "receptor": ("receptor", "receptor", "receptor"),
    "receptor_from_ligand": ("receptor", "ligand", "cross"),
    "receptor_from_atom": ("receptor", "atom", "member"),
}
PROTEIN_ROUTES = tuple(name for name, route in ROUTES.items() if "ligand" not in route[:2])
SMEARING = {  # which distance embedding each edge set uses
    "ligand": "ligand", "atom": "ligand", "receptor": "receptor", "member": "receptor", "cross": "cross",
    "contact": "cross",
}  # fmt: skip


@dataclass(frozen=True)
class ConfidenceQuirks:
    """What the authors' code does and a fresh design would not.

    shifted_language: the layers of the receptor's nodes read the columns [language, noise level] shifted: that of the
    noise level the first ``sigma_dim``, that of the language the rest; unsigned_reverse: both directions of an edge use
    the same direction vector.
    """

    shifted_language: bool = False
    unsigned_reverse: bool = False


AUTHORS_CONFIDENCE = ConfidenceQuirks(shifted_language=True, unsigned_reverse=True)


@dataclass(frozen=True)
class ConfidenceOptions:
    """Sizes as released; language: width of the residue embeddings, 0 for none; outputs: classes or values."""

    layers: int = 5
    scalars: int = 24
    vectors: int = 6
    sigma_dim: int = 32
    distance_dim: int = 32
    time_scale: float = 10000.0
    language: int = 0
    ligand_radius: float = 5.0
    residue_radius: float = 30.0
    cross_radius: float = 80.0
    cross_cutoff: float = 20.0
    outputs: int = 2
    dropout: float = 0.0
    quirks: ConfidenceQuirks = ConfidenceQuirks()

    def irreps(self, layer: int) -> Irreps:
        """Features before layer ``layer``."""
        return growing(self.scalars, self.vectors, layer)


class NormalisedConv(nn.Module):
    """Convolution, mean over the edges of each receiver, batch norm."""

    def __init__(self, options: ConfidenceOptions, layer: int) -> None:
        super().__init__()
        s, out = options.scalars, options.irreps(layer + 1)
        self.conv = TensorProductConv(Product(options.irreps(layer), out, 2), s, s, s, 3 * s, options.dropout)
        self.norm = IrrepsBatchNorm(out)

    def forward(self, sources: Tensor, edges: Edges, receivers: Tensor) -> Tensor:
        update: Tensor = self.norm(self.conv(sources, edges, receivers) / edges.degree.clamp_min(1)[:, None])
        return update


@dataclass(frozen=True)
class _Protein:
    """What does not depend on the pose: features of receptor and atoms, their edges by convolution, what these bring in
    the first layer, and place, sample and number in its sample of each atom."""

    nodes: dict[str, Tensor]
    edges: dict[str, Edges]
    first: dict[str, Tensor]
    positions: Tensor
    slot: tuple[Tensor, Tensor]


class ConfidenceNet(nn.Module):
    """Logits of "RMSD below 2 A" (column 0 ranks poses) from the pose in the protein with all its heavy atoms.

    calibration: (a, b) of confidence = a logit + b, a logit of probability; ``ranking.held_out`` sets it.
    """

    def __init__(self, options: ConfidenceOptions) -> None:
        super().__init__()
        self.options = options
        self.calibration: Tensor
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        s, sigma, distance = options.scalars, options.sigma_dim, options.distance_dim
        self.types = nn.ModuleDict(
            {
                "ligand": CategoricalEmbedding(LIGAND_FEATURE_SIZES, s),
                "receptor": CategoricalEmbedding(RESIDUE_FEATURE_SIZES, s),
                "atom": CategoricalEmbedding(PROTEIN_ATOM_FEATURE_SIZES, s),
            }
        )
        self.sigma = nn.ModuleDict({name: nn.Linear(sigma, s) for name in self.types})
        self.language = nn.Linear(s + options.language, s) if options.language else None
        self.smearing = nn.ModuleDict(
            {
                "ligand": GaussianSmearing(options.ligand_radius, distance),
                "receptor": GaussianSmearing(options.residue_radius, distance),
                "cross": GaussianSmearing(options.cross_radius, distance),
            }
        )
        attributes = {"ligand": BOND_KINDS, "receptor": 0, "atom": 0, "cross": 0, "contact": 0, "member": 0}
        self.edges = nn.ModuleDict(
            {name: EdgeMLP((count, sigma, distance), s, options.dropout) for name, count in attributes.items()}
        )
        last, end = options.layers - 1, options.irreps(options.layers)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: NormalisedConv(options, layer)
                    for name, (receiver, _, _) in ROUTES.items()
                    if layer < last or receiver == "ligand"
                }
            )
            for layer in range(options.layers)
        )
        self.predictor = nn.Sequential(
            nn.Linear(end.scalars + end.pseudoscalars, s), nn.BatchNorm1d(s), nn.ReLU(), nn.Dropout(options.dropout),
            nn.Linear(s, s), nn.BatchNorm1d(s), nn.ReLU(), nn.Dropout(options.dropout),
            nn.Linear(s, options.outputs),
        )  # fmt: skip
        self._kept: Kept[_Protein] = Kept()

    def forward(self, complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "b c"]:
        """positions: [n, 3] ligand atoms in Angstrom, in the frame of the protein."""
        time = positions.new_zeros(1)  # a finished pose: t = 0
        sigma = time_embedding(time, self.options.sigma_dim, self.options.time_scale).to(positions.dtype)
        used = (self.types, self.sigma, self.language, self.edges, self.layers[0])
        weights = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in used if m is not None)
        protein = self._kept.get(complexes, weights, lambda: self._protein(complexes, sigma))
        nodes = {"ligand": self.types["ligand"](complexes.atoms) + self.sigma["ligand"](sigma), **protein.nodes}
        edges = {**self._pose_edges(complexes, protein, positions, sigma), **protein.edges}
        wanted = self._plan(edges, {name: len(x) for name, x in nodes.items()})
        for number, rows in enumerate(wanted):
            nodes = self._layer(self._convolutions(number), nodes, edges, rows, {} if number else protein.first)
        scalars = invariants(nodes["ligand"], self.options.irreps(self.options.layers))
        pooled = scalars.new_zeros(complexes.size, scalars.shape[1]).index_add_(0, complexes.atom_sample, scalars)
        result: Tensor = self.predictor(pooled / complexes.atom_counts[:, None])
        return result

    def _convolutions(self, layer: int) -> nn.ModuleDict:
        found = self.layers[layer]
        assert isinstance(found, nn.ModuleDict)
        return found

    def _protein(self, complexes: Structure, sigma: Tensor) -> _Protein:
        """What does not depend on the pose."""
        positions, sample = complexes.protein_positions, complexes.protein_sample
        near, residue, atoms = complexes.protein_near, complexes.protein_residue, complexes.protein_atoms
        if positions is None or sample is None or near is None or residue is None or atoms is None:
            raise ValueError("the confidence model reads all protein atoms, and these graphs were built without them")
        nodes = {
            "receptor": self._receptor_nodes(complexes, sigma),
            "atom": self.types["atom"](atoms) + self.sigma["atom"](sigma),
        }
        member = torch.stack([torch.arange(len(residue), device=residue.device), residue])
        edges = {
            "receptor": self._embedded("receptor", complexes.near, complexes.ca, complexes.ca, sigma),
            "atom": self._embedded("atom", near, positions, positions, sigma),
            "atom_from_receptor": self._embedded("member", member, positions, complexes.ca, sigma),
        }
        edges["receptor_from_atom"] = self._reverse(edges["atom_from_receptor"])
        first: dict[str, Tensor] = {}
        for route in PROTEIN_ROUTES if self.options.layers > 1 else ():
            receiver, source, _ = ROUTES[route]
            update = self._convolutions(0)[route](nodes[source], edges[route], nodes[receiver])
            first[receiver] = first[receiver] + update if receiver in first else update
        counts = torch.bincount(sample, minlength=complexes.size)
        slot = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample]
        return _Protein(nodes, edges, first, positions, (sample, slot))

    def _receptor_nodes(self, complexes: Structure, sigma: Tensor) -> Tensor:
        types, language = self.types["receptor"](complexes.residues), complexes.language
        if self.language is None or language is None:
            return types + self.sigma["receptor"](sigma)
        if self.options.quirks.shifted_language:
            columns = torch.cat([language, sigma.expand(len(language), -1)], dim=1)
            sigma, language = columns[:, : self.options.sigma_dim], columns[:, self.options.sigma_dim :]
        result: Tensor = self.language(torch.cat([types + self.sigma["receptor"](sigma), language], dim=1))
        return result

    def _pose_edges(
        self, complexes: Structure, protein: _Protein, positions: Tensor, sigma: Tensor
    ) -> dict[str, Edges]:
        """Edges of the ligand's convolutions, by the name of the convolution."""
        size, slot = complexes.size, (complexes.atom_sample, complexes.atom_slot)
        near = positions.new_full((size,), self.options.ligand_radius)
        far = positions.new_full((size,), self.options.cross_cutoff)
        residues = (complexes.residue_sample, complexes.residue_slot)
        close = pairs_within(positions, slot, positions, slot, size, near, MAX_LIGAND_NEIGHBOURS, loops=False)
        cross = pairs_within(positions, slot, complexes.ca, residues, size, far)
        contact = pairs_within(positions, slot, protein.positions, protein.slot, size, near)
        bonded = torch.cat([complexes.bonds, close], dim=1)
        edges = {
            "ligand": self._embedded("ligand", bonded, positions, positions, sigma, complexes.kinds),
            "ligand_from_receptor": self._embedded("cross", cross, positions, complexes.ca, sigma),
            "ligand_from_atom": self._embedded("contact", contact, positions, protein.positions, sigma),
        }
        edges["receptor_from_ligand"] = self._reverse(edges["ligand_from_receptor"])
        edges["atom_from_ligand"] = self._reverse(edges["ligand_from_atom"])
        return edges

    def _embedded(
        self, name: str, index: Tensor, receivers: Tensor, sources: Tensor, sigma: Tensor, kinds: Tensor | None = None
    ) -> Edges:
        """Edges of one set with their features; kinds: of the chemical bonds, which come first."""
        edges, length = make_edges(index, receivers, sources)
        mlp = self.edges[name]
        assert isinstance(mlp, EdgeMLP)
        total = mlp.first.part(2, self.smearing[SMEARING[name]](length)) + mlp.first.part(1, sigma)
        if kinds is not None:
            total = total + functional.pad(mlp.first.row(0, kinds), (0, 0, 0, len(total) - len(kinds)))
        return edges.embed(mlp(total))

    def _reverse(self, edges: Edges) -> Edges:
        return edges.reverse() if self.options.quirks.unsigned_reverse else edges.reverse().turned()

    def _plan(self, edges: dict[str, Edges], sizes: dict[str, int]) -> list[dict[str, Tensor]]:
        """Rows that each layer must compute, by kind of node: what a ligand atom can feel in the layers after."""
        device = edges["ligand"].source.device
        wanted = {name: torch.zeros(sizes[name], dtype=torch.bool, device=device) for name in ("receptor", "atom")}
        wanted["receptor"][edges["ligand_from_receptor"].source] = True
        wanted["atom"][edges["ligand_from_atom"].source] = True
        plan: list[dict[str, Tensor]] = [{}]
        for _ in range(self.options.layers - 1):
            if self.training:
                wanted = {name: torch.ones_like(mask) for name, mask in wanted.items()}
            plan.append({name: mask.nonzero()[:, 0] for name, mask in wanted.items()})
            earlier = {name: mask.clone() for name, mask in wanted.items()}
            for route, (receiver, source, _) in ROUTES.items():
                if receiver != "ligand" and source != "ligand":
                    reached = wanted[receiver][edges[route].receiver]
                    earlier[source][edges[route].source[reached]] = True
            wanted = earlier
        return plan[::-1]

    def _layer(
        self, convs: nn.ModuleDict, nodes: dict[str, Tensor], edges: dict[str, Edges], rows: dict[str, Tensor],
        first: dict[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """first: updates within the protein, where they are known already."""
        updates = {name: functional.pad(x, (0, self._growth(x))) for name, x in nodes.items()}
        if rows:
            updates = {name: x + first[name] if name in first else x for name, x in updates.items()}
        for name, conv in convs.items():
            receiver, source, _ = ROUTES[name]
            if receiver == "ligand":
                updates[receiver] = updates[receiver] + conv(nodes[source], edges[name], nodes[receiver])
            elif not (first and name in PROTEIN_ROUTES):
                wanted, chosen = rows[receiver], edges[name]
                if len(wanted) < len(nodes[receiver]):
                    chosen = chosen.into(wanted)
                updates[receiver] = updates[receiver].index_add(0, wanted, conv(nodes[source], chosen, nodes[receiver]))
        return updates

    def _growth(self, x: Tensor) -> int:
        """Columns that the next layer adds."""
        sizes = [self.options.irreps(layer).dim for layer in range(4)]
        return sizes[min(sizes.index(x.shape[1]) + 1, 3)] - x.shape[1]
