"""Small layers shared by all docking networks: embeddings of distances, noise levels, nodes and edges."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class GaussianSmearing(nn.Module):
    """exp(-(d - mu_i)^2 / (2 step^2)) with ``count`` centres mu_i evenly on [0, stop] (Angstrom)."""

    def __init__(self, stop: float, count: int) -> None:
        super().__init__()
        self.coefficient = -0.5 / (stop / (count - 1)) ** 2
        self.offset: Tensor
        self.register_buffer("offset", torch.linspace(0.0, stop, count))

    def forward(self, distance: Float[Tensor, "*e"]) -> Float[Tensor, "*e c"]:
        return (distance[..., None] - self.offset).square_().mul_(self.coefficient).exp_()


def time_embedding(t: Float[Tensor, " b"], dim: int, scale: float) -> Float[Tensor, "b d"]:
    """[sin, cos] of ``scale`` t at dim/2 frequencies from 1 to 1e-4 (the Transformer's positions)."""
    half = dim // 2
    rates = torch.exp(-math.log(10000.0) / (half - 1) * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = (scale * t.float())[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PartsLinear(nn.Linear):
    """A linear layer over the concatenation of several inputs, each of which can be applied on its own.

    What is the same for many rows (noise level, node type, language model) is then computed once, not per row.
    """

    def __init__(self, sizes: Sequence[int], out: int) -> None:
        super().__init__(sum(sizes), out)
        self.sizes = tuple(sizes)

    def part(self, number: int, x: Tensor) -> Tensor:
        """Contribution of input ``number``, [..., size] -> [..., out], without the bias."""
        return x @ self.weight.split(self.sizes, dim=1)[number].T

    def row(self, number: int, index: Int[Tensor, " e"]) -> Tensor:
        """Contribution of input ``number`` where it is one-hot at ``index``."""
        return self.weight.split(self.sizes, dim=1)[number].T[index]


class CategoricalEmbedding(nn.EmbeddingBag):
    """Sum of one embedding per categorical feature; the tables lie one after the other."""

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        super().__init__(sum(sizes), dim, mode="sum")
        for table in self.weight.data.split(list(sizes)):
            nn.init.xavier_uniform_(table)
        self.starts: Tensor
        self.register_buffer("starts", torch.tensor([sum(sizes[:i]) for i in range(len(sizes))]), persistent=False)

    def forward(self, features: Int[Tensor, "n f"]) -> Tensor:  # type: ignore[override]
        result: Tensor = super().forward(features + self.starts)
        return result


class EdgeMLP(nn.Module):
    """Linear, ReLU, dropout, linear over the parts of an edge's features; the first layer is applied by parts."""

    def __init__(self, sizes: Sequence[int], dim: int, dropout: float) -> None:
        super().__init__()
        self.first = PartsLinear(sizes, dim)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(dim, dim)

    def forward(self, total: Tensor) -> Tensor:
        """total: [E, dim], the sum of the first layer's parts, without its bias."""
        result: Tensor = self.second(self.dropout((total + self.first.bias).relu()))
        return result


class NodeHead(nn.Sequential):
    """Invariant scalars of nodes -> logits: three linear layers with batch norm and ReLU between."""

    def __init__(self, inputs: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, outputs),
        )  # fmt: skip


def unit_times_root3(vector: Float[Tensor, "e 3"], distance: Float[Tensor, " e"]) -> Float[Tensor, "3 e"]:
    """sqrt(3) unit vectors, components first: the l = 1 spherical harmonics in component normalisation; 0 for 0."""
    unit = vector / distance.clamp_min(1e-12)[:, None] * math.sqrt(3)
    return unit.T.contiguous()
