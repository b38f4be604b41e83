"""Outputs of the denoiser: translation, rotation and torsion scores from node features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from domains.docking.graph import Structure
from domains.docking.networks.backbone import BackboneOptions, Features
from domains.docking.networks.convolution import TensorProductConv
from domains.docking.networks.irreps import Irreps, IrrepsBatchNorm
from domains.docking.networks.layers import EdgeMLP, GaussianSmearing
from domains.docking.networks.pairs import make_edges, pairs_within
from domains.docking.networks.products import Product

CENTRE_RADIUS = 30.0  # Angstrom, where the distance embedding of the centre edges ends
MAX_TORSION_NEIGHBOURS = 32


class Magnitude(nn.Module):
    """Keeps a vector's direction and sets its length from its length and the noise level."""

    def __init__(self, sigma: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1 + sigma, dim), nn.Dropout(dropout), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, vector: Float[Tensor, "b 3"], sigma: Float[Tensor, "b s"]) -> Float[Tensor, "b 3"]:
        length = vector.norm(dim=1, keepdim=True)
        # A zero vector (a molecule of one atom) has no direction: it stays zero.
        result: Tensor = vector / length.clamp_min(1e-12) * self.net(torch.cat([length, sigma], dim=1))
        return result


class RigidHead(nn.Module):
    """One convolution from all ligand atoms to their centroid: translation and rotation vectors."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        s, into = options.scalars, options.irreps(options.layers)
        self.smearing = GaussianSmearing(CENTRE_RADIUS, options.distance_dim)
        self.edges = EdgeMLP((options.distance_dim, options.sigma_dim), s, options.dropout)
        outputs = Irreps(vectors=2, axials=2)
        self.conv = TensorProductConv(Product(into, outputs), s, 0, s, 2 * s, options.dropout)
        self.norm = IrrepsBatchNorm(outputs)
        self.translation = Magnitude(options.sigma_dim, s, options.dropout)
        self.rotation = Magnitude(options.sigma_dim, s, options.dropout)

    def forward(self, complexes: Structure, positions: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        """[B, 3] translation and [B, 3] rotation, before their division by the noise level."""
        if features.sigma is None:
            raise ValueError("scores need a noise level")
        sample, counts = complexes.atom_sample, complexes.atom_counts
        centre = positions.new_zeros(complexes.size, 3).index_add_(0, sample, positions) / counts[:, None]
        index = torch.stack([sample, torch.arange(len(sample), device=sample.device)])
        edges, length = make_edges(index, centre, positions)
        first = self.edges.first
        total = first.part(0, self.smearing(length)) + first.part(1, features.sigma)[sample]
        update = self.conv(features.ligand, edges.embed(self.edges(total))) / counts[:, None]
        # Columns: component by component, two true vectors, then two axial vectors.
        true, axial = self.norm(update).view(-1, 2, 3, 2).unbind(1)
        translation, rotation = (true + axial).unbind(-1)
        return self.translation(translation, features.sigma), self.rotation(rotation, features.sigma)


class TorsionHead(nn.Module):
    """One convolution from the atoms around a rotatable bond to its midpoint: a pseudoscalar per bond."""

    def __init__(self, options: BackboneOptions) -> None:
        super().__init__()
        s, into = options.scalars, options.irreps(options.layers)
        self.radius = options.ligand_radius
        self.smearing = GaussianSmearing(options.ligand_radius, options.distance_dim)
        self.edges = EdgeMLP((options.distance_dim,), s, options.dropout)
        outputs = Irreps(scalars=s, pseudoscalars=s)
        self.conv = TensorProductConv(Product(into, outputs, "vector"), s, s, s, 3 * s, options.dropout)
        self.norm = IrrepsBatchNorm(outputs)
        self.final = nn.Sequential(
            nn.Linear(2 * s, s, bias=False), nn.Tanh(), nn.Dropout(options.dropout), nn.Linear(s, 1, bias=False)
        )

    def forward(self, complexes: Structure, positions: Tensor, features: Features) -> Tensor:
        """[R] angular velocity of every rotatable bond, before its scaling with the noise level."""
        u, v = complexes.torsions
        sample, size = complexes.torsion_sample, complexes.size
        if not len(u):
            return positions.new_zeros(0)
        middle = (positions[u] + positions[v]) / 2
        index = pairs_within(
            middle, (sample, complexes.torsion_slot), positions, (complexes.atom_sample, complexes.atom_slot), size,
            positions.new_full((size,), self.radius), MAX_TORSION_NEIGHBOURS,
        )  # fmt: skip
        edges, length = make_edges(index, middle, positions)
        bond = nn.functional.normalize(positions[v] - positions[u], dim=1)[edges.receiver].T
        # l = 1 part of Y1(edge) x Y2(bond): sqrt(3/2) (3 (v.b) b - v), with v the unit edge vector.
        vector = (3 * (edges.vector * bond).sum(0) * bond - edges.vector) / 2**0.5
        embedding = self.edges(self.edges.first.part(0, self.smearing(length)))
        scalars = features.ligand[:, : self.conv.sizes[1]]
        edges = edges.turned_to(vector).embed(embedding)
        update = self.conv(features.ligand, edges, scalars[u] + scalars[v])
        result: Tensor = self.final(self.norm(update / edges.degree.clamp_min(1)[:, None]))
        return result[:, 0]
