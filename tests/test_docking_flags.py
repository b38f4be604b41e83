"""What is told of every pose: overlaps, strain, stereochemistry, and the words for them."""

import math

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from core.errors import RequestError
from domains.docking.chemistry.ligand import Ligand, ligand_from_mol
from domains.docking.dock.flags import OVERLAP, STRAIN, band, overlapping_atoms, pose_flags, self_clashes, strain_energy
from tests.docking_support import crystal, places


def conformer(smiles: str, seed: int = 1) -> Ligand:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return ligand_from_mol(mol)


def test_a_crystal_pose_has_nothing_wrong() -> None:
    ligand, protein = crystal()
    seen = pose_flags(ligand.mol, places(ligand)[None], protein)
    assert seen.words == ((),)
    assert seen.clashes.tolist() == [0]
    assert seen.stereo_kept.all()
    assert 2.0 < seen.protein_distance[0] < 4.0
    assert 1.1 < seen.self_distance[0] < 1.6
    assert 0 <= seen.strain[0] < STRAIN * ligand.n_atoms


def test_a_pose_that_touches_nothing_is_called_apart() -> None:
    ligand, protein = crystal()
    seen = pose_flags(ligand.mol, np.stack([places(ligand), places(ligand) + 100.0]), protein)
    assert ["apart" in words for words in seen.words] == [False, True]


def test_atoms_overlap_below_three_quarters_of_the_sum_of_radii() -> None:
    _, protein = crystal()
    table = Chem.GetPeriodicTable()
    atom = int(np.argmax(np.linalg.norm(protein.positions - protein.center, axis=1)))  # nothing beyond it
    outward = protein.positions[atom] - protein.center
    outward /= np.linalg.norm(outward)
    limit = OVERLAP * (table.GetRvdw("Cl") + table.GetRvdw(protein.elements[atom]))
    chlorine = Chem.MolFromSmiles("Cl")
    steps = (protein.positions[atom] + outward * d for d in (limit - 0.01, limit + 0.01))
    poses = np.stack([step[None] for step in steps])
    assert overlapping_atoms(chlorine, poses, protein).tolist() == [1, 0]


def test_clashes_are_counted_as_ligand_atoms_and_do_not_depend_on_the_other_poses() -> None:
    ligand, protein = crystal()
    x = places(ligand)
    poses = np.stack([x, x + np.array([2.0, 0, 0]), x + protein.ca[0] - x.mean(axis=0), x + 1000.0])
    together = overlapping_atoms(ligand.mol, poses, protein)
    assert together.tolist() == [overlapping_atoms(ligand.mol, pose[None], protein)[0] for pose in poses]
    assert together[0] == together[3] == 0
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetSymbol()) for atom in ligand.mol.GetAtoms()])[:, None] + np.array(
        [table.GetRvdw(element) for element in protein.elements]
    )
    near = np.linalg.norm(poses[2][:, None] - protein.positions, axis=-1) < OVERLAP * radii
    assert together[2] == near.any(axis=1).sum() > 0


def test_a_pose_inside_the_protein_is_called_a_clash() -> None:
    ligand, protein = crystal()
    seen = pose_flags(ligand.mol, (places(ligand) + protein.ca[0] - places(ligand).mean(axis=0))[None], protein)
    assert "clash" in seen.words[0]
    assert seen.record(0)["clashes"] > 0


def test_a_chain_folded_onto_itself_is_a_self_clash() -> None:
    ligand = conformer("CCCCCCCC")
    x = places(ligand).copy()
    assert not self_clashes(ligand.mol, x[None]).any()
    x[7] = x[0] + np.array([0.5, 0, 0])
    assert self_clashes(ligand.mol, x[None]).all()


def test_strain_is_nothing_in_a_minimum_and_that_of_a_twisted_amide_is_seen() -> None:
    amide = conformer("CC(=O)NC")
    poses = []
    for angle in (180.0, 90.0):
        copy = Chem.Mol(amide.mol)
        rdMolTransforms.SetDihedralDeg(copy.GetConformer(), 0, 1, 3, 4, angle)
        poses.append(copy.GetConformer().GetPositions())
    flat, twisted = strain_energy(amide.mol, np.stack(poses))
    assert flat < 0.1
    assert 2.0 < twisted < 20.0  # the barrier is near 20 kcal/mol; 0.3 A of freedom takes most of it


