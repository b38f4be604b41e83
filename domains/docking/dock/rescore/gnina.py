"""gnina's networks on poses as they are (McNutt et al. 2021, https://doi.org/10.1186/s13321-021-00522-2).

By ``gninatorch``, which has gnina's weights, and ``molgrid``, which types atoms and fills the grid as gnina does.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.protein import Protein
from domains.docking.dock.rescore.process import scores_of
from domains.docking.metrics.poses import with_poses


def gnina_scores(
    mol: Chem.Mol, poses: Float64[np.ndarray, "p n 3"], protein: Protein
) -> dict[str, Float64[np.ndarray, " p"]]:
    """``gnina_cnn_score`` and ``gnina_cnn_affinity`` [P] of finite poses [P, n, 3], by gnina's default ensemble.

    The program reads PDB and SDF itself, adds hydrogens and types atoms by Open Babel, as gnina does.
    Raises DataError where it fails.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / "receptor.pdb").write_text(pdb_block(protein), encoding="utf-8")
        lines = []
        for number, pose in enumerate(poses):
            block = Chem.MolToMolBlock(with_poses(mol, pose[None]))
            (Path(folder) / f"pose{number}.sdf").write_text(f"{block}$$$$\n", encoding="utf-8")
            lines.append(f"0 receptor.pdb pose{number}.sdf\n")
        (Path(folder) / "poses.types").write_text("".join(lines), encoding="utf-8")
        scores = scores_of("worker_gnina", Path(folder), {}, len(poses))
    return {"gnina_cnn_score": scores[:, 0], "gnina_cnn_affinity": scores[:, 1]}
