"""What is always told of a pose: distances, atoms that overlap, strain, stereochemistry, and words for what is wrong.

No judgement on affinity or on the binding mode: a pose without flags is merely one in which nothing wrong was seen.
The limits were set on crystal poses, so that about 95 % of them pass each one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from core.errors import RequestError
from domains.docking.chemistry.protein import Protein
from domains.docking.chemistry.stereo import same_stereo
from domains.docking.metrics.contacts import protein_distance, self_distance
from domains.docking.metrics.poses import with_poses

# Of the sum of van der Waals radii, as PoseBusters has it against the protein (https://doi.org/10.1039/D3SC04185A).
# 94 % of 200 crystal poses have no atom so near to the protein, 98.5 % none so near to another atom of the ligand.
OVERLAP = 0.75
BONDS_APART = 4  # atoms of the ligand that can clash are at least so many bonds apart: all nearer ones touch anyway
# kcal/mol per heavy atom; 95.5 % of 200 crystal poses are below. Strain grows with the ligand (correlation 0.6).
STRAIN = 0.5
FREE, STIFFNESS = 0.3, 100.0  # Angstrom; kcal/mol/A^2 beyond: about the error of heavy atoms in crystal structures
ITERATIONS = 200
REACH = 8.0  # Angstrom, of van der Waals terms within the ligand
APART = 5.0  # Angstrom to the nearest protein atom: nothing touches
BANDS = ("high", "moderate", "low")
WORDS = ("not-finite", "apart", "clash", "self-clash", "strain", "stereo")
TYPED_ATOMS = 300  # heavy atoms: larger ligands take seconds per pose, so their strain is not measured


@dataclass(frozen=True, eq=False)
class PoseFlags:
    """What was seen in each of P poses.

    protein_distance, self_distance: [P] least distances of heavy atoms, Angstrom; NaN for a pose that is not finite.
    clashes: [P] heavy atoms of the ligand that overlap a heavy atom of the protein; -1 for a pose that is not finite.
    strain: [P] kcal/mol, see ``strain_energy``; NaN where it is not known.
    stereo_kept: [P] whether R/S and E/Z are those of the ligand.
    words: for every pose what is wrong, in the order of ``WORDS``: "not-finite" (then alone), "apart" (from the
        protein), "clash", "self-clash", "strain", "stereo".
    """

    protein_distance: Float64[np.ndarray, " p"]
    self_distance: Float64[np.ndarray, " p"]
    clashes: Int64[np.ndarray, " p"]
    strain: Float64[np.ndarray, " p"]
    stereo_kept: Bool[np.ndarray, " p"]
    words: tuple[tuple[str, ...], ...]

    def record(self, pose: int) -> dict[str, Any]:
        """One pose in the words and plain numbers of result.json; None where a number is not known."""
        numbers = {name: float(getattr(self, name)[pose]) for name in ("protein_distance", "self_distance", "strain")}
        return {
            "stereo": "kept" if self.stereo_kept[pose] else "changed",
            **{name: round(value, 3) if np.isfinite(value) else None for name, value in numbers.items()},
            "clashes": int(self.clashes[pose]),
            "flags": self.words[pose],
        }


def pose_flags(
    mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"], protein: Protein, reference_mol: Chem.Mol | None = None
) -> PoseFlags:
    """Distances, overlaps, strain and stereochemistry of poses [P, n, 3] (Angstrom, frame of the protein).

    Takes about 40 ms per pose (median; 0.2 s for 60 atoms), nearly all of it for the strain. ``mol`` is sanitised and
    has heavy atoms only; ``reference_mol``, the same atoms in the same order, has the marks of stereochemistry that
    poses must keep where they are not those of ``mol``.
    Raises RequestError where the number of atoms differs or the protein has no atoms.
    """
    if poses.shape[1] != mol.GetNumAtoms():
        raise RequestError(f"poses of {poses.shape[1]} atoms do not fit a ligand of {mol.GetNumAtoms()}")
    finite = np.isfinite(poses).all(axis=(1, 2))
    distance, own = protein_distance(poses, protein.positions), self_distance(poses)
    clashes = np.full(len(poses), -1, dtype=np.int64)
    clashes[finite] = overlapping_atoms(mol, poses[finite], protein)
    bumps, strain = self_clashes(mol, poses), strain_energy(mol, poses)
    marked = mol if reference_mol is None else reference_mol
    kept = np.array([same_stereo(marked, with_poses(mol, pose[None])) for pose in poses], dtype=bool)
    wrong = (~finite, distance > APART, clashes > 0, bumps, strain > STRAIN * mol.GetNumAtoms(), ~kept & finite)
    words = tuple(
        tuple(word for word, holds in zip(WORDS, row, strict=True) if holds) for row in np.stack(wrong, axis=1)
    )
    return PoseFlags(distance, own, clashes, strain, kept, words)


def band(confidence: float) -> str:
    """'high', 'moderate' or 'low': the bands that DiffDock's authors give their logit; of a calibrated one they part
    chances of 50 and 18 %. No statement on affinity."""
    return "high" if confidence > 0 else "moderate" if confidence >= -1.5 else "low"


def overlapping_atoms(mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"], protein: Protein) -> Int64[np.ndarray, " p"]:
    """Number [P] of ligand atoms within ``OVERLAP`` of the sum of radii of any protein atom; finite poses."""
    ligand = _radii([atom.GetSymbol() for atom in mol.GetAtoms()])
    around = _radii(list(protein.elements))
    n = len(ligand)
    points = cKDTree(poses.reshape(-1, 3).astype(np.float64))
    far = OVERLAP * (ligand.max() + around.max())
    pairs = points.sparse_distance_matrix(cKDTree(protein.positions), far, output_type="ndarray")
    near = pairs["v"] < OVERLAP * (ligand[pairs["i"] % n] + around[pairs["j"]])
    return np.bincount(np.unique(pairs["i"][near]) // n, minlength=len(poses)).astype(np.int64)


def self_clashes(mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"]) -> Bool[np.ndarray, " p"]:
    """Whether [P] two atoms of the ligand, at least ``BONDS_APART``, are within ``OVERLAP`` of their sum of radii."""
    first, second = np.triu_indices(mol.GetNumAtoms(), 1)
    apart = Chem.GetDistanceMatrix(mol)[first, second] >= BONDS_APART
    radii = _radii([atom.GetSymbol() for atom in mol.GetAtoms()])
    least = OVERLAP * (radii[first] + radii[second])[apart]
    return np.array([(pdist(pose.astype(np.float64))[apart] < least).any() for pose in poses], dtype=bool)


def strain_energy(mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"]) -> Float64[np.ndarray, " p"]:
    """Energy [P] of every pose above the minimum next to it, kcal/mol (MMFF94s without electrostatics).

    Hydrogens are added. The pose is first relaxed with every heavy atom free to move by 0.3 A, so that bond lengths and
    angles of another origin than the force field (or hydrogens just added) do not count: they would be ten times the
    strain of the torsions. Then everything is relaxed; strain is the difference. Electrostatics are left out, for
    without solvent they fold charged ligands up. On 150 crystal poses the median is 2.6 kcal/mol, 95 % are below 16.

    It is a lower bound of the energy above the best conformer, which would take a search; a cis amide shows no strain.
    NaN where MMFF94s has no parameters for the molecule (metals, boron), where it has more than 300 heavy atoms, and
    for poses that are not finite or fold atoms onto each other.
    """
    strain = np.full(len(poses), np.nan)
    finite = np.flatnonzero(np.isfinite(poses).all(axis=(1, 2)))
    if len(finite) == 0 or mol.GetNumAtoms() > TYPED_ATOMS:
        return strain
    with rdBase.BlockLogs():
        full = Chem.AddHs(with_poses(mol, poses[finite]), addCoords=True)
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(full, "MMFF94s")
        if parameters is None:
            return strain
        parameters.SetMMFFEleTerm(False)
        for conformer, pose in enumerate(finite):
            strain[pose] = _strain(full, parameters, conformer, mol.GetNumAtoms())
    return strain


def _strain(full: Chem.Mol, parameters: Any, conformer: int, heavy: int) -> float:
    def field() -> Any:
        made = rdForceFieldHelpers.MMFFGetMoleculeForceField(full, parameters, REACH, conformer)
        made.Initialize()
        return made

    held = field()
    for atom in range(heavy):
        held.MMFFAddPositionConstraint(atom, FREE, STIFFNESS)
    try:
        held.Minimize(maxIts=ITERATIONS, energyTol=1e-4, forceTol=1e-2)
        free = field()  # without the walls
        before = free.CalcEnergy()
        free.Minimize(maxIts=ITERATIONS, energyTol=1e-4, forceTol=1e-2)
        energy = float(before - free.CalcEnergy())
    except RuntimeError:  # RDKit's minimiser gives up where forces overflow
        return float("nan")
    return max(energy, 0.0) if np.isfinite(energy) else float("nan")


def _radii(elements: list[str]) -> Float64[np.ndarray, " a"]:
    """Van der Waals radii of RDKit's table, Angstrom."""
    table = Chem.GetPeriodicTable()
    radius = {element: table.GetRvdw(element) for element in set(elements)}
    return np.array([radius[element] for element in elements], dtype=np.float64)
