"""Tensor product paths of features with the direction of an edge, y(e) = x(j) (x) Y(e), and their gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from domains.docking.networks.irreps import Irreps

Harmonics = Literal[1, 2, "vector"]

_IN = {"0e": 0, "1o": 1, "1e": 2, "0o": 3}
_COMPONENTS = (1, 3, 3, 1)
# Paths into each output block, in the order of their weights: (operation, input block).
_PATHS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("copy", "0e"), ("dot", "1o")),
    (("outer", "0e"), ("copy", "1o"), ("cross", "1e"), ("quadratic", "1o")),
    (("cross", "1o"), ("copy", "1e"), ("quadratic", "1e"), ("outer", "0o")),
    (("dot", "1e"), ("copy", "0o")),
)
# Wigner 3j times e3nn's path normalisation, without the 1/sqrt(rows) of the block; s = sqrt(3) unit vector.
_FACTORS = {"copy": 1.0, "dot": 3**-0.5, "cross": 2**-0.5, "quadratic": 2**-0.5}


@dataclass(frozen=True)
class Path:
    """One tensor product path: ``operation`` of ``count`` copies of input ``block`` and the edge's vector."""

    operation: str
    block: int
    count: int


@dataclass(frozen=True)
class Block:
    """All paths into output block ``out`` (0e, 1o, 1e or 0o). first: where its rows of y(e) begin."""

    out: int
    paths: tuple[Path, ...]
    first: int

    @cached_property
    def components(self) -> int:
        return _COMPONENTS[self.out]

    @cached_property
    def fan_in(self) -> int:
        """Inputs of each output: e3nn divides weights by its root."""
        return sum(path.count for path in self.paths)

    @cached_property
    def rows(self) -> int:
        """Rows of y(e) per component: of all paths but ``outer``."""
        return sum(path.count for path in self.paths if path.operation != "outer")

    @cached_property
    def end(self) -> int:
        return self.first + self.rows * self.components


@dataclass(frozen=True)
class Product:
    """All paths from ``inputs`` x harmonics to ``outputs``.

    harmonics: largest degree of the spherical harmonics of the edge (1 or 2), or "vector" where an edge carries one
    vector only and no scalar (the torsion head). The degree-2 path 1 x 2 -> 1 is ((x.s) s - x |s|^2/3)/sqrt 2.
    The path ``outer`` (scalar times s) has no rows in y(e): see ``convolution``.
    """

    inputs: Irreps
    outputs: Irreps
    harmonics: Harmonics = 1

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Output blocks that have paths."""
        blocks, first = [], 0
        for out, every in enumerate(_PATHS):
            paths = tuple(
                Path(operation, _IN[name], self.inputs.counts[_IN[name]])
                for operation, name in every
                if self.outputs.counts[out] and self.inputs.counts[_IN[name]] and self._allows(operation)
            )
            if paths:
                blocks.append(Block(out, paths, first))
                first = blocks[-1].end
        return tuple(blocks)

    def _allows(self, operation: str) -> bool:
        if self.harmonics == "vector":
            return operation == "dot"
        return self.harmonics == 2 or operation != "quadratic"

    @cached_property
    def rows(self) -> int:
        """Numbers in y(e)."""
        return self.blocks[-1].end

    @cached_property
    def weights(self) -> int:
        """Weights per edge: inputs x outputs of every block."""
        return sum(block.fan_in * self.outputs.counts[block.out] for block in self.blocks)


def products(product: Product, x: Tensor, s: Tensor) -> Tensor:
    """y(e) for all edges.

    x: [dim, ...] source features per edge; s: [3, ...] sqrt(3) times the unit vector of the edge (its l = 1 harmonics
    in the order x, y, z). Returns [rows, ...]: block after block, component after component, path after path.
    """
    y = x.new_empty((product.rows, *x.shape[1:]))
    half = s * _FACTORS["cross"]
    for path, source, into in _walk(product, x, y):
        _FORWARD[path.operation](into, source, half if path.operation == "cross" else s)
    return y


def _walk(product: Product, x: Tensor, y: Tensor) -> list[tuple[Path, Tensor, Tensor]]:
    """(path, its columns of x [1 or 3, count, ...], its rows of y [1 or 3, count, ...])."""
    result, columns, rest = [], product.inputs.slices, x.shape[1:]
    for block in product.blocks:
        if not block.rows:
            continue
        whole, start = y[block.first : block.end].view(block.components, block.rows, *rest), 0
        for path in block.paths:
            if path.operation != "outer":
                source = x[columns[path.block]].view(_COMPONENTS[path.block], path.count, *rest)
                result.append((path, source, whole[:, start : start + path.count]))
                start += path.count
    return result


def _copy(into: Tensor, v: Tensor, s: Tensor) -> None:
    into.copy_(v)


def _dot(into: Tensor, v: Tensor, s: Tensor) -> None:
    torch.mul(v[0], s[0], out=into[0])
    into[0].addcmul_(v[1], s[1]).addcmul_(v[2], s[2]).mul_(_FACTORS["dot"])


def _cross(into: Tensor, v: Tensor, s: Tensor) -> None:
    """s comes with its factor."""
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        torch.mul(v[j], s[k], out=into[i]).addcmul_(v[k], s[j], value=-1)


def _quadratic(into: Tensor, v: Tensor, s: Tensor) -> None:
    along = v[0] * s[0]
    along.addcmul_(v[1], s[1]).addcmul_(v[2], s[2])
    torch.mul(along, s[:, None], out=into).addcmul_(v, _third(s), value=-1).mul_(_FACTORS["quadratic"])


def _third(s: Tensor) -> Tensor:
    """|s|^2 / 3: 1 for a unit direction, 0 for an edge of length zero, which has none."""
    return s.square().sum(0) / 3


_FORWARD: dict[str, Callable[[Tensor, Tensor, Tensor], None]] = {
    "copy": _copy, "dot": _dot, "cross": _cross, "quadratic": _quadratic
}  # fmt: skip


def products_backward(product: Product, x: Tensor, s: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x [dim, ...] and s [3, ...] of sum(gradient * products(x, s))."""
    to_x, to_s = torch.zeros_like(x), torch.zeros_like(s)
    columns = product.inputs.slices
    for path, v, g in _walk(product, x, gradient):
        part = to_x[columns[path.block]].view_as(v)
        factor = _FACTORS[path.operation]
        if path.operation == "copy":
            part += g
        elif path.operation == "dot":
            part.addcmul_(g, s[:, None], value=factor)
            to_s.add_((g * v).sum(1), alpha=factor)
        elif path.operation == "cross":  # g.(v x s) = v.(s x g) = s.(g x v)
            for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
                part[i].addcmul_(s[j], g[k], value=factor).addcmul_(s[k], g[j], value=-factor)
                to_s[i].add_((g[j] * v[k] - g[k] * v[j]).sum(0), alpha=factor)
        else:
            g_s, v_s = (g * s[:, None]).sum(0), (v * s[:, None]).sum(0)
            part.add_(g_s * s[:, None] - g * _third(s), alpha=factor)
            to_s.add_((v_s * g + g_s * v - (2 / 3) * (g * v).sum(0) * s[:, None]).sum(1), alpha=factor)
    return to_x, to_s
