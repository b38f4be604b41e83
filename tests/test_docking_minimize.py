"""Poses relaxed in the rigid pocket: the energy is RDKit's, clashes go, nothing else of the ligand changes."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from core.errors import DataError
from domains.docking.chemistry.ligand import ligand_from_mol
from domains.docking.chemistry.pocket import Around
from domains.docking.chemistry.stereo import same_stereo
from domains.docking.dock import minimize
from domains.docking.dock.flags import overlapping_atoms
from domains.docking.dock.minimize import Minimized, minimize_poses, mmff_pairs, uff_pairs
from domains.docking.dock.protonate import protonated
from domains.docking.metrics.poses import with_poses
from tests.docking_support import crystal, places


@cache
def relaxed() -> tuple[np.ndarray, Minimized]:
    """The crystal pose and two displaced by 0.5 and 1 A, the last into the protein; before and after."""
    ligand, protein = crystal()
    into = np.array([-0.64, -0.13, 0.76])
    steps = (0 * into, -0.5 * into, into)
    poses = [places(ligand) + step for step in steps]
    return np.stack(poses), minimize_poses(ligand.mol, np.stack(poses), protein)


def test_the_energy_never_rises_and_every_pose_is_relaxed() -> None:
    _, found = relaxed()
    assert found.force_field == "MMFF94s"
    assert found.reasons == (None,) * 3
    assert (found.after < found.before).all()


def test_clashes_of_displaced_poses_go() -> None:
    ligand, protein = crystal()
    poses, found = relaxed()
    before, after = (overlapping_atoms(ligand.mol, x, protein) for x in (poses, found.positions))
    assert before.sum() > after.sum() == 0


def test_the_crystal_pose_moves_little_and_displaced_ones_come_nearer_to_it() -> None:
    poses, found = relaxed()
    assert found.moved[0] < 1.2
    np.testing.assert_allclose(found.moved, np.sqrt(((found.positions - poses) ** 2).sum(-1).mean(-1)))
    apart = np.sqrt(((found.positions - found.positions[0]) ** 2).sum(-1).mean(-1))
    assert (apart[1:] < (0.5, 1.0)).all()


def test_stereochemistry_and_bonds_stay() -> None:
    ligand, _ = crystal()
    _, found = relaxed()
    for pose in found.positions:
        assert same_stereo(ligand.mol, with_poses(ligand.mol, pose[None]))
        for bond in ligand.mol.GetBonds():
            length = np.linalg.norm(pose[bond.GetBeginAtomIdx()] - pose[bond.GetEndAtomIdx()])
            assert 1.1 < length < 1.9


def test_a_pose_is_relaxed_alike_whatever_the_others_are() -> None:
    ligand, protein = crystal()
    poses, found = relaxed()
    alone = minimize_poses(ligand.mol, poses[1:2], protein)
    np.testing.assert_allclose(alone.positions[0], found.positions[1], atol=1e-3)
    assert alone.before[0] == pytest.approx(found.before[1], abs=1e-3)


def test_energy_is_that_of_rdkit_for_the_complex_less_the_pocket(monkeypatch: pytest.MonkeyPatch) -> None:
    ligand, protein = crystal()
    near = protein.crop(Around(places(ligand), 4.0))
    monkeypatch.setattr(minimize, "REACH", 100.0)
    system = minimize._System(ligand.mol, places(ligand)[None], near)
    ours, gradient = system.energy(0)(system.places(0))

    def rdkit(mol: Chem.Mol) -> tuple[float, np.ndarray]:
        types = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, "MMFF94s")
        types.SetMMFFDielectricModel(2)
        types.SetMMFFDielectricConstant(4.0)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, types, 1000.0, ignoreInterfragInteractions=False)
        field.Initialize()
        return field.CalcEnergy(), np.array(field.CalcGrad()).reshape(-1, 3)

    pocket = protonated(near)
    both = Chem.CombineMols(system.ligand, pocket)
    Chem.SanitizeMol(both)
    (whole, forces), (alone, _) = rdkit(both), rdkit(pocket)
    assert ours == pytest.approx(whole - alone, abs=1e-4)
    np.testing.assert_allclose(gradient, forces[: len(gradient)], atol=1e-4)


@pytest.mark.parametrize("pairs", [mmff_pairs, uff_pairs])
def test_pair_energies_have_their_depth_and_derivative(pairs: Callable[..., Any]) -> None:
    distance = np.linspace(2.0, 8.0, 13)[:, None]
    radius, depth, product = np.full_like(distance, 3.5), np.full_like(distance, 0.2), np.full_like(distance, -0.1)
    high, low = pairs(distance + 1e-6, radius, depth, product)[0], pairs(distance - 1e-6, radius, depth, product)[0]
    slope = pairs(distance, radius, depth, product)[1]
    np.testing.assert_allclose(slope, (high - low) / 2e-6, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pairs(radius, radius, depth, 0 * product)[0], -depth)


def test_boron_is_relaxed_by_uff_and_said_so() -> None:
    _, protein = crystal()
    mol = Chem.AddHs(Chem.MolFromSmiles("OB(O)c1ccccc1"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    ligand = ligand_from_mol(mol)
    pose = places(ligand) - places(ligand).mean(axis=0) + places(crystal()[0]).mean(axis=0)
    found = minimize_poses(ligand.mol, pose[None], protein)
    assert (found.force_field, found.reasons) == ("UFF", (None,))
    assert found.after[0] < found.before[0]


def test_what_cannot_be_relaxed_stays_as_it_was_with_a_reason() -> None:
    ligand, protein = crystal()
    x = places(ligand)
    broken = x.copy()
    broken[0, 0] = np.nan
    poses = np.stack([x, broken, x + 500.0])
    found = minimize_poses(ligand.mol, poses, protein, iterations=5)
    assert found.reasons[0] is None
    assert "not finite" in str(found.reasons[1])
    assert "no protein atom" in str(found.reasons[2])
    np.testing.assert_array_equal(found.positions[1:], poses[1:])
    records = found.records()
    assert set(records[0]) == {"force_field", "before", "after", "moved"}
    assert records[2] == {"force_field": "MMFF94s", "moved": 0.0, "reason": found.reasons[2]}


def test_no_protein_near_any_pose_and_no_poses_at_all() -> None:
    ligand, protein = crystal()
    far = places(ligand)[None] + 500.0
    found = minimize_poses(ligand.mol, far, protein)
    assert "pocket" in str(found.reasons[0])
    np.testing.assert_array_equal(found.positions, far)
    assert minimize_poses(ligand.mol, far[:0], protein).records() == []


def test_metal_complexes_without_a_force_field_are_left_alone() -> None:
    _, protein = crystal()
    mol = Chem.MolFromSmiles("[*]CC")
    pose = np.eye(3)[None] * 1.5 + places(crystal()[0]).mean(axis=0)
    with rdBase.BlockLogs():
        found = minimize_poses(mol, pose, protein)
    assert "parameters" in str(found.reasons[0])


def test_a_pose_that_would_lose_its_stereochemistry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ligand, protein = crystal()
    answers = iter([True, False])
    monkeypatch.setattr(minimize, "_same", lambda *_: next(answers))
    found = minimize_poses(ligand.mol, places(ligand)[None], protein, iterations=3)
    assert found.reasons == ("the minimiser changed the stereochemistry",)
    np.testing.assert_array_equal(found.positions[0], places(ligand))


def test_atoms_on_top_of_each_other_do_no_harm() -> None:
    ligand, protein = crystal()
    pose = np.repeat(places(ligand).mean(axis=0)[None, None], ligand.n_atoms, axis=1)
    found = minimize_poses(ligand.mol, pose, protein, iterations=20)
    assert np.isfinite(found.positions).all()
    assert found.reasons[0] is None or (found.positions == pose).all()


def test_the_protein_gets_charges_and_hydrogens_and_keeps_its_atoms() -> None:
    _, protein = crystal()
    mol = protonated(protein)
    heavy = mol.GetConformer().GetPositions()[: protein.n_atoms]
    np.testing.assert_allclose(heavy, protein.positions, atol=1e-3)
    assert [atom.GetSymbol() for atom in mol.GetAtoms()][: protein.n_atoms] == list(protein.elements)
    charge = {"ASP": -1, "GLU": -1, "LYS": 1, "ARG": 1}
    ends = sum(name == "OXT" for name in protein.atom_names)
    complete = {"ASP": "OD2", "GLU": "OE2", "LYS": "NZ", "ARG": "NH2"}
    expected = sum(
        charge[protein.names[residue]]
        for residue, name in zip(protein.residue.tolist(), protein.atom_names, strict=True)
        if complete.get(protein.names[residue]) == name
    )
    assert Chem.GetFormalCharge(mol) == expected - ends
    assert sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()) == 0


def test_residues_that_overlap_are_not_bonded() -> None:
    _, protein = crystal()
    squeezed = protein.positions.copy()
    moved, there = protein.residue == 5, protein.residue == 20
    squeezed[moved] += squeezed[there].mean(axis=0) - squeezed[moved].mean(axis=0)
    mol = protonated(replace(protein, positions=squeezed))
    for bond in mol.GetBonds():
        ends = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
        if max(ends) < protein.n_atoms and protein.residue[ends[0]] != protein.residue[ends[1]]:
            assert {protein.atom_names[end] for end in ends} in ({"C", "N"}, {"SG"})


def test_a_protein_that_rdkit_does_not_take_is_named() -> None:
    _, protein = crystal()
    with pytest.raises(DataError, match="RDKit"):
        protonated(replace(protein, elements=("Qq", *protein.elements[1:])))
