"""Poses as SDF files, in the frame of the protein that was given."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rdkit import Chem
from rdkit.Geometry import Point3D

from core.files import write_text
from domains.docking.batch import DockingBatch
from domains.docking.pose import Pose
from domains.docking.complex import Complex


def pose_positions(samples: Pose, batch: DockingBatch, number: int) -> Float64[np.ndarray, "n 3"]:
    """Atoms of one sample in the frame of the protein's file, Angstrom."""
    place = samples.positions[number][samples.mask[number]].detach().cpu().double().numpy()
    return place + batch.complexes[batch.index[number]].receptor.centre


def posed(each: Complex, positions: Float64[np.ndarray, "n 3"]) -> Chem.Mol:
    """The ligand with these positions as its only conformer."""
    mol = Chem.Mol(each.ligand.mol)
    mol.RemoveAllConformers()
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, place in enumerate(positions.tolist()):
        conformer.SetAtomPosition(atom, Point3D(*place))
    mol.AddConformer(conformer, assignId=True)
    mol.SetProp("_Name", each.name)
    return mol


def write_poses(samples: Pose, batch: DockingBatch, out: Path) -> list[Path]:
    """OUT/NAME/poses.sdf for every complex: one record per sample with its number, in order of numbers."""
    blocks: dict[int, list[str]] = {}
    for number, which in enumerate(batch.index):
        each = batch.complexes[which]
        mol = posed(each, pose_positions(samples, batch, number))
        block = Chem.MolToMolBlock(mol, forceV3000=mol.GetNumAtoms() > 999, kekulize=False)
        blocks.setdefault(which, []).append(f"{block}>  <sample>\n{int(batch.ids[number])}\n\n$$$$\n")
    paths = []
    for which, records in blocks.items():
        path = out / batch.complexes[which].name / "poses.sdf"
        write_text(path, "".join(records))
        paths.append(path)
    return paths
