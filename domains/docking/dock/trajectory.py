"""The reverse process of a pose as a PDB file of many models, which molecular viewers play as a film."""

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from domains.docking.metrics.poses import with_poses


def trajectory_pdb(mol: Chem.Mol, frames: Float64[np.ndarray, "s n 3"]) -> str:
    """One MODEL per step, from noise to the pose; atoms in the order of the SD file, bonds as CONECT records.

    frames: [S, n, 3] Angstrom, the last one the pose as it is written: minimised, where it was. Coordinates that the
    columns cannot hold (beyond -999.999 or 9999.999 Angstrom) are cut to those limits.
    """
    text = Chem.MolToPDBBlock(with_poses(mol, np.clip(frames, -999.999, 9999.999)))
    return str(text)
