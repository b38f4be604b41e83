"""Equivariant convolution: out(i) = sum over edges (i <- j) of W(h(e)) [x(j) (x) Y(e)], without forming W(h(e)).

The weights of an edge are linear in the hidden layer h(e) of their network, W(h) = W2 h + b. So

    sum_e W(h(e)) y(e) = W2 . sum_e y(e) (x) [h(e), 1],     y(e) = x(j) (x) Y(e)   (tensor product paths)

and the sum over edges runs over products of 276 x 73 numbers instead of 72 x 1872 weights per edge; W2 is applied
once per receiving node. This is exact.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from domains.docking.networks.irreps import Irreps

Harmonics = Literal[1, 2, "vector"]
CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}  # temporaries of one chunk of receivers: CPU caches, GPU memory

_IN = {"0e": 0, "1o": 1, "1e": 2, "0o": 3}
# Paths into each output block, in the order of their rows: (operation, input block).
_PATHS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("copy", "0e"), ("dot", "1o")),
    (("outer", "0e"), ("copy", "1o"), ("cross", "1e"), ("quadratic", "1o")),
    (("cross", "1o"), ("copy", "1e"), ("quadratic", "1e"), ("outer", "0o")),
    (("dot", "1e"), ("copy", "0o")),
)
# Wigner 3j times e3nn's path normalisation, without the 1/sqrt(rows) of the block; s = sqrt(3) unit vector.
_FACTORS = {"copy": 1.0, "outer": 1.0, "dot": 3**-0.5, "cross": 2**-0.5, "quadratic": 2**-0.5}


@dataclass(frozen=True)
class Path:
    """One tensor product path: ``operation`` of input ``block`` and the edge's vector, at ``start`` in its rows."""

    operation: str
    block: int
    start: int
    count: int


@dataclass(frozen=True)
class Product:
    """All paths from ``inputs`` x harmonics to ``outputs``.

    harmonics: largest degree of the spherical harmonics of the edge (1 or 2), or "vector" where an edge carries one
    vector only and no scalar (the torsion head). The degree-2 path 1 x 2 -> 1 is ((x.s) s - x |s|^2/3)/sqrt 2.
    """

    inputs: Irreps
    outputs: Irreps
    harmonics: Harmonics = 1

    def block_paths(self, out: int) -> list[Path]:
        """Paths into output block ``out``; empty where the output has none of that kind."""
        paths, start = [], 0
        for operation, name in _PATHS[out] if self.outputs.counts[out] else ():
            count = self.inputs.counts[_IN[name]]
            skipped = (self.harmonics == "vector" and operation != "dot") or (
                self.harmonics != 2 and operation == "quadratic"
            )
            if count and not skipped:
                paths.append(Path(operation, _IN[name], start, count))
                start += count
        return paths

    def blocks(self) -> Iterator[tuple[int, list[Path], int, int]]:
        """(output block, its paths, rows per component, first row) of every output block that has paths."""
        first = 0
        for out in range(4):
            paths = self.block_paths(out)
            rows = sum(path.count for path in paths)
            if rows:
                yield out, paths, rows, first
                first += rows * _components(out)

    @property
    def rows(self) -> int:
        """Numbers in y(e)."""
        return sum(rows * _components(out) for out, _, rows, _ in self.blocks())

    @property
    def weights(self) -> int:
        """Weights per edge: (rows x outputs) of every block."""
        return sum(rows * self.outputs.counts[out] for out, _, rows, _ in self.blocks())


def _components(block: int) -> int:
    return 3 if block in (1, 2) else 1


def products(product: Product, x: Tensor, s: Tensor) -> Tensor:
    """y(e) for all edges.

    x: [dim, ...] source features per edge; s: [3, ...] sqrt(3) times the unit vector of the edge (its l = 1 harmonics
    in the order x, y, z). Returns [rows, ...].
    """
    y = x.new_empty((product.rows, *torch.broadcast_shapes(x.shape[1:], s.shape[1:])))
    columns = product.inputs.slices()
    for out, paths, rows, first in product.blocks():
        whole = y[first : first + rows * _components(out)].unflatten(0, (_components(out), rows))
        for path in paths:
            into = whole[:, path.start : path.start + path.count]
            source = x[columns[path.block]].unflatten(0, (-1, path.count))  # [1 or 3, count, ...]
            _FORWARD[path.operation](into, source, s)
    return y


def _outer(into: Tensor, a: Tensor, s: Tensor) -> None:
    torch.mul(a, s[:, None], out=into)


