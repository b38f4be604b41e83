"""Directed edges between nodes, sorted into one row per node for batched products."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Table:
    """The edges of each of D nodes.

    entries: [D, K] edge numbers, E where a node has fewer than K; degree: [D] how many it has; dense: whether the
    entries are 0..E-1 in order, so that [E, ...] can be viewed as [D, K, ...].
    """

    entries: Int[Tensor, "d k"]
    degree: Int[Tensor, " d"]
    dense: bool

    @staticmethod
    def of(node: Int[Tensor, " e"], count: int) -> "Table":
        """Edges by the node that each belongs to, in ascending order."""
        table = Table.ascending(torch.bincount(node, minlength=count))
        if bool((node[1:] >= node[:-1]).all()):
            return table
        order = functional.pad(node.argsort(stable=True), (0, 1), value=len(node))
        return Table(order[table.entries], table.degree, False)

    @staticmethod
    def ascending(degree: Int[Tensor, " d"]) -> "Table":
        """For edges that are sorted by their node."""
        ends = degree.cumsum(0)
        edges, width = (int(ends[-1]), int(degree.max())) if len(degree) else (0, 0)
        place = torch.arange(width, device=degree.device)
        entries = torch.where(place < degree[:, None], (ends - degree)[:, None] + place, edges)
        return Table(entries, degree, edges == entries.numel())


@dataclass(frozen=True)
class Edges:
    """Directed edges and the lists of edges that each of D receivers reads.

    receiver, source: [E] node numbers; vector: [3, E] sqrt(3) times the unit vector; embedding: [E, C] learned
    features; table: edges by receiver (its rows are some of the receivers after ``into``); sources: number S of nodes
    that ``source`` counts.
    """

    receiver: Int[Tensor, " e"]
    source: Int[Tensor, " e"]
    vector: Float[Tensor, "3 e"]
    embedding: Float[Tensor, "e c"]
    table: Table
    sources: int

    @property
    def degree(self) -> Int[Tensor, " d"]:
        return self.table.degree

    @cached_property
    def leaving(self) -> Table:
        """Edges by source."""
        return Table.of(self.source, self.sources)

    @cached_property
    def near_sources(self) -> Int[Tensor, "d k"]:
        """Source of every entry of the table, S in its padding."""
        return functional.pad(self.source, (0, 1), value=self.sources)[self.table.entries]

    @cached_property
    def near_vectors(self) -> Float[Tensor, "3 d k"]:
        """Vector of every entry of the table, 0 in its padding."""
        if self.table.dense:
            return self.vector.unflatten(1, self.table.entries.shape)
        return functional.pad(self.vector, (0, 1))[:, self.table.entries]

    @cached_property
    def places(self) -> Int[Tensor, "d k"]:
        """Where in the flattened table ``leaving`` the edge of every entry of the table stands."""
        entries = self.leaving.entries
        place = entries.new_zeros(len(self.source) + 1)
        place[entries.flatten()] = torch.arange(entries.numel(), device=entries.device)
        place[-1] = 0
        return place[self.table.entries]

    @cached_property
    def compact(self) -> "Compact":
        """The same messages with less padding: receivers by falling degree, and no nodes without edges."""
        degree, rows, used = self.degree, None, None
        edges = self
        if self.table.entries.numel() > 1.25 * len(self.source):
            rows = degree.argsort(descending=True)[: int((degree > 0).sum())]
            edges = self.into(rows)
        leaving = torch.bincount(edges.source, minlength=self.sources)
        chosen = leaving.nonzero()[:, 0]
        if len(chosen) < 0.8 * self.sources:
            used = chosen
            number = leaving.new_zeros(self.sources)
            number[used] = torch.arange(len(used), device=used.device)
            edges = replace(edges, source=number[edges.source], sources=len(used))
        return Compact(edges, rows, used)

    def reverse(self) -> "Edges":
        """The same edges read at their other ends, with unchanged vectors and features."""
        order = self.source.argsort(stable=True)
        source = self.source[order]
        return Edges(
            source, self.receiver[order], self.vector[:, order], self.embedding[order],
            Table.ascending(torch.bincount(source, minlength=self.sources)), len(self.degree),
        )  # fmt: skip

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
        entries = self.table.entries[receivers].flatten()
        chosen = entries[entries < len(self.source)]
        return Edges(
            self.receiver[chosen], self.source[chosen], self.vector[:, chosen], self.embedding[chosen],
            Table.ascending(self.degree[receivers]), self.sources,
        )  # fmt: skip


@dataclass(frozen=True)
class Compact:
    """``edges`` whose table has the ``rows`` of the original one and whose sources are ``sources``; None for all."""

    edges: Edges
    rows: Int[Tensor, " d"] | None
    sources: Int[Tensor, " s"] | None
