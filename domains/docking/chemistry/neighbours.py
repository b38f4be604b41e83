"""Nearest-neighbour edges of points: the receptor and protein-atom graphs of DiffDock, without a loop over points."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial import cKDTree

RECEPTOR_RADIUS, RECEPTOR_NEIGHBOURS = 15.0, 24  # Angstrom between C-alphas; DisCo-Diff, supplement E
ATOM_RADIUS, ATOM_NEIGHBOURS = 5.0, 8


def nearest_edges(
    points: Float64[np.ndarray, "n 3"], radius: float, most: int, *, least: int = 0
) -> Int64[np.ndarray, "2 e"]:
    """Edges [2, E] from every point (row 0) to its neighbours (row 1), nearest first, in the order of the points.

    Neighbours lie closer than ``radius`` (not at it); of more than ``most`` the nearest ``most`` are taken; a point
    with fewer than ``least`` gets its nearest ``least`` however far, as far as there are points. No point is its own
    neighbour. Of neighbours equally far the one with the smaller x (then y, then z) comes first, so that the edges
    are the same whatever the order of the points.
    """
    order = np.lexsort(points.T[::-1])  # by x, y, z: from here on, the smaller index wins a tie
    ordered = points[order]
    tree = cKDTree(ordered)
    pairs = tree.query_pairs(radius * (1 + 1e-9), output_type="ndarray").astype(np.int64)
    source, target = np.concatenate([pairs, pairs[:, ::-1]]).T
    square = _squares(ordered, source, target)
    inside = square < radius**2
    source, target, square = source[inside], target[inside], square[inside]
    few = np.flatnonzero(np.bincount(source, minlength=len(points)) < min(least, len(points) - 1))
    if len(few):
        keep = ~np.isin(source, few)
        lonely, far = np.repeat(few, len(points)), np.tile(np.arange(len(points)), len(few))
        lonely, far = lonely[lonely != far], far[lonely != far]
        source, target = np.concatenate([source[keep], lonely]), np.concatenate([target[keep], far])
        square = np.concatenate([square[keep], _squares(ordered, lonely, far)])
    nearest = np.lexsort((target, square, source))
    source, target = source[nearest], target[nearest]
    counts = np.bincount(source, minlength=len(points))
    place = np.arange(len(source)) - np.repeat(counts.cumsum() - counts, counts)
    limit = np.full(len(points), most)
    limit[few] = least
    keep = place < limit[source]
    edges = np.stack([order[source[keep]], order[target[keep]]])
    return edges[:, np.argsort(edges[0], kind="stable")]


def _squares(points: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared distances, added up in one fixed order so that equal pairs of points give equal numbers."""
    x, y, z = (points[source] - points[target]).T
    return x * x + y * y + z * z
