"""Docked poses relaxed in the rigid pocket: MMFF94s within the ligand and between it and the protein.

RDKit types the atoms and has the energy of the ligand itself. The protein does not move, so of the terms with protein
atoms only the pairs with the ligand count; NumPy sums them, for RDKit's minimiser would evaluate all pairs within the
pocket at every step, most of its time.

What is not there: waters, ions, metals and cofactors (a ligand that holds on to one may drift), entropy, movement of
the protein; the only solvent is a dielectric that grows with distance. The energies say how well a pose fits before
and after; neither is a binding energy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from core.errors import DataError, RequestError
from domains.docking.chemistry.pocket import Around
from domains.docking.chemistry.protein import Protein
from domains.docking.chemistry.stereo import same_stereo
from domains.docking.dock.protonate import protonated
from domains.docking.metrics.poses import with_poses

REACH = 8.0  # Angstrom: protein atoms within it of the pose at the start are its pocket, before and after
ENDS = 4.0  # Angstrom more are typed, so that what a pose sees does not hang on where the crop ends
DISTANCE, DIELECTRIC = 2, 4.0  # RDKit's number for a dielectric of 4 times the distance in Angstrom
COULOMB, BUFFER = 332.0716, 0.05  # kcal/mol A / e^2; Angstrom (Halgren 1996, https://doi.org/10.1002/jcc.540170402)
ITERATIONS = 300
LONGEST_BOND = 1.3  # of the sum of covalent radii

Energy = Callable[[Float64[np.ndarray, "a 3"]], tuple[float, Float64[np.ndarray, "a 3"]]]


@dataclass(frozen=True, eq=False)
class Minimized:
    """P relaxed poses.

    positions: [P, n, 3] Angstrom, as they were where ``reasons`` has one; before, after: [P] kcal/mol of the ligand
    and its pairs with the pocket, hydrogens relaxed in both, NaN where unknown; moved: [P] RMSD of the heavy atoms from
    where they were, Angstrom; force_field: "MMFF94s", "UFF" where that has no parameters for an atom, "" for neither;
    reasons: why a pose was left as it was, or None.
    """

    positions: Float64[np.ndarray, "p n 3"]
    before: Float64[np.ndarray, " p"]
    after: Float64[np.ndarray, " p"]
    moved: Float64[np.ndarray, " p"]
    force_field: str
    reasons: tuple[str | None, ...]

    def records(self) -> list[dict[str, Any]]:
        """Every pose in plain numbers for result.json.

        force_field: see above; before, after: energies, kcal/mol; moved: RMSD, Angstrom; reason: why the pose was left
        as it was. A record has either both energies or, with moved 0, the reason.
        """
        rows = zip(self.before.tolist(), self.after.tolist(), self.moved.tolist(), self.reasons, strict=True)
        return [
            {"force_field": self.force_field, "before": round(before, 3), "after": round(after, 3),
             "moved": round(moved, 3)}
            if reason is None
            else {"force_field": self.force_field, "moved": 0.0, "reason": reason}
            for before, after, moved, reason in rows
        ]  # fmt: skip


def minimize_poses(
    mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"], protein: Protein, *, iterations: int = ITERATIONS
) -> Minimized:
    """Relax every pose [P, n, 3] (Angstrom, frame of the protein) of a ligand in the pocket, all protein atoms fixed.

    mol: sanitised, heavy atoms only. First the hydrogens that are added to the ligand settle, then all its atoms, both
    by L-BFGS; a pose goes on from where ``iterations`` end. Whatever fails is a reason for that pose: not finite, no
    protein near, no parameters, energy that rose, stereochemistry or bonds that changed.
    """
    poses = poses.astype(np.float64)
    result = Minimized(
        poses.copy(), np.full(len(poses), np.nan), np.full(len(poses), np.nan), np.zeros(len(poses)), "", ()
    )
    finite = np.flatnonzero(np.isfinite(poses).all(axis=(1, 2)))
    reasons: list[str | None] = ["coordinates are not finite"] * len(poses)
    name = ""
    if len(finite):
        try:
            with rdBase.BlockLogs():
                system = _System(mol, poses[finite], protein)
                name = system.force_field
                for conformer, pose in enumerate(finite):
                    reasons[pose] = _relax(system, conformer, int(pose), result, iterations)
        except (DataError, RequestError) as error:
            for pose in finite:
                reasons[pose] = str(error)
    return Minimized(result.positions, result.before, result.after, result.moved, name, tuple(reasons))


class _System:
    """A ligand with hydrogens (L atoms) in P conformers, and the protein atoms around them, all typed.

    Raises DataError or RequestError: no protein near, or no force field for it and the ligand.
    """

    def __init__(self, mol: Chem.Mol, poses: Float64[np.ndarray, "p n 3"], protein: Protein) -> None:
        self.mol, self.heavy = mol, mol.GetNumAtoms()
        self.ligand = Chem.AddHs(with_poses(mol, poses), addCoords=True)
        pocket = protonated(protein.crop(Around(poses.reshape(-1, 3), REACH + ENDS)))
        self.pocket = np.asarray(pocket.GetConformer().GetPositions())
        self.tree = cKDTree(self.pocket)
        both = Chem.CombineMols(self.ligand, pocket)
        Chem.SanitizeMol(both)
        self.properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(self.ligand, "MMFF94s")
        typed = rdForceFieldHelpers.MMFFGetMoleculeProperties(both, "MMFF94s")
        if self.properties is not None and typed is not None:
            self.force_field = "MMFF94s"
            self.properties.SetMMFFDielectricModel(DISTANCE)
            self.properties.SetMMFFDielectricConstant(DIELECTRIC)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(both):
            self.force_field, typed = "UFF", None
        else:
            raise DataError("neither MMFF94s nor UFF has parameters for this ligand and its pocket")
        self.charges = _charges(both, typed)
        self.radius, self.depth = _pair_table(both, typed, self.ligand.GetNumAtoms())

    def energy(self, conformer: int) -> Energy:
        """Energy and gradient of a conformer's atoms [L, 3] with the protein atoms that are near it now."""
        near = np.unique(np.concatenate(self.tree.query_ball_point(self.places(conformer)[: self.heavy], REACH)))
        if len(near) == 0:
            raise DataError(f"no protein atom within {REACH:g} A")
        near = near.astype(np.int64)
        count = self.ligand.GetNumAtoms()
        around, radius, depth = self.pocket[near], self.radius[:, near], self.depth[:, near]
        product = self.charges[:count, None] * self.charges[count + near]
        pairs = mmff_pairs if self.force_field == "MMFF94s" else uff_pairs
        own = self._own(conformer)

        def total(places: Float64[np.ndarray, "l 3"]) -> tuple[float, Float64[np.ndarray, "l 3"]]:
            flat = places.ravel().tolist()
            apart = places[:, None] - around
            distance = np.sqrt((apart**2).sum(axis=-1)) + 1e-9
            energy, slope = pairs(distance, radius, depth, product)
            inner = own.CalcEnergy(flat)  # first: the gradient takes the distances that the last energy left in RDKit
            gradient = np.asarray(own.CalcGrad(flat)).reshape(-1, 3)
            gradient += ((slope / distance)[:, :, None] * apart).sum(axis=1)
            return inner + float(energy.sum()), gradient

        return total

    def places(self, conformer: int) -> Float64[np.ndarray, "l 3"]:
        return np.asarray(self.ligand.GetConformer(conformer).GetPositions())

    def _own(self, conformer: int) -> Any:
        if self.force_field == "MMFF94s":
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(self.ligand, self.properties, confId=conformer)
        else:
            field = rdForceFieldHelpers.UFFGetMoleculeForceField(self.ligand, confId=conformer)
        field.Initialize()
        return field


