"""What chance gives: conformers turned at random, their centroids uniform over where the ligand may be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from benchmarks.docking_table.complexes import MARGIN, Case, Mode, Poses
from core.errors import RequestError
from core.rng import derive_key
from domains.docking.chemistry.conformer import embed_conformer
from domains.docking.chemistry.pocket import Around, Pocket
from domains.docking.chemistry.protein import read_protein

CONFORMERS = 10  # of every ligand; the poses take them in turn
SHELL = (3.0, 6.0)  # Angstrom from the nearest heavy atom: beyond contact, within reach
TRIES = 10_000_000  # points drawn before a region counts as empty
Points = Float64[np.ndarray, "n 3"]


@dataclass(frozen=True, eq=False)
class Shell:
    """All points that are ``least`` to ``most`` Angstrom from the nearest of some atoms [n, 3]: around the protein and
    in its cavities."""

    atoms: Points
    least: float = SHELL[0]
    most: float = SHELL[1]

    def contains(self, points: Points) -> Bool[np.ndarray, " a"]:
        """Which points lie in the shell or on its faces."""
        apart = cKDTree(self.atoms).query(points, distance_upper_bound=self.most * (1 + 1e-9))[0]
        return (apart >= self.least) & (apart <= self.most)


@dataclass(frozen=True)
class RandomPlacement:
    """``poses`` random poses, in an order that says nothing. Blind, centroids are uniform over a ``Shell`` of the
    protein, else over all that is within ``MARGIN`` of an atom of the crystal ligand, in the protein or not."""

    poses: int = 40
    seed: int = 0

    def __call__(self, case: Case, mode: Mode) -> Poses:
        mol, rng = case.ligand().mol, np.random.default_rng(derive_key(self.seed, f"random placement/{case.name}"))
        near = read_protein(case.protein).positions if mode == "blind" else mol.GetConformer().GetPositions()
        region, reach = (Shell(near), SHELL[1]) if mode == "blind" else (Around(near, MARGIN), MARGIN)
        seeds = rng.integers(2**31, size=min(CONFORMERS, self.poses)).tolist()
        conformers = [embed_conformer(mol, seed) for seed in seeds]
        centers = uniform_points(region, near.min(axis=0) - reach, near.max(axis=0) + reach, self.poses, rng)
        return Poses(placed(conformers, centers, rng))


def uniform_points(
    region: Pocket | Shell, low: Float64[np.ndarray, " 3"], high: Float64[np.ndarray, " 3"], count: int,
    rng: np.random.Generator,
) -> Points:  # fmt: skip
    """``count`` points uniform over a region that lies in the box from ``low`` to ``high``, Angstrom.

    Drawn from the box, those outside the region left out. Raises RequestError where the region has hardly any volume.
    """
    found = np.empty((0, 3))
    for _ in range(TRIES // (block := 10_000)):
        points = rng.uniform(low, high, (block, 3))
        found = np.concatenate([found, points[region.contains(points)]])
        if len(found) >= count:
            return found[:count]
    raise RequestError(f"{TRIES} random points met the region {len(found)} times: it is too small to place a ligand in")


def placed(conformers: Sequence[Points], centers: Float64[np.ndarray, "p 3"], rng: np.random.Generator) -> np.ndarray:
    """Poses [P, n, 3]: conformers in turn, under uniform rotations, with their centroids at the centers [P, 3]."""
    shapes = np.stack([conformers[number % len(conformers)] for number in range(len(centers))])
    turns = Rotation.random(len(centers), random_state=rng).as_matrix()
    return (shapes - shapes.mean(axis=1, keepdims=True)) @ turns.transpose(0, 2, 1) + centers[:, None]
