"""Features of nodes: scalars, vectors, axial vectors and pseudoscalars (e3nn's 0e, 1o, 1e, 0o), and their batch norm.

A feature tensor is [nodes, dim] with the blocks 0e | 1o | 1e | 0o in this order. Vectors are stored component by
component (all x, then all y, then all z); e3nn stores them vector by vector. ``e3nn_order`` translates.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor, nn

EPSILON = 1e-5  # of e3nn's batch norm


@dataclass(frozen=True)
class Irreps:
    """How many scalars (0e), vectors (1o), axial vectors (1e) and pseudoscalars (0o) a feature has."""

    scalars: int = 0
    vectors: int = 0
    axials: int = 0
    pseudoscalars: int = 0

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return (self.scalars, self.vectors, self.axials, self.pseudoscalars)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers per block."""
        return (self.scalars, 3 * self.vectors, 3 * self.axials, self.pseudoscalars)

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    @cached_property
    def slices(self) -> list[slice]:
        """Columns of each block."""
        ends = list(accumulate(self.sizes))
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def e3nn_order(self) -> Tensor:
        """[dim] column of this layout that holds each column of e3nn's layout: ``ours[:, order]`` is e3nn's."""
        parts, start = [], 0
        for count, size in zip(self.counts, self.sizes, strict=True):
            width = size // count if count else 1
            parts.append(start + torch.arange(size).reshape(width, count).T.reshape(-1))
            start += size
        return torch.cat(parts)


def growing(scalars: int, vectors: int, layer: int) -> Irreps:
    """Features before layer ``layer`` of a network: they grow by one kind per layer, and stay from layer 3 on."""
    s, v = scalars, vectors
    return (Irreps(s), Irreps(s, v), Irreps(s, v, v), Irreps(s, v, v, s))[min(layer, 3)]


class IrrepsBatchNorm(nn.Module):
    """Batch norm that keeps equivariance: e3nn's ``BatchNorm`` with component normalisation.

    Scalars are centred, and every copy of an irrep is divided by the root of its mean square over nodes and
    components. weight, running_var: one number per copy; bias, running_mean: one per scalar.
    """

    def __init__(self, irreps: Irreps, momentum: float = 0.1) -> None:
        super().__init__()
        self.irreps, self.momentum = irreps, momentum
        copies = sum(irreps.counts)
        self.weight = nn.Parameter(torch.ones(copies))
        self.bias = nn.Parameter(torch.zeros(irreps.scalars))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(irreps.scalars))
        self.register_buffer("running_var", torch.ones(copies))

    def affine(self) -> tuple[Tensor, Tensor]:
        """[dim] scale and [dim] shift that this layer is in evaluation."""
        return self._affine(self.running_mean, self.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """x: [nodes, dim]."""
        scale, shift = self._affine(*self._moments(x)) if self.training else self.affine()
        return x * scale + shift

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        per_copy = self.weight * (variance + EPSILON).rsqrt()
        blocks = per_copy.split(self.irreps.counts)
        widths = (1, 3, 3, 1)
        scale = torch.cat([block.repeat(width) for block, width in zip(blocks, widths, strict=True)])
        scalars = self.irreps.scalars
        shift = torch.cat([self.bias - mean * blocks[0], scale.new_zeros(self.irreps.dim - scalars)])
        return scale, shift

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the scalars and mean square of every copy over the nodes; the running averages follow them."""
        blocks = x.split(self.irreps.sizes, dim=1)
        mean = blocks[0].mean(0)
        squares = [(blocks[0] - mean).square().mean(0)]
        for count, block in zip(self.irreps.counts[1:], blocks[1:], strict=True):
            if count:
                squares.append(block.reshape(len(x), -1, count).square().mean((0, 1)))
        variance = torch.cat(squares)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        return mean, variance
