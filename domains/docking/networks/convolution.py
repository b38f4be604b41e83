"""Equivariant convolution: out(i) = sum over edges (i <- j) of W(h(e)) [x(j) (x) Y(e)], without forming W(h(e)).

The weights of an edge are linear in the hidden layer of their network, h(e) with a 1 appended: W(h) = W2 h. So

    sum_e W(h(e)) y(e) = W2 . sum_e y(e) (x) h(e),     y(e) = x(j) (x) Y(e)   (tensor product paths)

and the sum over edges runs over products of 132 x 73 numbers instead of 72 x 1872 weights per edge; W2 is applied once
per receiving node. The paths scalar x vector -> vector go the other way round, because they have few outputs and many
inputs: their weights are applied to each source, B(j) = W2 x(j), and out(i) = sum_e (B(j) h(e)) (x) Y(e). Both ways
are exact.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.docking.networks.edges import Edges, Table
from domains.docking.networks.products import Block, Product, products, products_backward

CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}  # temporaries of one chunk of nodes: CPU caches, GPU memory


def _chunks(table: Table, like: Tensor, numbers: int) -> Iterator[tuple[slice, int]]:
    """Rows of the table in pieces whose temporaries, ``numbers`` per row, stay in the cache; longest list of each."""
    rows = len(table.degree)
    limit = CHUNK_BYTES.get(like.device.type, CHUNK_BYTES["cpu"])
    step = max(1, limit // (like.element_size() * max(1, numbers)))
    for start in range(0, rows, step):
        chunk = slice(start, min(start + step, rows))
        yield chunk, table.entries.shape[1] if table.dense or step >= rows else int(table.degree[chunk].max())


def _listed(h: Tensor, table: Table, chunk: slice, width: int) -> Tensor:
    """Rows [D, K, H] of h [E, H] by a chunk of the table; those of its padding mean nothing."""
    if table.dense:
        return h[chunk.start * width : chunk.stop * width].unflatten(0, (chunk.stop - chunk.start, width))
    entries = table.entries[chunk, :width]
    return h.index_select(0, entries.flatten().clamp(max=len(h) - 1)).unflatten(0, entries.shape)


def _unlisted(to_h: Tensor, table: Table, chunk: slice, width: int, values: Tensor) -> None:
    """Set rows of to_h [E + 1, H] from [D, K, H]; every edge stands in the table once, the padding's go to row E."""
    to_h[table.entries[chunk, :width].flatten()] = values.flatten(0, 1)


class _Aggregate(torch.autograd.Function):
    """out(i) = W . sum_e y(e) (x) h(e), in chunks of receivers; y and its sums are computed again for gradients."""

    @staticmethod
    def forward(ctx: Any, product: Product, edges: Edges, x: Tensor, s: Tensor, h: Tensor, *weights: Tensor) -> Tensor:
        ctx.product, ctx.edges = product, edges
        ctx.save_for_backward(x, s, h, *weights)
        out = x.new_zeros(len(edges.degree), product.outputs.dim)
        for chunk, width in _Aggregate._chunks(product, edges, h):
            x_edge, s_edge, h_edge = _gather(edges, chunk, width, x, s, h)
            y = products(product, x_edge, s_edge).movedim(1, 0)
            _apply(product, torch.bmm(y, h_edge), weights, out[chunk])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        product, edges = ctx.product, ctx.edges
        x, s, h, *weights = ctx.saved_tensors
        to_x, to_s = torch.zeros_like(x), torch.zeros_like(s)
        to_h = h.new_zeros(len(h) + 1, h.shape[1])
        to_weights = [torch.zeros_like(weight) for weight in weights]
        for chunk, width in _Aggregate._chunks(product, edges, h):
            x_edge, s_edge, h_edge = _gather(edges, chunk, width, x, s, h)
            y = products(product, x_edge, s_edge).movedim(1, 0)
            g_sums = _apply_backward(product, torch.bmm(y, h_edge), weights, gradient[chunk], to_weights)
            _unlisted(to_h, edges.table, chunk, width, torch.bmm(y.transpose(1, 2), g_sums))
            g_y = torch.bmm(g_sums, h_edge.transpose(1, 2)).movedim(0, 1)
            g_x, to_s[:, chunk, :width] = products_backward(product, x_edge, s_edge, g_y)
            to_x.index_add_(1, edges.near_sources[chunk, :width].flatten(), g_x.flatten(1))
        return None, None, to_x, to_s, to_h[:-1], *to_weights

    @staticmethod
    def _chunks(product: Product, edges: Edges, h: Tensor) -> Iterator[tuple[slice, int]]:
        return _chunks(edges.table, h, product.rows * (edges.table.entries.shape[1] + h.shape[1]))


