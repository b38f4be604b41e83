"""How well sites hit the true ligand: distances of their centres to its atoms (DCA) and to its centroid (DCC)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree

from domains.docking.chemistry.protein import Protein
from domains.docking.sites.finder import SitePrediction
from domains.docking.sites.labels import ligand_copies
from domains.docking.sites.points import surface_points

HIT = 4.0  # Angstrom, as in P2Rank's evaluation (Krivak and Hoksza 2018)
WIDE = 8.0
TOPS = (1, 3, 5)


@dataclass(frozen=True, eq=False)
class SiteDistances:
    """Angstrom from the centre of every site, best first, to the nearest ligand atom (atom), the nearest atom of the
    ligand or its images in copies of the chain (copy), and the ligand's centroid; probability: what the sites claim."""

    atom: Float64[np.ndarray, " k"]
    copy: Float64[np.ndarray, " k"]
    centroid: Float64[np.ndarray, " k"]
    probability: Float64[np.ndarray, " k"]


def site_distances(
    sites: Sequence[SitePrediction], protein: Protein, ligand: Float64[np.ndarray, "n 3"]
) -> SiteDistances:
    """Distances of predicted sites to the true pose [n, 3] (frame of the protein)."""
    claimed = np.array([site.probability for site in sites])
    return _distances(np.array([site.centre for site in sites]), protein, ligand, claimed)


def random_distances(protein: Protein, ligand: Float64[np.ndarray, "n 3"]) -> SiteDistances:
    """The same for every probe point of the protein: what a random choice among them finds."""
    points = surface_points(protein)
    return _distances(points, protein, ligand, np.full(len(points), np.nan))


def hit_rates(measured: Sequence[SiteDistances]) -> dict[str, Float64[np.ndarray, " c"]]:
    """By name (``DCA4 top-1``) 0 or 1 for every complex: does any of the best so many sites hit the ligand?"""
    return {
        f"{name} top-{top}": np.array([float((getattr(each, field)[:top] < limit).any()) for each in measured])
        for name, field, limit in _CRITERIA
        for top in TOPS
    }


def random_hit_rates(measured: Sequence[SiteDistances]) -> dict[str, Float64[np.ndarray, " c"]]:
    """The chance of that for as many random probe points, drawn with replacement: 1 - (1 - p)^k."""
    return {
        f"{name} top-{top}": np.array([1 - (1 - (getattr(each, field) < limit).mean()) ** top for each in measured])
        for name, field, limit in _CRITERIA
        for top in TOPS
    }


def wilson(hits: Float64[np.ndarray, " c"]) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    n, z = len(hits), 1.96
    middle, width = hits.mean() + z**2 / (2 * n), z * np.sqrt(hits.mean() * (1 - hits.mean()) / n + (z / (2 * n)) ** 2)
    return float((middle - width) / (1 + z**2 / n)), float((middle + width) / (1 + z**2 / n))


_CRITERIA = (
    ("DCA4", "atom", HIT),
    ("DCC4", "centroid", HIT),
    ("DCC8", "centroid", WIDE),
    ("DCA4 any copy", "copy", HIT),
)


def _distances(
    centres: Float64[np.ndarray, "k 3"], protein: Protein, ligand: np.ndarray, claimed: np.ndarray
) -> SiteDistances:
    atom, _ = cKDTree(ligand).query(centres)
    images, _ = cKDTree(np.concatenate(ligand_copies(protein, ligand))).query(centres)
    return SiteDistances(atom, images, np.linalg.norm(centres - ligand.mean(axis=0), axis=1), claimed)
