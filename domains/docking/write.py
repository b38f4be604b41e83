"""Poses as SDF files, in the frame of the protein that was given."""

import logging
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rdkit import Chem

from core.files import write_text
from domains.docking.batch import DockingBatch
from domains.docking.metrics.poses import with_poses
from domains.docking.pose import Pose

logger = logging.getLogger("disco")
V2000_ATOMS = 999  # more do not fit the older format


def pose_positions(samples: Pose, batch: DockingBatch, number: int) -> Float64[np.ndarray, "n 3"]:
    """Atoms of one sample in the frame of the protein's file, Angstrom."""
    place = samples.positions[number][samples.mask[number]].detach().cpu().double().numpy()
    return place + batch.complexes[batch.index[number]].receptor.centre


def folder_name(name: str) -> str:
    """A name that is one folder on every system: letters, digits, and ``. _ + -`` inside."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._") or "complex"


def write_poses(samples: Pose, batch: DockingBatch, out: Path) -> list[Path]:
    """OUT/NAME/poses.sdf for every complex: one record per sample with its number, in the order of the batch.

    Poses that are not finite (networks can overflow) are left out and named in the log.
    """
    records: dict[int, list[str]] = {}
    for number, which in enumerate(batch.index):
        each, place = batch.complexes[which], pose_positions(samples, batch, number)
        if not np.isfinite(place).all():
            logger.warning("%s: sample %d is not finite and is left out", each.name, int(batch.ids[number]))
            continue
        mol = with_poses(each.ligand.mol, place[None])
        mol.SetProp("_Name", each.ligand.name)
        block = f"{_mol_block(mol)}>  <sample>\n{int(batch.ids[number])}\n\n$$$$\n"
        records.setdefault(which, []).append(block)
    paths = []
    for which, blocks in records.items():
        paths.append(out / folder_name(batch.complexes[which].name) / "poses.sdf")
        write_text(paths[-1], "".join(blocks))
    return paths


def _mol_block(mol: Chem.Mol) -> str:
    large = mol.GetNumAtoms() > V2000_ATOMS
    try:
        return str(Chem.MolToMolBlock(mol, forceV3000=large))
    except Chem.KekulizeException:  # of a ligand that was read with aromatic bonds that have no Kekule structure
        return str(Chem.MolToMolBlock(mol, forceV3000=large, kekulize=False))