Pairs = Float64[np.ndarray, "l m"]


def mmff_pairs(distance: Pairs, radius: Pairs, depth: Pairs, product: Pairs) -> tuple[Pairs, Pairs]:
    """Energy of pairs and its derivative by distance: Halgren's buffered 14-7 term and Coulomb's.

    E = e (1.07 R / (d + 0.07 R))^7 (1.12 R^7 / (d^7 + 0.12 R^7) - 2) + 332.0716 q q' / (4 (d + 0.05)^2), with radius R
    (Angstrom), depth e (kcal/mol) and product q q' of charges (https://doi.org/10.1002/jcc.540170402).
    """
    ratio = distance / radius
    buffered = 1 / (ratio + 0.07)
    close = _sixth(1.07 * buffered) * (1.07 * buffered)
    sixth = _sixth(ratio)
    limited = 1 / (sixth * ratio + 0.12)
    far = 1.12 * limited
    slope = -7 * close * ((far - 2) * buffered + far * sixth * limited)
    apart = 1 / (distance + BUFFER)
    charged = COULOMB / DIELECTRIC * product * apart * apart
    return depth * close * (far - 2) + charged, depth / radius * slope - 2 * charged * apart


def uff_pairs(distance: Pairs, radius: Pairs, depth: Pairs, product: Pairs) -> tuple[Pairs, Pairs]:
    """The same by UFF: Lennard-Jones 12-6, no charges (https://doi.org/10.1021/ja00051a040)."""
    sixth = _sixth(radius / distance)
    return depth * (sixth * sixth - 2 * sixth), 12 * depth * (sixth - sixth * sixth) / distance


