"""Heavy-atom RMSD in the frame of the receptor, corrected for the symmetry of the ligand, exact and interruptible.

The value is that of ``spyrmsd.symmrmsd(minimize=False)``: the least RMSD over all automorphisms of the molecular graph
(atoms coloured by element; bond orders, charges and stereo ignored), never after superposition. Listing automorphisms
explodes (inositol hexakisphosphate has 559,872), so the minimum is found by divide and conquer instead: colour
refinement pins the atoms that have one possible image, what is left falls into components that are permuted among
themselves (an assignment problem), and only a component where nothing is pinned is searched, trying every image of one
of its atoms.
Pure NumPy: the time limit holds in any thread, on any platform, without signals or child processes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from core.errors import RequestError

Neighbours = Sequence[Sequence[int]]  # of every atom
Colours = Mapping[int, int]  # of the atoms still without an image
Costs = Float[np.ndarray, " p"]  # one sum of squared distances per pose; inf where no isomorphism exists


@dataclass(frozen=True)
class RMSDResult:
    """``values`` [P] in Angstrom, NaN where it could not be found; ``reason`` says why, None when nothing failed."""

    values: Float[np.ndarray, " p"]
    reason: str | None = None


def symmetry_rmsd(
    mol: Chem.Mol,
    reference: Float[np.ndarray, "n 3"],
    poses: Float[np.ndarray, "p n 3"],
    time_limit: float = 10.0,
) -> RMSDResult:
    """Symmetry-corrected heavy-atom RMSD of every pose from the reference, without superposition.

    Args:
        mol: the ligand without hydrogens; its atom order is that of both sets of coordinates.
        reference: true positions, Angstrom, in the frame of the receptor.
        poses: predicted positions, Angstrom, same frame.
        time_limit: seconds for the whole ligand; past it every value is NaN and ``reason`` says so. The plain RMSD is
            never given in its place.

    Raises RequestError where hydrogens, the number of atoms or a reference that is not finite make the question wrong.
    A pose that is not finite gets NaN and a reason; the others keep their values.
    """
    _check_request(mol, reference, poses)
    deadline = time.monotonic() + time_limit
    finite = np.isfinite(poses).all(axis=(1, 2))
    values = np.full(len(poses), np.nan)
    reasons = [] if finite.all() else [f"{np.sum(~finite)} of {len(poses)} poses have coordinates that are not finite"]
    elements = {atom.GetIdx(): atom.GetAtomicNum() for atom in mol.GetAtoms()}
    neighbours = [[other.GetIdx() for other in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    count = mol.GetNumAtoms()
    squares = np.empty((finite.sum(), count, count))  # [p, reference, pose]
    for square, pose in zip(squares, poses[finite], strict=True):
        square[:] = cdist(reference, pose, "sqeuclidean")
    try:
        least = _Search(neighbours, squares, deadline).least(elements, elements)
        values[finite] = np.sqrt(least / count)
    except _OutOfTimeError:
        name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
        ligand = f"ligand {name}" if name else "the ligand"
        reasons.append(f"symmetries of {ligand} ({count} atoms) not resolved within {time_limit:g} s")
    return RMSDResult(values, "; ".join(reasons) or None)


class _OutOfTimeError(Exception):
    """The deadline passed inside the search."""


class _Search:
    """Least cost over colour-preserving isomorphisms between induced subgraphs of one molecular graph."""

    def __init__(self, neighbours: Neighbours, squares: Float[np.ndarray, "p n n"], deadline: float) -> None:
        self.neighbours = neighbours
        self.squares = squares
        self.deadline = deadline

    def least(self, left: Colours, right: Colours) -> Costs:
        """Least sum of squared distances [P] over isomorphisms from the ``left`` atoms (reference) to the ``right``."""
        refined = self._refine(left, right)
        if refined is None:
            return np.full(len(self.squares), np.inf)
        left, right = refined
        classes, images = _classes(left), _classes(right)
        cost = np.zeros(len(self.squares))
        pinned = {colour for colour, members in classes.items() if len(members) == 1}
        for colour in pinned:
            cost += self.squares[:, classes[colour][0], images[colour][0]]
        # After refinement all atoms of a class have the same pinned neighbours, so dropping these loses no condition.
        left = {atom: colour for atom, colour in left.items() if colour not in pinned}
        right = {atom: colour for atom, colour in right.items() if colour not in pinned}
        parts = list(self._components(left))
        if len(parts) > 1:
            return cost + self._assign(parts, list(self._components(right)))
        return cost + self._branch(left, right) if parts else cost

    def _refine(self, left: Colours, right: Colours) -> tuple[Colours, Colours] | None:
        """Colours split by the colours of neighbours until stable, alike on both sides; None if the sides differ."""
        while True:
            if time.monotonic() > self.deadline:
                raise _OutOfTimeError
            if Counter(left.values()) != Counter(right.values()):
                return None
            keys = self._signatures(left), self._signatures(right)
            names = {key: index for index, key in enumerate(sorted({*keys[0].values(), *keys[1].values()}))}
            stable = len(names) == len(set(left.values()))
            left, right = ({atom: names[key] for atom, key in side.items()} for side in keys)
            if stable and Counter(left.values()) == Counter(right.values()):
                return left, right

    def _signatures(self, side: Colours) -> dict[int, tuple[int, tuple[int, ...]]]:
        return {
            atom: (colour, tuple(sorted(side[other] for other in self.neighbours[atom] if other in side)))
            for atom, colour in side.items()
        }

    def _components(self, side: Colours) -> Iterator[Colours]:
        waiting = set(side)
        while waiting:
            stack, part = [waiting.pop()], []
            while stack:
                part.append(atom := stack.pop())
                near = waiting.intersection(self.neighbours[atom])
                waiting -= near
                stack += near
            yield {atom: side[atom] for atom in part}

    def _assign(self, parts: Sequence[Colours], images: Sequence[Colours]) -> Costs:
        """Isomorphic components may trade places: the cheapest one-to-one assignment, separately for every kind."""
        cost = np.zeros(len(self.squares))
        for rows, columns in _same_colours(parts, images):
            if len(rows) != len(columns):
                return np.full_like(cost, np.inf)
            table = np.stack([np.stack([self.least(row, column) for column in columns]) for row in rows])
            cost += _cheapest_assignment(table)
        return cost

    def _branch(self, left: Colours, right: Colours) -> Costs:
        """Every image of one atom of the smallest class in turn."""
        classes, images = _classes(left), _classes(right)
        colour = min(classes, key=lambda each: (len(classes[each]), each))
        atom, new = classes[colour][0], max(classes) + 1
        options = [self.least({**left, atom: new}, {**right, image: new}) for image in images[colour]]
        return np.min(options, axis=0)


def _classes(side: Colours) -> dict[int, list[int]]:
    classes: dict[int, list[int]] = defaultdict(list)
    for atom, colour in side.items():
        classes[colour].append(atom)
    return classes


def _same_colours(parts: Sequence[Colours], images: Sequence[Colours]) -> Iterator[tuple[list[Colours], list[Colours]]]:
    """Components grouped by their multiset of colours: only these can be isomorphic."""
    groups: dict[tuple[int, ...], tuple[list[Colours], list[Colours]]] = defaultdict(lambda: ([], []))
    for side, members in enumerate((parts, images)):
        for part in members:
            groups[tuple(sorted(part.values()))][side].append(part)
    yield from groups.values()


def _cheapest_assignment(table: Float[np.ndarray, "k k p"]) -> Costs:
    """Least total of one entry per row and column; inf where every assignment meets an inf."""
    size = len(table)
    if size <= 3:
        return np.min(
            [sum(table[row, column] for row, column in enumerate(p)) for p in permutations(range(size))], axis=0
        )
    # scipy refuses infeasible tables: a penalty above any feasible total marks them.
    possible = np.isfinite(table)
    penalty = 1.0 + size * np.max(table, where=possible, initial=0.0)
    filled = np.where(possible, table, penalty)
    rows = np.arange(size)
    totals = np.array([filled[rows, linear_sum_assignment(filled[..., p])[1], p].sum() for p in range(table.shape[2])])
    return np.where(totals < penalty, totals, np.inf)


def _check_request(mol: Chem.Mol, reference: np.ndarray, poses: np.ndarray) -> None:
    count = mol.GetNumAtoms()
    if any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()):
        raise RequestError("RMSD is over heavy atoms: remove the hydrogens of the ligand first (Chem.RemoveAllHs)")
    if count == 0 or reference.shape != (count, 3) or poses.shape[1:] != (count, 3):
        raise RequestError(
            f"the ligand has {count} atoms, the reference {tuple(reference.shape)} and the poses {tuple(poses.shape)}"
            " coordinates: give [n, 3] and [poses, n, 3] with n heavy atoms (at least one) in the same order"
        )
    if not np.isfinite(reference).all():
        raise RequestError("the reference pose has coordinates that are not finite: give a complete crystal pose")