def _dot(into: Tensor, v: Tensor, s: Tensor) -> None:
    torch.mul(v[0], s[0], out=into[0])
    into[0].addcmul_(v[1], s[1]).addcmul_(v[2], s[2]).mul_(_FACTORS["dot"])


def _cross(into: Tensor, v: Tensor, s: Tensor) -> None:
    t = s * _FACTORS["cross"]
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        torch.mul(v[j], t[k], out=into[i]).addcmul_(v[k], t[j], value=-1)


def _quadratic(into: Tensor, v: Tensor, s: Tensor) -> None:
    along = (v * s[:, None]).sum(0)
    torch.mul(along, s[:, None], out=into).addcmul_(v, _third(s), value=-1).mul_(_FACTORS["quadratic"])


def _third(s: Tensor) -> Tensor:
    """|s|^2 / 3: 1 for a unit direction, 0 for an edge of length zero, which has none."""
    return s.square().sum(0) / 3


_FORWARD = {"copy": lambda into, v, s: into.copy_(v), "outer": _outer, "dot": _dot, "cross": _cross, "quadratic": _quadratic}  # fmt: skip


def products_backward(product: Product, x: Tensor, s: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x [dim, ...] and s [3, ...] of sum(gradient * products(x, s))."""
    to_x, to_s = torch.zeros_like(x), torch.zeros_like(s)
    columns = product.inputs.slices()
    for out, paths, rows, first in product.blocks():
        whole = gradient[first : first + rows * _components(out)].unflatten(0, (_components(out), rows))
        for path in paths:
            g = whole[:, path.start : path.start + path.count]
            v = x[columns[path.block]].unflatten(0, (-1, path.count))
            part = to_x[columns[path.block]].unflatten(0, (-1, path.count))
            factor = _FACTORS[path.operation]
            if path.operation == "copy":
                part += g
            elif path.operation == "outer":
                part += (g * s[:, None]).sum(0, keepdim=True)
                to_s += (g * v).sum(1)
            elif path.operation == "dot":
                part += factor * g * s[:, None]
                to_s += factor * (g * v).sum(1)
            elif path.operation == "cross":  # g.(v x s): s x g for v, g x v for s
                part += factor * torch.cross(s[:, None].expand_as(g), g, dim=0)
                to_s += factor * torch.cross(g, v, dim=0).sum(1)
            else:
                g_s, v_s = (g * s[:, None]).sum(0), (v * s[:, None]).sum(0)
                part += factor * (g_s * s[:, None] - g * _third(s))
                to_s += factor * (v_s * g + g_s * v - (2 / 3) * (g * v).sum(0) * s[:, None]).sum(1)
    return to_x, to_s


class _Aggregate(torch.autograd.Function):
    """out(i) = W . sum_e y(e) (x) h(e), in chunks of receivers; y and its sums are computed again for gradients."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, product: Product, x: Tensor, s: Tensor, h: Tensor, source: Tensor, table: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(x, s, h, source, table, *weights)
        out = x.new_empty(len(table), product.outputs.dim)
        for chunk in _chunks(product, table, h):
            x_edge, s_edge, h_edge = _gather(chunk, table, x, s, h, source)
            y = products(product, x_edge, s_edge).movedim(1, 0)
            _apply(product, torch.bmm(y, h_edge), weights, out[chunk])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        product: Product = ctx.product
        x, s, h, source, table, *weights = ctx.saved_tensors
        to_x, to_s, to_h = torch.zeros_like(x), torch.zeros_like(s), torch.zeros_like(h)
        to_weights = [torch.zeros_like(weight) for weight in weights]
        for chunk in _chunks(product, table, h):
            x_edge, s_edge, h_edge = _gather(chunk, table, x, s, h, source)
            y = products(product, x_edge, s_edge).movedim(1, 0)
            g_sums = _apply_backward(product, torch.bmm(y, h_edge), weights, gradient[chunk], to_weights)
            # Every edge stands in the table once, so its gradient is set, not added; the padding's means nothing.
            edges = table[chunk].flatten()
            to_h[edges] = torch.bmm(y.transpose(1, 2), g_sums).flatten(0, 1)
            g_y = torch.bmm(g_sums, h_edge.transpose(1, 2)).movedim(0, 1)
            g_x, g_s = products_backward(product, x_edge, s_edge, g_y)
            to_s[:, edges] = g_s.flatten(1)
            to_x.index_add_(1, source[edges], g_x.flatten(1))
        return None, to_x, to_s, to_h, None, None, *to_weights


def _chunks(product: Product, table: Tensor, h: Tensor) -> Iterator[slice]:
    """Receivers in pieces whose temporaries stay in the cache."""
    receivers, degree = table.shape
    per_receiver = h.element_size() * product.rows * (degree + h.shape[1])
    step = max(1, CHUNK_BYTES.get(h.device.type, CHUNK_BYTES["cpu"]) // per_receiver)
    for start in range(0, receivers, step):
        yield slice(start, min(start + step, receivers))


def _gather(
    chunk: slice, table: Tensor, x: Tensor, s: Tensor, h: Tensor, source: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Source features [dim, D, K], edge vectors [3, D, K] and hidden layers [D, K, H] of the edges into a chunk."""
    rows = table[chunk]
    edges = rows.flatten()
    x_edge = x.index_select(1, source[edges]).unflatten(1, rows.shape)
    s_edge = s.index_select(1, edges).unflatten(1, rows.shape)
    return x_edge, s_edge, h.index_select(0, edges).unflatten(0, rows.shape)


def _parts(product: Product, weights: Sequence[Tensor]) -> Iterator[tuple[Tensor, slice, slice]]:
    """(weight, rows of y, columns of the output) of every component of every block."""
    columns = product.outputs.slices()
    for (out, _, rows, first), weight in zip(product.blocks(), weights, strict=True):
        count = product.outputs.counts[out]
        for component in range(_components(out)):
            row, column = first + component * rows, columns[out].start + component * count
            yield weight, slice(row, row + rows), slice(column, column + count)


def _apply(product: Product, sums: Tensor, weights: Sequence[Tensor], out: Tensor) -> None:
    """sums: [D, rows, H] -> out [D, dim]; weights: [rows of the block x H, outputs of the block] each."""
    for weight, rows, columns in _parts(product, weights):
        torch.mm(sums[:, rows].flatten(1), weight, out=out[:, columns])


def _apply_backward(
    product: Product, sums: Tensor, weights: Sequence[Tensor], gradient: Tensor, to_weights: Sequence[Tensor]
) -> Tensor:
    """Gradient with respect to ``sums``; those of the weights are added to ``to_weights``."""
    to_sums = torch.empty_like(sums)
    for (weight, rows, columns), (to_weight, _, _) in zip(
        _parts(product, weights), _parts(product, to_weights), strict=True
    ):
        g = gradient[:, columns]
        to_weight.addmm_(sums[:, rows].flatten(1).T, g)
        to_sums[:, rows] = (g @ weight.T).view(len(g), -1, sums.shape[2])
    return to_sums


@dataclass(frozen=True)
class Edges:
    """Directed edges, and for each of D receivers the list of edges that it reads.

    receiver, source: [E] node numbers; vector: [3, E] sqrt(3) times the unit vector; embedding: [E, C] learned
    features; table: [D, K] edge numbers, E where a receiver has fewer than K; degree: [D] how many it has.
    """

    receiver: Int[Tensor, " e"]
    source: Int[Tensor, " e"]
    vector: Float[Tensor, "3 e"]
    embedding: Float[Tensor, "e c"]
    table: Int[Tensor, "d k"]
    degree: Int[Tensor, " d"]

    def reverse(self, table: Tensor, degree: Tensor) -> "Edges":
        """The same edges read at their other ends, with unchanged vectors and features."""
        return replace(self, receiver=self.source, source=self.receiver, table=table, degree=degree)

    def turned(self) -> "Edges":
        """The same edges with opposite direction vectors."""
        return self.turned_to(-self.vector)

    def turned_to(self, vector: Tensor) -> "Edges":
        """The same edges with these vectors [3, E]."""
        return replace(self, vector=vector)

    def embed(self, embedding: Tensor) -> "Edges":
        """The same edges with these features."""
        return replace(self, embedding=embedding)

    def into(self, receivers: Tensor) -> "Edges":
        """Only the edges into some receivers, which are then the rows of the table."""
        table = self.table[receivers]
        chosen = table.flatten()[table.flatten() < len(self.source)]
        number = torch.full((len(self.source) + 1,), len(chosen), device=table.device)
        number[chosen] = torch.arange(len(chosen), device=table.device)
        return Edges(
            self.receiver[chosen], self.source[chosen], self.vector[:, chosen], self.embedding[chosen],
            number[table], self.degree[receivers],
        )  # fmt: skip


def edge_table(receiver: Int[Tensor, " e"], count: int) -> tuple[Int[Tensor, "d k"], Int[Tensor, " d"]]:
    """Edge numbers by receiver, padded with E, and the degree of each of ``count`` receivers."""
    edges = len(receiver)
    degree = torch.bincount(receiver, minlength=count)
    order = receiver.argsort(stable=True)
    ordered = receiver[order]
    place = torch.arange(edges, device=receiver.device) - (degree.cumsum(0) - degree)[ordered]
    table = torch.full((count, int(degree.max()) if edges else 0), edges, device=receiver.device)
    table[ordered, place] = order
    return table, degree


class TensorProductConv(nn.Module):
    """Messages over one set of edges, summed (not averaged) at their receivers.

    The hidden layer sees [edge embedding, receiver scalars, source scalars]; ``receiver`` and ``source`` give how many
    scalars of each it reads.
    """

    def __init__(self, product: Product, edge: int, receiver: int, source: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.product, self.sizes = product, (edge, receiver, source)
        self.hidden = nn.Linear(sum(self.sizes), hidden)
        self.dropout = nn.Dropout(dropout)
        self.weights = nn.Linear(hidden, product.weights)
        self._prepared: tuple[tuple[int, ...], list[Tensor]] | None = None

    def forward(self, features: Tensor, edges: Edges, receivers: Tensor | None = None) -> Tensor:
        """features: [S, dim] of all sources; receivers: [nodes, >= R] features of all receivers, or None.

        Returns [D, out dim].
        """
        hidden = self._hidden(features, edges, receivers)
        vector = nn.functional.pad(edges.vector, (0, 1))
        source = nn.functional.pad(edges.source, (0, 1))
        result: Tensor = _Aggregate.apply(
            self.product, features.T.contiguous(), vector, hidden, source, edges.table, *self._weights()
        )
        return result

    def _hidden(self, features: Tensor, edges: Edges, receivers: Tensor | None) -> Tensor:
        """[E + 1, H + 1]: hidden layer and a 1 for the bias; zero in the last row, the edge that pads the table."""
        edge, receiver, source = self.hidden.weight.split(self.sizes, dim=1)
        values = torch.addmm(self.hidden.bias, edges.embedding, edge.T)
        values = values + (features[:, : self.sizes[2]] @ source.T).index_select(0, edges.source)
        if receivers is not None:
            values = values + (receivers[:, : self.sizes[1]] @ receiver.T).index_select(0, edges.receiver)
        padded = nn.functional.pad(self.dropout(values.relu()), (0, 1), value=1.0)
        return nn.functional.pad(padded, (0, 0, 0, 1))

    def _weights(self) -> list[Tensor]:
        """Second layer per block, [rows x (H + 1), outputs], with the path normalisation."""
        tensors = (self.weights.weight, self.weights.bias)
        if torch.is_grad_enabled() and tensors[0].requires_grad:
            return self._prepare()
        versions = tuple(value for t in tensors for value in (t._version, t.data_ptr()))
        if self._prepared is None or self._prepared[0] != versions:
            self._prepared = (versions, self._prepare())
        return self._prepared[1]

    def _prepare(self) -> list[Tensor]:
        flat = torch.cat([self.weights.weight, self.weights.bias[:, None]], dim=1)
        result, start = [], 0
        for out, _, rows, _ in self.product.blocks():
            count = self.product.outputs.counts[out]
            block = flat[start : start + rows * count].view(rows, count, -1)
            result.append((block.movedim(1, 2) / math.sqrt(rows)).reshape(-1, count).contiguous())
            start += rows * count
        return result


def e3nn_rows(product: Product, out_order: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    """[weights] e3nn's flat weight number of each of our weights.

    e3nn's ``FullyConnectedTensorProduct`` loops over input blocks, then harmonics, then output blocks (in the order
    ``out_order``), and stores one (inputs, outputs) matrix per path.
    """
    degree = {"copy": 0, "outer": 1, "dot": 1, "cross": 1, "quadratic": 2}
    every = [(out, path) for out, paths, _, _ in product.blocks() for path in paths]
    counts = product.outputs.counts
    order = sorted(every, key=lambda item: (item[1].block, degree[item[1].operation], out_order.index(item[0])))
    sizes = [path.count * counts[out] for out, path in order]
    starts = dict(zip(order, [0, *(sum(sizes[: i + 1]) for i in range(len(sizes)))], strict=False))
    return torch.cat([starts[item] + torch.arange(item[1].count * counts[item[0]]) for item in every])