def _gather(edges: Edges, chunk: slice, width: int, x: Tensor, s: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Source features [dim, D, K] (0 in the padding), vectors [3, D, K], hidden layers [D, K, H] of a chunk's edges."""
    sources = edges.near_sources[chunk, :width]
    x_edge = x.index_select(1, sources.flatten()).unflatten(1, sources.shape)
    return x_edge, s[:, chunk, :width], _listed(h, edges.table, chunk, width)


def _parts(product: Product, sums: Tensor, out: Tensor) -> Iterator[tuple[Block, Tensor, Tensor]]:
    """(block, its sums [D, components, rows x H], its outputs [D, components, outputs])."""
    columns = product.outputs.slices
    for block in product.blocks:
        if block.rows:
            nodes, width = len(sums), block.rows * sums.shape[2]
            sums_part = sums[:, block.first : block.end].view(nodes, block.components, width)
            yield block, sums_part, out[:, columns[block.out]].unflatten(1, (block.components, -1))


def _apply(product: Product, sums: Tensor, weights: Sequence[Tensor], out: Tensor) -> None:
    """sums: [D, rows, H] -> out [D, dim]; weights: [outputs of the block, rows x H] each."""
    for (block, sums_part, out_part), weight in zip(_parts(product, sums, out), weights, strict=True):
        if block.components == 1:
            torch.mm(sums_part[:, 0], weight.T, out=out_part[:, 0])
        else:  # few outputs: much quicker this way round
            out_part.copy_(torch.bmm(weight.expand(3, -1, -1), sums_part.permute(1, 2, 0)).permute(2, 0, 1))


def _apply_backward(
    product: Product, sums: Tensor, weights: Sequence[Tensor], gradient: Tensor, to_weights: Sequence[Tensor]
) -> Tensor:
    """Gradient with respect to ``sums``; those of the weights are added to ``to_weights``."""
    to_sums = torch.empty_like(sums)
    parts = zip(_parts(product, sums, gradient), _parts(product, to_sums, gradient), weights, to_weights, strict=True)
    for (_, sums_part, g), (_, to_part, _), weight, to_weight in parts:
        for component in range(g.shape[1]):
            to_weight.addmm_(g[:, component].T, sums_part[:, component])
            torch.mm(g[:, component], weight, out=to_part[:, component])
    return to_sums


class _AtSources(torch.autograd.Function):
    """v(e) = B(j) h(e) for all entries of the table of edges by source, [S, K, n]."""

    @staticmethod
    def forward(ctx: Any, table: Table, b: Tensor, h: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(b, h)
        v = h.new_zeros(*table.entries.shape, b.shape[1])
        for chunk, width in _AtSources._chunks(table, h):
            h_edge = _listed(h, table, chunk, width)
            v[chunk, :width] = torch.bmm(b[chunk], h_edge.transpose(1, 2)).transpose(1, 2)
        return v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        b, h = ctx.saved_tensors
        to_b, to_h = torch.zeros_like(b), h.new_zeros(len(h) + 1, h.shape[1])
        for chunk, width in _AtSources._chunks(ctx.table, h):
            g = gradient[chunk, :width]
            torch.bmm(g.transpose(1, 2), _listed(h, ctx.table, chunk, width), out=to_b[chunk])
            _unlisted(to_h, ctx.table, chunk, width, torch.bmm(g, b[chunk]))
        return None, to_b, to_h[:-1]

    @staticmethod
    def _chunks(table: Table, h: Tensor) -> Iterator[tuple[slice, int]]:
        return _chunks(table, h, 2 * table.entries.shape[1] * h.shape[1])


@dataclass(frozen=True)
class _Weights:
    """The second layer with its path normalisation. summed: [outputs, rows x H] per block; outer: the output block, the
    input block and [inputs, outputs x H] of each path scalar x vector -> vector."""

    summed: list[Tensor]
    outer: list[tuple[int, int, Tensor]]


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
        self._prepared: tuple[tuple[int, ...], _Weights] | None = None

    def forward(self, features: Tensor, edges: Edges, receivers: Tensor | None = None) -> Tensor:
        """features: [S, dim] of all sources; receivers: [nodes, >= R] features of all receivers, or None.

        Returns [D, out dim].
        """
        compact = edges.compact
        if compact.sources is not None:
            features = features.index_select(0, compact.sources)
        result = self._messages(features, compact.edges, receivers)
        if compact.rows is None:
            return result
        return result.new_zeros(len(edges.degree), result.shape[1]).index_copy(0, compact.rows, result)

    def _messages(self, features: Tensor, edges: Edges, receivers: Tensor | None) -> Tensor:
        hidden, weights = self._hidden(features, edges, receivers), self._weights()
        padded = functional.pad(features.T, (0, 1))  # a node of zeros, for the padding of the table
        result: Tensor = _Aggregate.apply(  # type: ignore[no-untyped-call]
            self.product, edges, padded, edges.near_vectors, hidden, *weights.summed
        )
        return self._add_outer(result, features, edges, hidden, weights) if weights.outer else result

    def _add_outer(self, out: Tensor, features: Tensor, edges: Edges, hidden: Tensor, weights: _Weights) -> Tensor:
        """Plus the paths scalar x vector -> vector: sum_e (B(j) h(e)) (x) s(e)."""
        columns = self.product.inputs.slices
        at_source = [
            (features[:, columns[block]] @ weight).unflatten(1, (-1, hidden.shape[1]))
            for _, block, weight in weights.outer
        ]
        v: Tensor = _AtSources.apply(  # type: ignore[no-untyped-call]
            edges.leaving, torch.cat(at_source, dim=1), hidden
        )
        v = v.flatten(0, 1).index_select(0, edges.places.flatten()).unflatten(0, edges.places.shape)
        sums = torch.bmm(edges.near_vectors.movedim(1, 0), v)  # [D, 3, outputs]
        start, outputs = 0, self.product.outputs.slices
        added = out.clone() if torch.is_grad_enabled() else out
        for out_block, _, _ in weights.outer:
            count = self.product.outputs.counts[out_block]
            added[:, outputs[out_block]] += sums[:, :, start : start + count].flatten(1)
            start += count
        return added

    def _hidden(self, features: Tensor, edges: Edges, receivers: Tensor | None) -> Tensor:
        """[E, H + 1]: hidden layer, and a 1 for the bias of the layer after it."""
        weight = functional.pad(self.hidden.weight, (0, 0, 0, 1))
        edge, receiver, source = weight.split(self.sizes, dim=1)
        values = torch.addmm(functional.pad(self.hidden.bias, (0, 1), value=1.0), edges.embedding, edge.T)
        values += (features[:, : self.sizes[2]] @ source.T).index_select(0, edges.source)
        if receivers is not None:
            values += (receivers[:, : self.sizes[1]] @ receiver.T).index_select(0, edges.receiver)
        values = values.relu_()
        if self.training and self.dropout.p:
            return torch.cat([self.dropout(values[:, :-1]), values[:, -1:]], dim=1)
        return values

    def _weights(self) -> _Weights:
        tensors = (self.weights.weight, self.weights.bias)
        if torch.is_grad_enabled() and tensors[0].requires_grad:
            return self._prepare()
        versions = tuple(value for t in tensors for value in (t._version, t.data_ptr()))
        if self._prepared is None or self._prepared[0] != versions:
            self._prepared = (versions, self._prepare())
        return self._prepared[1]

    def _prepare(self) -> _Weights:
        flat = torch.cat([self.weights.weight, self.weights.bias[:, None]], dim=1)
        sizes = [block.fan_in * self.product.outputs.counts[block.out] for block in self.product.blocks]
        result = _Weights([], [])
        for block, values in zip(self.product.blocks, flat.split(sizes), strict=True):
            matrix = values.unflatten(0, (block.fan_in, -1)) / math.sqrt(block.fan_in)  # [inputs, outputs, H]
            pieces = list(zip(block.paths, matrix.split([path.count for path in block.paths]), strict=True))
            summed = [piece for path, piece in pieces if path.operation != "outer"]
            if summed:
                result.summed.append(torch.cat(summed).movedim(1, 0).flatten(1))
            outer = [(block.out, path.block, piece.flatten(1)) for path, piece in pieces if path.operation == "outer"]
            result.outer.extend(outer)
        return result


def e3nn_rows(product: Product, out_order: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """[weights] e3nn's flat weight number of each of our weights.

    e3nn's ``FullyConnectedTensorProduct`` loops over input blocks, then harmonics, then output blocks (in the order
    ``out_order``), and stores one (inputs, outputs) matrix per path.
    """
    degree = {"copy": 0, "outer": 1, "dot": 1, "cross": 1, "quadratic": 2}
    every = [(block.out, path) for block in product.blocks for path in block.paths]
    order = sorted(every, key=lambda item: (item[1].block, degree[item[1].operation], out_order.index(item[0])))
    starts, start = {}, 0
    for out, path in order:
        starts[out, path] = start
        start += path.count * product.outputs.counts[out]
    return torch.cat([starts[item] + torch.arange(item[1].count * product.outputs.counts[item[0]]) for item in every])
