"""Rotatable bonds of a ligand: bridges of the molecular graph with more than one atom on both sides.

The definition of torsional diffusion and DiffDock (DisCo-Diff, supplement E) leaves bond orders out: an amide bond
turns and a ring bond does not, but a double bond turns too, and comes out E or Z by chance. Given the kinds of bonds,
double and triple ones stay as they are. The authors remove every bond in turn and look for the components (quadratic);
one depth-first search finds the same bonds and parts in linear time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from core.errors import DataError

DOUBLE_AND_TRIPLE = (1, 2)  # kinds of ``bond_graph``


@dataclass(frozen=True)
class _Forest:
    """Depth-first search. ``order`` lists the atoms as met, so a subtree is ``size`` entries of it from ``place``.

    ``parent`` is -1 for a root, which is the lowest atom of its fragment; ``low`` is the earliest place that a bond
    outside the tree reaches from the subtree.
    """

    order: list[int]
    place: list[int]
    parent: list[int]
    root: list[int]
    size: list[int]
    low: list[int]

    def subtree(self, atom: int) -> list[int]:
        return self.order[self.place[atom] : self.place[atom] + self.size[atom]]


def rotatable_bonds(
    n_atoms: int, index: Int64[np.ndarray, "2 e"], kinds: Int64[np.ndarray, " e"] | None = None
) -> tuple[Int64[np.ndarray, "r 2"], Bool[np.ndarray, "r n"]]:
    """Rotatable bonds (u, v) [R, 2] in bond order, and the atoms that each one moves [R, n_atoms].

    ``index`` and ``kinds`` are those of ``bond_graph``: bond k forward in column 2k, backward in 2k+1, no bond twice.
    With ``kinds`` double and triple bonds do not rotate; without, as the authors have it, they do. The smaller part
    moves; of two equal parts the one with the lowest atom. v is on the moving side, u is not. In a molecule of several
    unconnected fragments each fragment is treated alone: its bonds move atoms of that fragment only.

    Raises:
        DataError: an atom number out of range, or columns that do not come in pairs.
    """
    if index.shape[1] % 2 or not np.array_equal(index[:, ::2], index[::-1, 1::2]):
        raise DataError("bond index: every bond needs two columns, i->j then j->i; make it with bond_graph")
    if index.size and not (index.min() >= 0 and index.max() < n_atoms):
        raise DataError(
            f"bond index: atom {index.max()} or {index.min()} is not among the {n_atoms} atoms of the ligand"
        )
    edges: list[tuple[int, int]] = [(int(u), int(v)) for u, v in index[:, ::2].T]
    forest = _search(n_atoms, edges)
    turns = [True] * len(edges) if kinds is None else [int(kind) not in DOUBLE_AND_TRIPLE for kind in kinds[::2]]
    found = [_moving_part(forest, u, v) for (u, v), may_turn in zip(edges, turns, strict=True) if may_turn]
    bonds = [bond for bond, part in found if part]
    moves = np.zeros((len(bonds), n_atoms), dtype=np.bool_)
    for row, part in zip(moves, (part for _, part in found if part), strict=True):
        row[part] = True
    return np.array(bonds, dtype=np.int64).reshape(-1, 2), moves


def _moving_part(forest: _Forest, u: int, v: int) -> tuple[tuple[int, int], list[int]]:
    """The bond, its second atom in the moving part, and that part; an empty part where the bond does not rotate."""
    if v != forest.parent[u] and u != forest.parent[v]:  # closes a ring
        return (u, v), []
    child, parent = (u, v) if forest.parent[u] == v else (v, u)
    if forest.low[child] < forest.place[child]:  # a ring goes round the bond
        return (u, v), []
    below, fragment = forest.subtree(child), forest.subtree(forest.root[child])
    if min(len(below), len(fragment) - len(below)) < 2:
        return (u, v), []
    if 2 * len(below) < len(fragment):
        return (parent, child), below
    inside = set(below)  # the other part holds the lowest atom, so it wins a tie
    return (child, parent), [atom for atom in fragment if atom not in inside]


def _search(n_atoms: int, edges: Sequence[tuple[int, int]]) -> _Forest:
    """Depth-first search from the lowest atom of every fragment, without recursion (chains are long)."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for u, v in edges:
        neighbours[u].append(v)
        neighbours[v].append(u)
    place, parent, root = [-1] * n_atoms, [-1] * n_atoms, list(range(n_atoms))
    order: list[int] = []
    for start in range(n_atoms):
        stack = [(start, -1)]
        while stack:
            atom, above = stack.pop()
            if place[atom] >= 0:
                continue
            place[atom], parent[atom], root[atom] = len(order), above, start
            order.append(atom)
            stack += [(other, atom) for other in neighbours[atom] if place[other] < 0]
    size, low = [1] * n_atoms, list(place)
    for atom in reversed(order):
        low[atom] = min([low[atom], *(place[other] for other in neighbours[atom] if other != parent[atom])])
        if parent[atom] >= 0:
            size[parent[atom]] += size[atom]
            low[parent[atom]] = min(low[parent[atom]], low[atom])
    return _Forest(order, place, parent, root, size, low)