def _sixth(value: Pairs) -> Pairs:
    """Powers by products: NumPy's ``**`` takes ten times as long."""
    cube = value * value * value
    return cube * cube


def _charges(both: Chem.Mol, typed: Any | None) -> Float64[np.ndarray, " a"]:
    count = both.GetNumAtoms()
    return np.zeros(count) if typed is None else np.array([typed.GetMMFFPartialCharge(i) for i in range(count)])


def _pair_table(both: Chem.Mol, typed: Any | None, ligand: int) -> tuple[Pairs, Pairs]:
    """Radius and depth of every pair of a ligand atom and a pocket atom, asked of RDKit once per pair of types."""
    atoms = range(both.GetNumAtoms())
    if typed is None:
        # The van der Waals parameters of UFF are those of the element.
        types = np.array([atom.GetAtomicNum() for atom in both.GetAtoms()])
    else:
        types = np.array([typed.GetMMFFAtomType(i) for i in atoms])
    _, mine, row = np.unique(types[:ligand], return_index=True, return_inverse=True)
    _, theirs, column = np.unique(types[ligand:], return_index=True, return_inverse=True)
    table = np.empty((2, len(mine), len(theirs)))
    for i, first in enumerate(mine.tolist()):
        for j, second in enumerate((theirs + ligand).tolist()):
            if typed is None:
                table[:, i, j] = rdForceFieldHelpers.GetUFFVdWParams(both, first, second)
            else:
                table[:, i, j] = typed.GetMMFFVdWParams(first, second)[2:]  # scaled for donors and acceptors
    return table[0][row][:, column], table[1][row][:, column]


def _relax(system: _System, conformer: int, pose: int, result: Minimized, iterations: int) -> str | None:
    """Relaxes one pose into ``result``, or says why not."""
    try:
        energy = system.energy(conformer)
        start = system.places(conformer)
        settled, before = _descend(energy, start, slice(system.heavy, None), iterations)
        places, after = _descend(energy, settled, slice(None), iterations)
    except (DataError, RuntimeError) as error:
        return str(error)
    old, new = start[: system.heavy], places[: system.heavy]
    if not (np.isfinite(places).all() and np.isfinite([before, after]).all()):
        return "the energy is not finite"
    if after > before:
        return "no lower energy was found"
    if _stretched(system.mol, new):
        return "the minimiser tore a bond"
    if _same(system.mol, old) and not _same(system.mol, new):
        return "the minimiser changed the stereochemistry"
    result.positions[pose], result.before[pose], result.after[pose] = new, before, after
    result.moved[pose] = np.sqrt(((new - old) ** 2).sum(axis=-1).mean())
    return None


def _descend(
    energy: Energy, start: Float64[np.ndarray, "l 3"], moving: slice, iterations: int
) -> tuple[Float64[np.ndarray, "l 3"], float]:
    """Places and energy after L-BFGS on the atoms that move."""
    places = start.copy()

    def part(flat: Float64[np.ndarray, " k"]) -> tuple[float, Float64[np.ndarray, " k"]]:
        places[moving] = flat.reshape(-1, 3)
        value, gradient = energy(places)
        return value, gradient[moving].ravel()

    if not len(start[moving]):
        return places, energy(places)[0]
    found = minimize(
        part, start[moving].ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-6, "gtol": 0.02},
    )  # fmt: skip
    places[moving] = found.x.reshape(-1, 3)
    return places, float(found.fun)


def _same(mol: Chem.Mol, places: Float64[np.ndarray, "n 3"]) -> bool:
    return same_stereo(mol, with_poses(mol, places[None]))


def _stretched(mol: Chem.Mol, places: Float64[np.ndarray, "n 3"]) -> bool:
    table = Chem.GetPeriodicTable()
    radius = [table.GetRcovalent(atom.GetAtomicNum()) for atom in mol.GetAtoms()]
    ends: Sequence[tuple[int, int]] = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    return any(np.linalg.norm(places[i] - places[j]) > LONGEST_BOND * (radius[i] + radius[j]) for i, j in ends)
