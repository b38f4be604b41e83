"""What surrounds a probe point, in numbers that no rotation changes: chemistry by distance, burial, curvature."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float16, Float64, Int32, Int64
from scipy.spatial import cKDTree

from domains.docking.chemistry.features import RESIDUES
from domains.docking.chemistry.protein import Protein
from domains.docking.sites.points import surface_points

AMINO_ACIDS = RESIDUES[:20]
ATOM_SHELLS = (4.0, 5.5, 7.5, 10.0)  # Angstrom, outer radii
RESIDUE_SHELLS = (6.0, 10.0, 14.0, 20.0)  # of C-alphas
COMPOSITION_RADIUS = 7.5
CURVATURE_RADII = (6.0, 10.0)
NEIGHBOURS = 16  # points that a point hears from
STRIDE = 4  # every fourth of the nearest ones, which reach out to about 9 Angstrom

_CLASSES: dict[str, Sequence[str]] = {
    "cationic N": ("LYS NZ", "ARG NH1", "ARG NH2", "ARG NE"),
    "anionic O": ("ASP OD1", "ASP OD2", "GLU OE1", "GLU OE2"),
    "charged C": ("ARG CZ", "LYS CE", "ASP CG", "GLU CD"),
    "amide N": ("ASN ND2", "GLN NE2"),
    "amide O": ("ASN OD1", "GLN OE1"),
    "amide C": ("ASN CG", "GLN CD"),
    "imidazole N": ("HIS ND1", "HIS NE2"),
    "imidazole C": ("HIS CG", "HIS CD2", "HIS CE1"),
    "aliphatic hydroxyl": ("SER OG", "THR OG1"),
    "phenol O": ("TYR OH",),
    "indole N": ("TRP NE1",),
    "thiol S": ("CYS SG",),
    "thioether S": ("MET SD",),
}
_GENERAL = (
    *("backbone N", "backbone CA", "backbone C", "backbone O"),
    *("aromatic C", "beta C", "aliphatic C", "other polar", "other"),
)
_NAMED = {atom: number for number, atoms in enumerate(_CLASSES.values(), start=len(_GENERAL)) for atom in atoms}
N_CLASSES = len(_GENERAL) + len(_CLASSES)
N_FEATURES = (
    len(ATOM_SHELLS) * (N_CLASSES + 3) + len(AMINO_ACIDS) + 1 + len(RESIDUE_SHELLS) * 2 + len(CURVATURE_RADII) * 3 + 1
)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """P probe points: positions [P, 3] in Angstrom, features [P, F], neighbours [P, 16] numbers of other points."""

    positions: Float64[np.ndarray, "p 3"]
    features: Float16[np.ndarray, "p f"]
    neighbours: Int32[np.ndarray, "p k"]


def point_cloud(protein: Protein, positions: Float64[np.ndarray, "p 3"] | None = None) -> PointCloud:
    """The probe points of a protein, or given ones, with everything that the network reads of them."""
    places = surface_points(protein) if positions is None else positions
    return PointCloud(places, point_features(protein, places), _neighbours(places))


def point_features(protein: Protein, points: Float64[np.ndarray, "p 3"]) -> Float16[np.ndarray, "p f"]:
    """Features [P, F] of the points; they depend on distances and angles only.

    Heavy atoms of every class in every shell; which amino acids they belong to; C-alphas further out; how one-sided and
    how flat the surroundings are; whether the surface is hollow there; the protein's size.
    """
    pairs = _Pairs.within(points, protein.positions, ATOM_SHELLS)
    classes = np.array([_atom_class(*key) for key in _keys(protein)], dtype=np.int64)
    kinds = np.array([_amino_acid(name) for name in protein.names], dtype=np.int64)[protein.residue]
    near = pairs.distance < COMPOSITION_RADIUS
    composition = np.zeros((len(points), len(AMINO_ACIDS) + 1))
    np.add.at(composition, (pairs.point[near], kinds[pairs.other[near]]), 1)
    far = _Pairs.within(points, protein.ca, RESIDUE_SHELLS)
    columns = [
        np.log1p(pairs.counts(classes[pairs.other], N_CLASSES)),
        np.log1p(composition),
        pairs.shapes(),
        np.log1p(far.counts(np.zeros(len(far.other), dtype=np.int64), 1)),
        far.shapes()[:, : len(RESIDUE_SHELLS)],
        _curvature(points, pairs),
        np.full((len(points), 1), np.log(len(points))),
    ]
    return np.concatenate(columns, axis=1).astype(np.float16)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Neighbours of points: number of the point, of its neighbour, their distance and unit vector, and the shell."""

    size: int
    shells: int
    point: Int64[np.ndarray, " e"]
    other: Int64[np.ndarray, " e"]
    distance: Float64[np.ndarray, " e"]
    direction: Float64[np.ndarray, "e 3"]
    shell: Int64[np.ndarray, " e"]

    @staticmethod
    def within(points: np.ndarray, others: np.ndarray, radii: Sequence[float]) -> "_Pairs":
        found = cKDTree(points).sparse_distance_matrix(cKDTree(others), radii[-1], output_type="ndarray")
        point, other, distance = found["i"].astype(np.int64), found["j"].astype(np.int64), found["v"]
        direction = (others[other] - points[point]) / np.maximum(distance, 1e-9)[:, None]
        shell = np.minimum(np.searchsorted(radii, distance), len(radii) - 1)
        return _Pairs(len(points), len(radii), point, other, distance, direction, shell)

    def sums(self, values: np.ndarray | None) -> Float64[np.ndarray, "p s"]:
        """[P, shells] sums of a value per pair (1 where there is none)."""
        slots = self.point * self.shells + self.shell
        counted = np.bincount(slots, values, self.size * self.shells).reshape(self.size, self.shells)
        return counted.astype(np.float64)

    def counts(self, classes: Int64[np.ndarray, " e"], n_classes: int) -> Int64[np.ndarray, "p c"]:
        """[P, shells x classes] numbers of neighbours."""
        slots = (self.point * self.shells + self.shell) * n_classes + classes
        return np.bincount(slots, minlength=self.size * self.shells * n_classes).reshape(self.size, -1)

    def mean_directions(self) -> Float64[np.ndarray, "p s 3"]:
        total = np.maximum(self.sums(None), 1)
        return np.stack([self.sums(self.direction[:, axis]) for axis in range(3)], axis=2) / total[..., None]

    def shapes(self) -> Float64[np.ndarray, "p k"]:
        """[P, shells x 3]: per shell length of the mean direction u (0: buried), then tr M^2 and det M of M = <u u^T>
        (1/3 and 1/27 where neighbours are all around, 1 and 0 where they lie along one line)."""
        total = np.maximum(self.sums(None), 1)
        u = self.direction
        m = {(a, b): self.sums(u[:, a] * u[:, b]) / total for a in range(3) for b in range(a, 3)}
        xx, yy, zz, xy, xz, yz = (m[key] for key in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
        square = xx**2 + yy**2 + zz**2 + 2 * (xy**2 + xz**2 + yz**2)
        volume = xx * (yy * zz - yz**2) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
        return np.concatenate([np.linalg.norm(self.mean_directions(), axis=2), square, 27 * volume], axis=1)


def _curvature(points: Float64[np.ndarray, "p 3"], atoms: _Pairs) -> Float64[np.ndarray, "p k"]:
    """Per radius: log number of points, where they lie along the outward normal, how far normals agree."""
    inward = atoms.mean_directions()[:, -2]
    normal = -inward / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-9)
    pairs = _Pairs.within(points, points, CURVATURE_RADII)
    height = (pairs.direction * normal[pairs.point]).sum(axis=1)
    agreement = (normal[pairs.other] * normal[pairs.point]).sum(axis=1)
    total = pairs.sums(None)
    means = [pairs.sums(values) / np.maximum(total, 1) for values in (height, agreement)]
    return np.concatenate([np.log1p(total), *means], axis=1)


