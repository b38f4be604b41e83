"""The confidence model: all protein atoms, harmonics up to degree 2 (DiffDock's; paper section 4.7)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from domains.docking.graph import Structure
from domains.docking.networks.backbone import BOND_KINDS, LIGAND_SIZES, MAX_LIGAND_NEIGHBOURS, RESIDUE_SIZES
from domains.docking.networks.convolution import Edges, Product, TensorProductConv, edge_table
from domains.docking.networks.encoder import invariants
from domains.docking.networks.irreps import Irreps, IrrepsBatchNorm
from domains.docking.networks.layers import CategoricalEmbedding, EdgeMLP, GaussianSmearing, time_embedding
from domains.docking.networks.pairs import make_edges, pairs_within

ATOM_SIZES = (38, 119, 23, 38)
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
REVERSED = ("atom_from_ligand", "receptor_from_ligand", "receptor_from_atom")


@dataclass(frozen=True)
class ConfidenceQuirks:
    """What the authors' code does and a fresh design would not. shifted_language: the layers of the receptor's nodes read
    their columns shifted, the noise level's first ``sigma_dim`` of [language, noise level] and the language's the rest;
    unsigned_reverse: both directions of an edge use the same direction vector."""

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
        s, v = self.scalars, self.vectors
        return (Irreps(s), Irreps(s, v), Irreps(s, v, v), Irreps(s, v, v, s))[min(layer, 3)]


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


class ConfidenceNet(nn.Module):
    """Logits of "RMSD below 2 A" (column 0 ranks poses) from the pose in the protein with all its heavy atoms."""

    def __init__(self, options: ConfidenceOptions) -> None:
        super().__init__()
        self.options = options
        s, sigma, distance = options.scalars, options.sigma_dim, options.distance_dim
        self.types = nn.ModuleDict(
            {
                "ligand": CategoricalEmbedding(LIGAND_SIZES, s),
                "receptor": CategoricalEmbedding(RESIDUE_SIZES, s),
                "atom": CategoricalEmbedding(ATOM_SIZES, s),
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
        last = options.layers - 1
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {name: NormalisedConv(options, layer) for name, route in ROUTES.items() if layer < last or route[0] == "ligand"}
            )
            for layer in range(options.layers)
        )  # fmt: skip
        self.predictor = nn.Sequential(
            nn.Linear(2 * s, s), nn.BatchNorm1d(s), nn.ReLU(), nn.Dropout(options.dropout),
            nn.Linear(s, s), nn.BatchNorm1d(s), nn.ReLU(), nn.Dropout(options.dropout),
            nn.Linear(s, options.outputs),
        )  # fmt: skip

    def forward(self, complexes: Structure, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "b c"]:
        """positions: [n, 3] ligand atoms in Angstrom, in the frame of the protein."""
        if complexes.protein_atoms is None:
            raise ValueError("the confidence model reads all protein atoms, and these graphs were built without them")
        time = positions.new_zeros(1)  # a finished pose: t = 0
        sigma = time_embedding(time, self.options.sigma_dim, self.options.time_scale).to(positions.dtype)
        nodes = self._nodes(complexes, sigma)
        edges = self._edges(complexes, positions, sigma)
        wanted = self._plan(edges, {name: len(x) for name, x in nodes.items()})
        for convs, rows in zip(self.layers, wanted, strict=True):
            nodes = self._layer(convs, nodes, edges, rows)
        scalars = invariants(nodes["ligand"], self.options.scalars)
        pooled = scalars.new_zeros(complexes.size, scalars.shape[1]).index_add_(0, complexes.atom_sample, scalars)
        result: Tensor = self.predictor(pooled / complexes.atom_counts[:, None])
        return result

    def _nodes(self, complexes: Structure, sigma: Tensor) -> dict[str, Tensor]:
        types = {"ligand": complexes.atoms, "receptor": complexes.residues, "atom": complexes.protein_atoms}
        nodes = {name: self.types[name](x) for name, x in types.items()}
        language, width = complexes.language, self.options.sigma_dim
        if self.language is None or language is None:
            return {name: x + self.sigma[name](sigma) for name, x in nodes.items()}
        sigma_of = {name: self.sigma[name](sigma) for name in nodes}
        tail = sigma.expand(len(language), -1)
        if self.options.quirks.shifted_language:
            columns = torch.cat([language, tail], dim=1)
            sigma_of["receptor"], language, tail = self.sigma["receptor"](columns[:, :width]), columns[:, width:], None
        nodes = {name: x + sigma_of[name] for name, x in nodes.items()}
        nodes["receptor"] = self.language(torch.cat([nodes["receptor"], language], dim=1))
        return nodes

    def _edges(self, complexes: Structure, positions: Tensor, sigma: Tensor) -> dict[str, Edges]:
        """Edges of the nine convolutions, by the name of the convolution."""
        atoms, atom_sample = complexes.protein_positions, complexes.protein_sample
        if atoms is None or atom_sample is None or complexes.protein_near is None or complexes.protein_residue is None:
            raise ValueError("graphs without protein atoms")
        size, ligand_slot = complexes.size, (complexes.atom_sample, complexes.atom_slot)
        counts = torch.bincount(atom_sample, minlength=size)
        starts = counts.cumsum(0) - counts
        atom_slot = (atom_sample, torch.arange(len(atoms), device=atoms.device) - starts[atom_sample])
        near = positions.new_full((size,), self.options.ligand_radius)
        far = positions.new_full((size,), self.options.cross_cutoff)
        close = pairs_within(
            positions, ligand_slot, positions, ligand_slot, size, near, MAX_LIGAND_NEIGHBOURS, loops=False
        )
        cross = pairs_within(
            positions, ligand_slot, complexes.ca, (complexes.residue_sample, complexes.residue_slot), size, far
        )
        contact = pairs_within(positions, ligand_slot, atoms, atom_slot, size, near)
        member = torch.stack([torch.arange(len(atoms), device=atoms.device), complexes.protein_residue])
        places = {"ligand": positions, "receptor": complexes.ca, "atom": atoms}
        sets = {
            "ligand": ("ligand", torch.cat([complexes.bonds, close], dim=1), "ligand"),
            "receptor": ("receptor", complexes.near, "receptor"),
            "atom": ("atom", complexes.protein_near, "ligand"),
            "cross": ("ligand_from_receptor", cross, "cross"),
            "contact": ("ligand_from_atom", contact, "cross"),
            "member": ("atom_from_receptor", member, "receptor"),
        }
        built = {}
        for name, (route, index, smearing) in sets.items():
            receiver, source, _ = ROUTES[route]
            edges, length = make_edges(index, places[receiver], places[source])
            mlp = self.edges[name]
            total = mlp.first.part(2, self.smearing[smearing](length)) + mlp.first.part(1, sigma)
            if name == "ligand":
                bonds = mlp.first.row(0, complexes.kinds)
                total = total + functional.pad(bonds, (0, 0, 0, close.shape[1]))
            built[name] = edges.embed(mlp(total))
        result = {}
        for route, (receiver, _, name) in ROUTES.items():
            edges = built[name]
            if route in REVERSED:
                edges = edges.reverse(*edge_table(edges.source, len(places[receiver])))
                edges = edges if self.options.quirks.unsigned_reverse else edges.turned()
            result[route] = edges
        return result

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
        self, convs: nn.ModuleDict, nodes: dict[str, Tensor], edges: dict[str, Edges], rows: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        updates = {name: functional.pad(x, (0, self._growth(x))) for name, x in nodes.items()}
        for name, conv in convs.items():
            receiver, source, _ = ROUTES[name]
            chosen = edges[name]
            if receiver == "ligand":
                updates[receiver] = updates[receiver] + conv(nodes[source], chosen, nodes[receiver])
                continue
            wanted = rows[receiver]
            if len(wanted) < len(nodes[receiver]):
                chosen = chosen.into(wanted)
            updates[receiver] = updates[receiver].index_add(0, wanted, conv(nodes[source], chosen, nodes[receiver]))
        return updates

    def _growth(self, x: Tensor) -> int:
        """Columns that the next layer adds."""
        sizes = [self.options.irreps(layer).dim for layer in range(4)]
        return sizes[min(sizes.index(x.shape[1]) + 1, 3)] - x.shape[1]