def test_strain_does_not_change_with_the_place_of_the_ligand_or_the_other_poses() -> None:
    ligand, _ = crystal()
    x = places(ligand)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    values = strain_energy(ligand.mol, np.stack([x, x @ turn.T + 5.0]))
    np.testing.assert_allclose(values, strain_energy(ligand.mol, x[None])[0], atol=0.5)


def test_twisted_and_stretched_poses_are_strained() -> None:
    ligand, protein = crystal()
    noise = np.random.default_rng(0).normal(size=(ligand.n_atoms, 3))
    seen = pose_flags(ligand.mol, (places(ligand) + noise)[None], protein)
    assert "strain" in seen.words[0]


@pytest.mark.parametrize("smiles", ["OB(O)c1ccccc1", "C[Si](C)(C)O[Ti]"])
def test_molecules_without_parameters_have_no_strain(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    pose = np.random.default_rng(0).normal(size=(1, mol.GetNumAtoms(), 3)) * 10
    assert math.isnan(strain_energy(mol, pose)[0])


def test_inverted_poses_lose_their_stereochemistry() -> None:
    _, protein = crystal()
    ligand = conformer("C[C@H](F)C(=O)O")
    x = places(ligand) + protein.center
    seen = pose_flags(ligand.mol, np.stack([x, x * [1, 1, -1]]), protein)
    assert seen.stereo_kept.tolist() == [True, False]
    assert ["stereo" in words for words in seen.words] == [False, True]
    assert [seen.record(pose)["stereo"] for pose in (0, 1)] == ["kept", "changed"]
    other = Chem.MolFromSmiles("C[C@@H](F)C(=O)O")
    assert pose_flags(ligand.mol, x[None], protein, other).stereo_kept.tolist() == [False]


def test_poses_that_are_not_finite_are_named_and_the_others_are_judged() -> None:
    ligand, protein = crystal()
    x = places(ligand)
    poses = np.stack([x, x, x])
    poses[0, 3, 1], poses[1, 0, 0] = np.nan, np.inf
    seen = pose_flags(ligand.mol, poses, protein)
    assert seen.words == (("not-finite",), ("not-finite",), ())
    assert seen.clashes.tolist() == [-1, -1, 0]
    assert seen.record(0)["protein_distance"] is seen.record(0)["strain"] is None
    assert seen.record(2)["strain"] == pytest.approx(seen.strain[2], abs=1e-3)


def test_collapsed_and_remote_poses_do_no_harm() -> None:
    ligand, protein = crystal()
    seen = pose_flags(ligand.mol, np.stack([np.zeros((ligand.n_atoms, 3)), places(ligand) + 1e9]), protein)
    assert "self-clash" in seen.words[0]
    assert seen.clashes[1] == 0


def test_a_single_atom_has_no_distance_within_itself() -> None:
    _, protein = crystal()
    record = pose_flags(Chem.MolFromSmiles("[Na+]"), protein.center[None, None], protein).record(0)
    assert record["self_distance"] is None


def test_no_poses_give_no_flags() -> None:
    ligand, protein = crystal()
    assert pose_flags(ligand.mol, np.zeros((0, ligand.n_atoms, 3)), protein).words == ()


def test_poses_of_another_ligand_are_refused() -> None:
    ligand, protein = crystal()
    with pytest.raises(RequestError, match="do not fit a ligand"):
        pose_flags(ligand.mol, np.zeros((1, 3, 3)), protein)


@pytest.mark.parametrize(
    ("confidence", "word"), [(0.01, "high"), (0.0, "moderate"), (-1.5, "moderate"), (-1.51, "low"), (-1e9, "low")]
)
def test_bands_of_confidence(confidence: float, word: str) -> None:
    assert band(confidence) == word
