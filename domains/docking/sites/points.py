"""Probe points around a protein, where atoms of a ligand could touch it."""

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

from domains.docking.chemistry.protein import Protein

PROBE_DISTANCE = 3.2  # Angstrom from the nearest heavy atom: between hydrogen bonds (2.8) and carbons that touch (3.7)
SPACING = 2.0  # Angstrom, edge of the cells that keep one point each
DIRECTIONS = 32  # per atom; 32 on a sphere of radius 3.2 lie about 2 Angstrom apart
TOLERANCE = 1e-6


def surface_points(protein: Protein) -> Float64[np.ndarray, "p 3"]:
    """Points [P, 3] (Angstrom, frame of the protein) ``PROBE_DISTANCE`` from their nearest heavy atoms.

    The union of spheres around the heavy atoms (a solvent-accessible surface, Shrake and Rupley 1973) as fixed
    directions sample it, thinned to one point per cell of a grid. Directions and grid lie in the frame of the protein's
    own principal axes, so the points turn with the protein. There is always at least one.
    """
    axes, centre = principal_frame(protein.positions)
    atoms = (protein.positions - centre) @ axes
    candidates = (atoms[:, None] + PROBE_DISTANCE * sphere(DIRECTIONS)).reshape(-1, 3)
    nearest, _ = cKDTree(atoms).query(candidates)
    exposed = candidates[nearest > PROBE_DISTANCE - TOLERANCE]
    return _thin(exposed) @ axes.T + centre


def sphere(count: int) -> Float64[np.ndarray, "k 3"]:
    """Unit vectors [count, 3] on a Fibonacci lattice."""
    place = np.arange(count) + 0.5
    height, angle = 1 - 2 * place / count, np.pi * (1 + 5**0.5) * place
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def principal_frame(positions: Float64[np.ndarray, "a 3"]) -> tuple[Float64[np.ndarray, "3 3"], np.ndarray]:
    """Right-handed principal axes (columns) and centroid [3]; each axis points to where the atoms reach furthest out.

    The third moment along an axis decides its sign. Bodies with equal moments have no such frame: theirs is arbitrary.
    """
    centre = positions.mean(axis=0)
    offsets = positions - centre
    axes = np.linalg.eigh(offsets.T @ offsets)[1]
    signs = np.where(((offsets @ axes) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    first, second = (axes * signs).T[:2]
    return np.stack([first, second, np.cross(first, second)], axis=1), centre


def _thin(points: Float64[np.ndarray, "k 3"]) -> Float64[np.ndarray, "p 3"]:
    """Of every cell of the grid the point nearest to the cell's centre, in the order of the cells."""
    cells = np.floor(points / SPACING)
    off_centre = ((points - (cells + 0.5) * SPACING) ** 2).sum(axis=1)
    order = np.lexsort((off_centre, *cells.T))
    ordered = cells[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return points[order[first]]
