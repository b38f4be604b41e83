"""The poses of one complex, judged: from coordinates to the figures that the table of a test set is made of."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float
from rdkit import Chem

from core.errors import DataError, RequestError
from domains.docking.chemistry.protein import Protein
from domains.docking.metrics.contacts import centroid_distance, protein_distance, self_distance
from domains.docking.metrics.posechecks import check_poses
from domains.docking.metrics.rmsd import symmetry_rmsd
from domains.docking.metrics.table import ComplexResult


def judge_poses(
    mol: Chem.Mol,
    reference: Float[np.ndarray, "n 3"],
    poses: Float[np.ndarray, "p n 3"],
    protein: Protein,
    *,
    name: str,
    confidence: Float[np.ndarray, " _"] | None = None,
    unseen: bool = False,
    seconds: float | None = None,
    time_limit: float = 10.0,
    pose_checks: bool = False,
) -> ComplexResult:
    """Every figure of every pose; what goes wrong is named in ``failure`` (whole complex) or ``problems`` (poses).

    Args:
        mol: the ligand, sanitised, heavy atoms only; its atom order is that of all coordinates.
        reference: true pose, Angstrom.
        poses: predicted poses, Angstrom, in the order sampled.
        protein: in the frame of the poses; clashes are with its heavy atoms, here and in PoseBusters.
        name, confidence, unseen, seconds: as in ``ComplexResult``.
        time_limit: seconds for the symmetries of the ligand; past it the RMSDs are NaN.
        pose_checks: run PoseBusters (about a second per pose, and up to a minute once per ligand for its strain
            energy). Validity stays None where it could check no pose of the complex; beside others that were checked, a
            pose that it failed on, or whose coordinates are not finite, is not valid.

    Raises RequestError only where PoseBusters is asked for and not installed: no complex could be judged then.
    """
    if len(poses) == 0:
        return ComplexResult.failed(name, unseen, "no poses", seconds)
    try:
        rmsd = symmetry_rmsd(mol, reference, poses, time_limit)
        result = ComplexResult(
            name,
            rmsd.values,
            centroid_distance(reference, poses),
            protein_distance(poses, protein.positions),
            self_distance(poses),
            confidence,
            unseen,
            seconds,
            problems=() if rmsd.reason is None else (f"RMSD: {rmsd.reason}",),
        )
    except (RequestError, DataError) as error:
        return ComplexResult.failed(name, unseen, str(error), seconds)
    if not pose_checks:
        return result
    valid, problems = _validity(mol, reference, poses, protein)
    return replace(result, valid=valid, problems=result.problems + problems)


def _validity(
    mol: Chem.Mol, reference: Float[np.ndarray, "n 3"], poses: Float[np.ndarray, "p n 3"], protein: Protein
) -> tuple[Bool[np.ndarray, " p"] | None, tuple[str, ...]]:
    """PB-validity of every pose, None where no finite pose could be checked, and what could not be checked."""
    try:
        # With the reference, so that an inverted stereocentre is found as well.
        checks = check_poses(with_poses(mol, poses), protein, with_poses(mol, reference[None]))
    except DataError as error:
        return None, (f"PoseBusters: {error}",)
    finite = np.isfinite(poses).all(axis=(1, 2))
    checked = np.array([error is None for error in checks.errors])
    reasons = [f"PoseBusters: pose {number}: {error}" for number, error in enumerate(checks.errors, 1) if error]
    return (checks.valid if checked.any() or not finite.any() else None), tuple(reasons)


def with_poses(mol: Chem.Mol, poses: Float[np.ndarray, "p n 3"]) -> Chem.Mol:
    """A copy of the molecule whose conformers are these poses (Angstrom), in order."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    for pose in poses:
        conformer = Chem.Conformer(len(pose))
        conformer.Set3D(True)
        conformer.SetPositions(pose.astype(np.float64))
        copy.AddConformer(conformer, assignId=True)
    return copy
