"""Whether poses have the stereochemistry of their ligand."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from domains.docking.chemistry.ligand import read_ligand
from domains.docking.chemistry.stereo import same_stereo
from domains.docking.metrics.poses import with_poses
from tests.ligand_support import DATA


def embedded(smiles: str, ligand: Chem.Mol) -> Chem.Mol:
    """The ligand in a pose of the stereochemistry of ``smiles``, which has the same order of atoms."""
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(full, randomSeed=1) == 0
    return with_poses(ligand, full.GetConformer().GetPositions()[None, : ligand.GetNumAtoms()])


@pytest.mark.parametrize(
    ("ligand", "pose", "same"),
    [
        ("C[C@H](N)O", "C[C@H](N)O", True),
        ("C[C@H](N)O", "C[C@@H](N)O", False),
        ("CC(N)O", "C[C@@H](N)O", True),  # not specified
        ("C[C@H](N)C(O)F", "C[C@H](N)[C@H](O)F", True),
        ("C[C@H](N)[C@@H](O)F", "C[C@H](N)[C@H](O)F", False),
        ("F/C=C/Cl", "F/C=C/Cl", True),
        ("F/C=C/Cl", "F/C=C\\Cl", False),
        ("FC=CCl", "F/C=C\\Cl", True),
        ("C/C(F)=C(/Cl)Br", "C/C(F)=C(/Cl)Br", True),
        ("C/C(F)=C(/Cl)Br", "C/C(F)=C(\\Cl)Br", False),
        ("C/C=C/C=C\\C", "C/C=C/C=C\\C", True),
        ("C/C=C/C=C\\C", "C/C=C\\C=C\\C", False),
        ("C[S@](=O)CC", "C[S@@](=O)CC", False),
        ("C[C@H]1CC[C@@H](C)CC1", "C[C@H]1CC[C@H](C)CC1", False),
        ("CCO", "CCO", True),
    ],
)
def test_a_pose_has_the_stereochemistry_of_its_ligand_or_not(ligand: str, pose: str, same: bool) -> None:
    mol = read_ligand(ligand).mol
    assert same_stereo(mol, embedded(pose, mol)) == same


def test_real_poses_and_broken_ones() -> None:
    ligand = read_ligand(DATA / "alanine_anilide.sdf")
    assert ligand.coordinates is not None
    raw = read_ligand(DATA / "alanine_anilide.sdf", raw_chirality=True).mol  # tags of CH3 do not count
    mirrored = ligand.coordinates * [-1.0, 1, 1]
    for mol in (ligand.mol, raw):
        posed = [with_poses(mol, places[None]) for places in (ligand.coordinates, mirrored, mirrored * [1.0, 1, 0])]
        assert [same_stereo(mol, pose) for pose in posed] == [True, False, False]
        assert not same_stereo(mol, with_poses(mol, ligand.coordinates[None] + np.nan))
