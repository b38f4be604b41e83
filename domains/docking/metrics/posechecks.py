"""Physical plausibility of docked poses by PoseBusters (Buttenschoen et al. 2024, https://doi.org/10.1039/D3SC04185A)."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from rdkit import Chem

from core.errors import DataError, RequestError
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.protein import Protein


@dataclass(frozen=True)
class PoseChecks:
    """Outcome of every check for every pose.

    ``names``: the checks, as PoseBusters calls them; ``passed`` [P, checks]: a check that could not run has not passed;
    ``valid`` [P] (PB-valid): every check passed but the RMSD, which is accuracy and not plausibility;
    ``errors``: for every pose what kept PoseBusters from running, or None.
    """

    names: tuple[str, ...]
    passed: Bool[np.ndarray, "p c"]
    valid: Bool[np.ndarray, " p"]
    errors: tuple[str | None, ...]


def check_poses(
    mol: Chem.Mol, protein: Protein | None = None, reference: Chem.Mol | None = None, fast: bool = False
) -> PoseChecks:
    """PoseBusters checks of every conformer of ``mol``, which is taken in the frame of the protein.

    Args:
        mol: predicted ligand; one conformer is one pose (Angstrom).
        protein: as it was read: its heavy atoms, and nothing else of its file, are what poses may clash with; without
            one only the ligand itself is checked (PoseBusters ``mol``, else ``dock``).
        reference: ligand in its true pose; adds identity, chirality and RMSD checks (``redock``); needs a protein.
        fast: leave out the internal energy, which embeds 50 conformers (the ``_fast`` settings).

    A broken pose (not finite, or one on which PoseBusters itself fails) fails its checks and is named in ``errors``.
    Raises RequestError where PoseBusters is not installed or the request has no pose or a reference but no protein,
    DataError where RDKit does not take the protein.
    """
    if mol.GetNumConformers() == 0:
        raise RequestError("the ligand has no pose to check: add its predicted coordinates as conformers")
    if reference is not None and protein is None:
        raise RequestError("checks against a reference pose need the protein as well: give it too")
    kind = "mol" if protein is None else "dock" if reference is None else "redock"
    buster = _buster(f"{kind}_fast" if fast else kind)
    receptor = None if protein is None else _receptor(protein)
    outcomes = [_check_one(buster, pose, reference, receptor) for pose in _split(mol)]
    names = next((tuple(row) for row, _ in outcomes if row), ("loaded",))
    passed = np.array([[row.get(name, False) for name in names] for row, _ in outcomes], dtype=bool)
    plausible = [index for index, name in enumerate(names) if not name.startswith("rmsd")]
    return PoseChecks(
        names, passed, np.asarray(passed[:, plausible].all(axis=1)), tuple(error for _, error in outcomes)
    )


def _buster(config: str) -> Any:
    try:
        from posebusters import PoseBusters
    except ImportError as error:
        raise RequestError("pose checks need PoseBusters: pip install 'disco-diff[docking]'") from error
    logging.getLogger("posebusters").setLevel(logging.WARNING)  # it tells its configuration at every start
    return PoseBusters(config=config)


def _receptor(protein: Protein) -> Chem.Mol:
    mol = Chem.MolFromPDBBlock(pdb_block(protein), sanitize=False, removeHs=False, proximityBonding=False)
    read = 0 if mol is None else mol.GetNumAtoms()
    if read == 0 or read != protein.n_atoms:
        raise DataError(f"RDKit takes {read} of the {protein.n_atoms} atoms of the protein: no pose can be checked")
    return mol


def _split(mol: Chem.Mol) -> list[Chem.Mol]:
    """One molecule per conformer."""
    bare = Chem.Mol(mol)
    bare.RemoveAllConformers()
    poses = []
    for conformer in mol.GetConformers():
        pose = Chem.Mol(bare)
        pose.AddConformer(Chem.Conformer(conformer), assignId=True)
        poses.append(pose)
    return poses


def _check_one(
    buster: Any, pose: Chem.Mol, reference: Chem.Mol | None, receptor: Chem.Mol | None
) -> tuple[dict[str, bool], str | None]:
    """Checks by name, empty where nothing could run, and the reason then."""
    if not np.isfinite(pose.GetConformer().GetPositions()).all():
        return {}, "coordinates are not finite"
    try:
        row = buster.bust(pose, reference, receptor).iloc[0]
    except Exception as error:  # whatever a broken pose provokes in PoseBusters, RDKit or pandas is this pose's failure
        return {}, f"PoseBusters failed: {type(error).__name__}: {error}"
    return {str(name): value is True or value is np.True_ for name, value in row.items()}, None
