"""Conformers of RDKit, and their fit to a pose: against the authors' fit, a global search, and what must not change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from scipy.optimize import check_grad, differential_evolution
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from core.errors import RequestError
from domains.docking.chemistry import conformer as module
from domains.docking.chemistry.conformer import embed_conformer, ligand_conformer, match_conformer, pick
from domains.docking.chemistry.features import bond_graph
from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.chemistry.rotatable import rotatable_bonds
from domains.docking.torsion import Torsions, nesting, turn
from tests.docking_support import GOLDEN, NO_GOLDEN, golden

FILE = Path(__file__).parent / "data" / "docking" / "6w70_ligand.sdf"
DRUG = "C[C@H](NC(=O)c1ccccc1)C(=O)N1CCC[C@@H]1C(=O)OCC#N"
UNUSUAL = {
    "one atom": "C",
    "metal ion": "[Zn+2]",
    "two atoms": "[C-]#[O+]",
    "three on a line": "O=C=O",
    "stereocentres not given": "CC(O)C(F)C=CC",
    "strained": "C12C3C4C1C5C2C3C45",
    "impossible ring": "C1#CC1",
    "macrocycle": "C[C@H]1CCCCCCCC(=O)NCCCCO1",
    "complex": "N[Pt](N)(Cl)Cl",
    "dative": "[NH3]->[Cu+2]",
    "radical": "C[CH]C",
    "unknown element": "*CCO",
    "long": "OCC" * 12,
}


def torsions_of(mol: Chem.Mol) -> Torsions:
    bonds, moves = rotatable_bonds(mol.GetNumAtoms(), bond_graph(mol)[0])
    parent, group = nesting(moves)
    arrays = (bonds, parent, group, np.ones(len(bonds), dtype=np.bool_))
    return Torsions(*(torch.from_numpy(array)[None] for array in arrays))


def near(mol: Chem.Mol, count: int) -> np.ndarray:
    """Distances of atoms at most ``count`` bonds apart, the rest 0: bond lengths and angles, for ``count`` = 2."""
    return np.asarray((Chem.GetDistanceMatrix(mol) <= count) & (Chem.GetDistanceMatrix(mol) > 0))


def signs_of_volume(mol: Chem.Mol, positions: np.ndarray) -> np.ndarray:
    """Handedness of the first three neighbours of every branched atom."""
    around = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    corners = [positions[some[:3]] - positions[i] for i, some in enumerate(around) if len(some) > 2]
    volumes = np.linalg.det(np.array(corners))
    return np.where(np.abs(volumes) < 0.5, 0, np.sign(volumes))


def superposed_rmsd(moving: np.ndarray, fixed: np.ndarray) -> float:
    """Root mean square deviation (Angstrom) after the best rotation and translation, atom by atom."""
    moving, fixed = moving - moving.mean(0), fixed - fixed.mean(0)
    rotation, _ = Rotation.align_vectors(fixed, moving)
    return float(np.sqrt(np.square(rotation.apply(moving) - fixed).sum(1).mean()))


def rigid(positions: np.ndarray, seed: int) -> np.ndarray:
    return Rotation.random(rng=seed).apply(positions) + np.array([10.0, -20.0, 30.0])


# Embedding


@pytest.mark.parametrize("kind", UNUSUAL)
def test_every_molecule_gets_finite_coordinates_of_its_atoms(kind: str) -> None:
    mol = read_ligand(UNUSUAL[kind]).mol
    before = mol.ToBinary()
    positions = embed_conformer(mol, 0)
    assert positions.shape == (mol.GetNumAtoms(), 3)
    assert np.isfinite(positions).all()
    assert mol.ToBinary() == before
    if mol.GetNumAtoms() > 1:
        bonds = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()])
        lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
        assert (lengths > 0.8).all()
        assert (lengths < 2.8).all()


def test_a_seed_gives_one_conformer_and_another_seed_another() -> None:
    mol = read_ligand(DRUG).mol
    first = embed_conformer(mol, 1)
    np.testing.assert_array_equal(first, embed_conformer(mol, 1))
    assert superposed_rmsd(first, embed_conformer(mol, 2)) > 0.1
    for seed in (-1, 0, 2**40):  # whatever RDKit would make of them
        np.testing.assert_array_equal(embed_conformer(mol, seed), embed_conformer(mol, seed))


def test_conformers_have_the_stereochemistry_and_the_order_of_atoms() -> None:
    mol = read_ligand(DRUG).mol
    for seed in range(5):
        copy = Chem.Mol(mol)
        copy.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
        copy.GetConformer().SetPositions(embed_conformer(mol, seed))
        Chem.AssignStereochemistryFrom3D(copy)
        assert Chem.MolToSmiles(copy) == Chem.MolToSmiles(mol)
        np.testing.assert_array_less(cdist(*[copy.GetConformer().GetPositions()] * 2)[near(mol, 1)], 1.7)


def test_raw_tags_of_atoms_that_are_no_stereocentres_do_not_matter() -> None:
    raw, plain = (read_ligand(FILE, raw_chirality=flag).mol for flag in (True, False))
    np.testing.assert_array_equal(embed_conformer(raw, 0), embed_conformer(plain, 0))


def test_large_molecules_are_embedded_without_hydrogens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ATOMS_WITH_HYDROGENS", 5)
    mol = read_ligand(DRUG).mol
    distances = cdist(*[embed_conformer(mol, 0)] * 2)
    assert distances[near(mol, 1)].max() < 1.7


def test_relaxed_rules_are_said() -> None:
    ligand = read_ligand("C1#CC1")
    positions, notes = ligand_conformer(ligand, 0)
    assert positions.shape == (3, 3)
    assert notes == ("the conformer was made without knowledge of preferred torsions",)
    assert ligand_conformer(read_ligand("CCO"), 0)[1] == ()


def test_what_cannot_be_embedded_is_refused_or_keeps_its_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    monkeypatch.setattr(module, "_WAYS", (({}, ""),))
    flat = read_ligand("C1#CC1")
    with pytest.raises(RequestError, match="no conformer of the ligand C1#CC1"):
        embed_conformer(flat.mol, 0)
    with pytest.raises(RequestError, match=r"no conformer.*; give it with 3-D coordinates"):
        ligand_conformer(flat, 0)
    given = np.arange(9.0).reshape(3, 3)
    positions, (note,) = ligand_conformer(replace(flat, coordinates=given), 0)
    np.testing.assert_array_equal(positions, given)
    assert "no conformer" in note
    assert "those of the input" in note
    assert "give it" not in note


@pytest.mark.parametrize(("smiles", "reason"), [("CC(C)(C)(C)CO", "valence"), ("c1cccc1", "kekulize")])
def test_molecules_of_impossible_chemistry_are_refused_with_the_reason(smiles: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        embed_conformer(read_ligand(smiles).mol, 0)
    with pytest.raises(RequestError, match=f"{reason}.*; correct its bonds and charges"):  # coordinates help nothing
        ligand_conformer(read_ligand(smiles), 0)


# The fit


@pytest.fixture(scope="module")
def crystal() -> Ligand:
    return read_ligand(FILE)


@pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)
def test_the_fit_is_better_than_the_authors(crystal: Ligand) -> None:
    data = golden("graph_6w70")
    target, theirs = (data[name].double().numpy() for name in ("lig_pos_crystal_centred", "lig_pos_matched"))
    found = match_conformer(data["lig_rdkit_pos"].numpy(), target, torsions_of(crystal.mol))
    ours = np.sqrt(np.square(found - target).sum(1).mean())
    assert ours == pytest.approx(superposed_rmsd(found, target), abs=1e-9)  # it comes superposed
    assert superposed_rmsd(theirs, target) == pytest.approx(0.898, abs=1e-3)
    assert ours < 0.3950


def test_the_fit_is_as_good_as_differential_evolution() -> None:
    for smiles in ("CCOC(=O)c1ccccc1C", "C[C@H](N)C(=O)NCC#N", "OCC1CCCC1N"):
        mol = read_ligand(smiles).mol
        torsions = torsions_of(mol)
        conformer, target = embed_conformer(mol, 0), embed_conformer(mol, 3)
        start = torch.from_numpy(conformer)[None]

        def deviation(angles: np.ndarray) -> float:
            turned = turn(start, torsions, torch.from_numpy(angles)[None])[0].numpy()  # noqa: B023
            return superposed_rmsd(turned, target)  # noqa: B023

        bounds = [(-np.pi, np.pi)] * torsions.mask.shape[1]
        best = differential_evolution(deviation, bounds, maxiter=6, popsize=8, rng=0).fun
        assert superposed_rmsd(match_conformer(conformer, target, torsions), target) <= best + 1e-6


@pytest.mark.parametrize("smiles", [DRUG, "C" * 12, "CC(C)(C)c1ccc(C#CC#CCO)cc1", "NCC(CO)(CCS)CCC(=O)O"])
def test_a_conformer_with_other_torsions_is_fitted_exactly(smiles: str) -> None:
    mol = read_ligand(smiles).mol
    torsions = torsions_of(mol)
    conformer = embed_conformer(mol, 0)
    angles = torch.from_numpy(np.random.default_rng(1).uniform(-np.pi, np.pi, torsions.mask.shape))
    target = rigid(turn(torch.from_numpy(conformer)[None], torsions, angles)[0].numpy(), 2)
    found = match_conformer(conformer, target, torsions)
    np.testing.assert_allclose(found, target, atol=2e-3)


def test_only_torsions_change(crystal: Ligand) -> None:
    for ligand, target in (
        (crystal, crystal.coordinates),
        (read_ligand(DRUG), embed_conformer(read_ligand(DRUG).mol, 7)),
    ):
        assert target is not None
        mol = ligand.mol
        conformer = embed_conformer(mol, 0)
        found = match_conformer(conformer, target, torsions_of(mol))
        before, after = cdist(conformer, conformer), cdist(found, found)
        np.testing.assert_allclose(after[near(mol, 2)], before[near(mol, 2)], atol=1e-10)
        rings = [list(ring) for ring in mol.GetRingInfo().AtomRings()]
        assert rings
        for ring in rings:
            np.testing.assert_allclose(after[np.ix_(ring, ring)], before[np.ix_(ring, ring)], atol=1e-10)
        np.testing.assert_array_equal(signs_of_volume(mol, found), signs_of_volume(mol, conformer))
        assert superposed_rmsd(found, target) < superposed_rmsd(conformer, target) - 0.3


def test_the_fit_is_deterministic_and_follows_the_target(crystal: Ligand) -> None:
    assert crystal.coordinates is not None
    torsions, conformer = torsions_of(crystal.mol), embed_conformer(crystal.mol, 0)
    found = match_conformer(conformer, crystal.coordinates, torsions)
    np.testing.assert_array_equal(found, match_conformer(conformer, crystal.coordinates, torsions))
    moved = match_conformer(rigid(conformer, 5), rigid(crystal.coordinates, 6), torsions)
    np.testing.assert_allclose(moved, rigid(found, 6), atol=5e-3)


def test_the_jacobian_is_exact(crystal: Ligand) -> None:
    """Against finite differences of the deviation after superposition, of which it gives half the gradient."""
    assert crystal.coordinates is not None
    torsions = torsions_of(crystal.mol)
    start, goal = torch.from_numpy(embed_conformer(crystal.mol, 0))[None], torch.from_numpy(crystal.coordinates)
    moves = torch.from_numpy(rotatable_bonds(crystal.n_atoms, bond_graph(crystal.mol)[0])[1])
    assert torch.equal(module._moves(torsions), moves)

    def posed(angles: np.ndarray) -> torch.Tensor:
        return module._superposed(turn(start, torsions, torch.from_numpy(angles)[None]), goal)

    def value(angles: np.ndarray) -> float:
        return float((posed(angles) - goal).square().sum())

    def gradient(angles: np.ndarray) -> np.ndarray:
        x = posed(angles)
        full = 2 * (module._jacobian(x, torsions, moves)[0] @ (x - goal).flatten())
        np.testing.assert_allclose(full[-3:], 0, atol=1e-9)  # no torque is left after superposition
        return full[:-3].numpy()

    # Turning several bonds at once about the axes of the start is turning them one by one only at angle 0.
    assert check_grad(value, gradient, np.zeros(len(moves)), epsilon=1e-7) < 1e-3


@pytest.mark.parametrize("smiles", ["C", "CC", "CCC", "O=C=O", "c1ccccc1", "C#CC#C", "[Zn+2]"])
def test_ligands_without_torsions_to_fit_are_superposed(smiles: str) -> None:
    mol = read_ligand(smiles).mol
    conformer = embed_conformer(mol, 0)
    target = rigid(conformer, 1)
    np.testing.assert_allclose(match_conformer(conformer, target, torsions_of(mol)), target, atol=1e-6)


def test_coordinates_that_do_not_fit_are_refused() -> None:
    mol = read_ligand("CCCC").mol
    conformer, torsions = embed_conformer(mol, 0), torsions_of(mol)
    with pytest.raises(RequestError, match="same atoms"):
        match_conformer(conformer, np.full((4, 3), np.nan), torsions)


def test_more_tries_never_give_a_worse_match(crystal: Ligand) -> None:
    target, torsions = crystal.coordinates, torsions_of(crystal.mol)
    assert target is not None
    deviations = []
    for tries in (1, 2, 4):
        conformer, matched = pick(crystal.mol, target, torsions, seed=0, tries=tries)
        np.testing.assert_allclose(matched, match_conformer(conformer, target, torsions))
        deviations.append(superposed_rmsd(matched, target))
    np.testing.assert_array_equal(pick(crystal.mol, target, torsions, 0)[0], embed_conformer(crystal.mol, 0))
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[0] > deviations[-1]
    with pytest.raises(RequestError, match="tries = 0"):
        pick(crystal.mol, target, torsions, 0, 0)