def _neighbours(points: Float64[np.ndarray, "p 3"]) -> Int32[np.ndarray, "p k"]:
    """[P, 16] every fourth of the nearest points, the point itself where there are too few."""
    reach = NEIGHBOURS * STRIDE
    _, found = cKDTree(points).query(points, k=np.arange(1 + STRIDE, reach + 2, STRIDE))
    own = np.arange(len(points))[:, None]
    return np.where(found < len(points), found, own).astype(np.int32)


def _keys(protein: Protein) -> list[tuple[str, str, str]]:
    names = [protein.names[i] for i in protein.residue]
    return list(zip(names, protein.atom_names, protein.elements, strict=True))


def _amino_acid(name: str) -> int:
    name = _PROTONATED.get(name, name)
    return AMINO_ACIDS.index(name) if name in AMINO_ACIDS else len(AMINO_ACIDS)


_PROTONATED = {"HID": "HIS", "HIP": "HIS", "HIE": "HIS", "HIZ": "HIS", "CYX": "CYS", "CYM": "CYS", "GLM": "GLU"}
_AROMATIC = ("PHE", "TYR", "TRP")


@cache
def _atom_class(residue: str, atom: str, element: str) -> int:
    residue = _PROTONATED.get(residue, residue)
    if f"{residue} {atom}" in _NAMED:
        return _NAMED[f"{residue} {atom}"]
    if atom in ("N", "CA", "C", "O"):
        return ("N", "CA", "C", "O").index(atom)
    if element == "C":
        kind = "beta C" if atom == "CB" else "aromatic C" if residue in _AROMATIC else "aliphatic C"
    else:
        kind = "other polar" if element in ("N", "O") else "other"
    return _GENERAL.index(kind)
