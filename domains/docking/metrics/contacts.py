"""Distances within and around docked poses: centroid error, to the protein, between atoms of the ligand itself."""

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from core.errors import RequestError

CLASH = 0.4  # Angstrom: the authors' threshold against the protein and within the ligand (paper 4.7)


def centroid_distance(
    reference: Float[np.ndarray, "n 3"], poses: Float[np.ndarray, "p n 3"]
) -> Float[np.ndarray, " p"]:
    """Distance [P] between the mean heavy-atom positions of the reference and of every pose, Angstrom."""
    return np.linalg.norm(poses.mean(axis=1, dtype=np.float64) - reference.mean(axis=0, dtype=np.float64), axis=-1)


def protein_distance(poses: Float[np.ndarray, "p n 3"], protein: Float[np.ndarray, "a 3"]) -> Float[np.ndarray, " p"]:
    """Least distance [P] of every pose to the protein, Angstrom; NaN where a pose is not finite.

    Give heavy atoms on both sides. The authors measure to every ATOM record of their protein file, hydrogens included
    where the file has them, and never to HETATM records. A tree of the protein keeps memory at O(P n + A).
    Raises RequestError for a protein without atoms or with coordinates that are not finite.
    """
    if len(protein) == 0 or not np.isfinite(protein).all():
        raise RequestError(f"clashes need a protein with finite coordinates, not {len(protein)} atoms: check its file")
    distances = np.full(len(poses), np.nan)
    finite = np.isfinite(poses).all(axis=(1, 2))
    if finite.any():
        nearest, _ = cKDTree(protein).query(poses[finite].reshape(-1, 3))
        distances[finite] = nearest.reshape(finite.sum(), -1).min(axis=1)
    return distances


def self_distance(poses: Float[np.ndarray, "p n 3"]) -> Float[np.ndarray, " p"]:
    """Least distance [P] between two atoms of every pose, Angstrom; inf for one atom, NaN where not finite."""
    return np.array([_closest_pair(pose) for pose in poses], dtype=np.float64)


def _closest_pair(pose: Float[np.ndarray, "n 3"]) -> float:
    return float(np.min(pdist(pose.astype(np.float64)), initial=np.inf)) if np.isfinite(pose).all() else float("nan")
