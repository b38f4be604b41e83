"""AutoDock Vina 1.2's score of poses as they are (``--score_only``; https://doi.org/10.1021/acs.jcim.1c00203)."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64
from rdkit import Chem, rdBase

from core.errors import DataError
from domains.docking.chemistry.pocket import Around
from domains.docking.chemistry.protein import Protein
from domains.docking.dock.protonate import protonated
from domains.docking.dock.rescore.process import scores_of
from domains.docking.metrics.poses import with_poses

REACH = 10.0  # Angstrom; Vina's terms end at 8
MARGIN = 4.0  # Angstrom of the box around all poses


def vina_scores(
    mol: Chem.Mol, poses: Float64[np.ndarray, "p n 3"], protein: Protein
) -> dict[str, Float64[np.ndarray, " p"]]:
    """``vina`` [P], kcal/mol, of finite poses [P, n, 3]; NaN where Vina refuses a pose.

    Raises DataError or RequestError: no protein near, atoms that AutoDock has no type for, or Vina itself failed.
    """
    receptor = receptor_pdbqt(protonated(protein.crop(Around(poses.reshape(-1, 3), REACH))))
    low, high = poses.min(axis=(0, 1)) - MARGIN, poses.max(axis=(0, 1)) + MARGIN
    job = {"center": ((low + high) / 2).tolist(), "size": (high - low).tolist(), "poses": ligand_pdbqt(mol, poses)}
    with TemporaryDirectory() as folder:
        (Path(folder) / "receptor.pdbqt").write_text(receptor, encoding="ascii")
        scores = scores_of("worker_vina", Path(folder), job, len(poses))
    return {"vina": scores[:, 0]}


def ligand_pdbqt(mol: Chem.Mol, poses: Float64[np.ndarray, "p n 3"]) -> list[str]:
    """PDBQT of every pose by Meeko: rings stay whole, charges zero, for Vina uses none.

    Raises DataError where Meeko cannot type or write the ligand.
    """
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    with rdBase.BlockLogs():
        full = Chem.AddHs(with_poses(mol, poses), addCoords=True)
    maker = MoleculePreparation(rigid_macrocycles=True, charge_model="zero")
    texts = []
    for conformer in range(len(poses)):
        try:
            setups = maker.prepare(full, conformer_id=conformer)
            text, fine, reason = PDBQTWriterLegacy.write_string(setups[0])
        except Exception as error:  # Meeko raises bare exceptions of many kinds
            raise DataError(f"Meeko cannot prepare the ligand: {error}") from error
        if not fine:
            raise DataError(f"Meeko cannot prepare the ligand: {reason.strip()}")
        texts.append(text)
    return texts


def receptor_pdbqt(protein: Chem.Mol) -> str:
    """PDBQT of a rigid receptor with hydrogens: all heavy atoms and the polar hydrogens, by which Vina knows donors."""
    lines: list[str] = []
    places = protein.GetConformer().GetPositions().tolist()
    for atom, (x, y, z) in zip(protein.GetAtoms(), places, strict=True):
        kind = autodock_type(atom)
        if kind:
            lines.append(
                f"ATOM  {len(lines) % 99_999 + 1:5d}  {atom.GetSymbol():<3} REC A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"  1.00  0.00     0.000 {kind}"
            )
    return "\n".join([*lines, ""])


def autodock_type(atom: Chem.Atom) -> str | None:
    """AutoDock 4 type: A for aromatic carbon, NA, OA and SA for acceptors, HD for hydrogen on N, O or S, none on C."""
    symbol = str(atom.GetSymbol())
    if symbol == "H":
        return "HD" if any(other.GetSymbol() in ("N", "O", "S") for other in atom.GetNeighbors()) else None
    if symbol == "C":
        return "A" if atom.GetIsAromatic() else "C"
    if symbol == "N":  # only the bare nitrogen of histidine accepts: all others in proteins give their pair to a bond
        return "NA" if atom.GetIsAromatic() and atom.GetDegree() == 2 else "N"
    return {"O": "OA", "S": "SA"}.get(symbol, symbol)
