"""Docking metrics against closed forms, brute force, spyrmsd and PoseBusters on real complexes."""

import itertools
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from core.errors import DataError, RequestError
from domains.docking.chemistry.protein import read_protein
from domains.docking.metrics import posechecks
from domains.docking.metrics.contacts import centroid_distance, protein_distance, self_distance
from domains.docking.metrics.posechecks import check_poses
from domains.docking.metrics.poses import with_poses
from domains.docking.metrics.rmsd import symmetry_rmsd
from tests.protein_support import REAL_PROTEIN


def read_ligand(path: Path) -> Chem.Mol:
    mol = Chem.MolFromMolFile(str(path), sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    return mol


def graph(count: int, bonds: list[tuple[int, int]], elements: list[int] | None = None) -> Chem.Mol:
    """A molecule of single bonds, valence unchecked."""
    mol = Chem.RWMol()
    for element in elements or [6] * count:
        mol.AddAtom(Chem.Atom(element))
    for first, second in bonds:
        mol.AddBond(first, second, Chem.BondType.SINGLE)
    return mol.GetMol()


def hypercube(dimension: int) -> Chem.Mol:
    nodes = range(2**dimension)
    return graph(2**dimension, [(a, b) for a in nodes for b in nodes if a < b and (a ^ b).bit_count() == 1])


def dendrimer(depth: int) -> Chem.Mol:
    """A core with four branches that split in three, ``depth`` times."""

    def branch(level: int) -> str:
        return "C" + (f"({branch(level - 1)})" * 2 + branch(level - 1) if level else "")

    return Chem.MolFromSmiles("C" + f"({branch(depth)})" * 3 + branch(depth))


def plain_rmsd(reference: np.ndarray, poses: np.ndarray) -> np.ndarray:
    return np.sqrt(((poses - reference) ** 2).sum(-1).mean(-1))


def brute_force(mol: Chem.Mol, reference: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Least RMSD over every permutation that keeps elements and bonds."""
    elements = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = Chem.GetAdjacencyMatrix(mol)
    kept = [
        order
        for order in map(list, itertools.permutations(range(len(elements))))
        if (elements[order] == elements).all() and (bonds[np.ix_(order, order)] == bonds).all()
    ]
    return np.min([plain_rmsd(reference, poses[:, order]) for order in kept], axis=0)


# RMSD


def test_flipped_phenyl_and_swapped_oxygens_are_the_same_pose() -> None:
    mol = Chem.MolFromSmiles("c1ccccc1CC(=O)O")  # atoms 0-5 ring (5 carries the chain), 8 and 9 oxygens
    reference = np.random.default_rng(0).normal(size=(10, 3))
    flipped = [4, 3, 2, 1, 0, 5, 6, 7, 8, 9]
    swapped = [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]
    other = [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]
    poses = np.stack([reference[order] for order in (flipped, swapped, other)])
    result = symmetry_rmsd(mol, reference, poses)
    assert result.reason is None
    np.testing.assert_allclose(result.values[:2], 0, atol=1e-12)
    assert result.values[2] > 0.1  # two ring atoms traded alone is no symmetry
    assert (plain_rmsd(reference, poses) > 0.1).all()


def test_pose_is_not_superposed() -> None:
    mol = Chem.MolFromSmiles("c1ccccc1")
    reference = np.random.default_rng(0).normal(size=(6, 3))
    result = symmetry_rmsd(mol, reference, (reference + np.array([0.0, 3.0, 4.0]))[None])
    assert result.values[0] <= 5.0  # another automorphism may be nearer, never further
    twist = graph(2, [(0, 1)], [6, 8])  # no symmetry: exactly the shift
    assert symmetry_rmsd(twist, reference[:2], reference[None, :2] + 1.0).values == pytest.approx([math.sqrt(3)])


@pytest.mark.parametrize("seed", range(25))
def test_equals_brute_force_on_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 6
    pairs = list(itertools.combinations(range(count), 2))
    chosen = [pair for pair in pairs if rng.random() < rng.choice([0.2, 0.4, 0.6])]  # connected or not
    mol = graph(count, chosen, rng.choice([6, 6, 6, 8], size=count).tolist())
    reference = rng.normal(size=(count, 3))
    poses = rng.normal(size=(4, count, 3))
    np.testing.assert_allclose(
        symmetry_rmsd(mol, reference, poses).values, brute_force(mol, reference, poses), rtol=1e-12
    )


@pytest.mark.parametrize(
    "bonds",
    [
        [(i, (i + 1) % 7) for i in range(7)],  # 14 automorphisms
        [(a, b) for a in range(7) for b in range(a)],  # 5,040
        [(0, i) for i in range(1, 7)],  # 720
        [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)],  # two triangles trade places, one atom apart
        [(0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)],  # K3,3 and one atom apart
        [],
    ],
)
def test_equals_brute_force_on_symmetric_graphs(bonds: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    mol, reference, poses = graph(7, bonds), rng.normal(size=(7, 3)), rng.normal(size=(5, 7, 3))
    np.testing.assert_allclose(
        symmetry_rmsd(mol, reference, poses).values, brute_force(mol, reference, poses), rtol=1e-12
    )


@pytest.mark.filterwarnings("ignore:Disconnected graph")
def test_equals_spyrmsd_on_real_ligands(complexes: Path) -> None:
    from spyrmsd import rmsd as spyrmsd
    from spyrmsd.molecule import Molecule

    rng = np.random.default_rng(0)
    compared = symmetric = 0
    for path in sorted(complexes.glob("*/ligand.sdf")):
        mol = read_ligand(path)
        reference = mol.GetConformer().GetPositions()
        poses = reference + rng.normal(size=(10, *reference.shape)) * rng.uniform(0, 3, size=(10, 1, 1))
        theirs = Molecule.from_rdkit(mol)
        graphs = (theirs.atomicnums, theirs.atomicnums, theirs.adjacency_matrix, theirs.adjacency_matrix)
        expected = spyrmsd.symmrmsd(reference, list(poses), *graphs)
        found = symmetry_rmsd(mol, reference, poses)
        assert found.reason is None
        np.testing.assert_allclose(found.values, expected, rtol=1e-10, err_msg=str(path))
        compared += 1
        symmetric += bool((found.values < plain_rmsd(reference, poses) - 1e-6).any())
    assert compared >= 90
    assert symmetric >= 30


@pytest.mark.parametrize(
    "mol",
    [
        Chem.MolFromSmiles("C1(C(C(C(C(C1OP(=O)(O)O)OP(=O)(O)O)OP(=O)(O)O)OP(=O)(O)O)OP(=O)(O)O)OP(=O)(O)O"),
        Chem.MolFromSmiles("C12C3C4C1C5C2C3C45"),
        dendrimer(2),  # 4! * 6^4 * 6^12 automorphisms
    ],
    ids=["inositol hexakisphosphate", "cubane", "dendrimer"],
)
def test_symmetries_that_cannot_be_listed_are_exact(mol: Chem.Mol) -> None:
    rng = np.random.default_rng(0)
    count = mol.GetNumAtoms()
    reference = rng.normal(size=(count, 3)) * 5
    image = list(max(mol.GetSubstructMatches(mol, uniquify=False, maxMatches=1000), key=lambda m: np.ptp(np.array(m))))
    image = image if image != list(range(count)) else list(mol.GetSubstructMatches(mol, uniquify=False)[1])
    poses = np.stack([reference[image], reference + 0.01 * rng.normal(size=(count, 3))])
    result = symmetry_rmsd(mol, reference, poses)
    assert result.reason is None  # within the time limit
    assert result.values[0] == pytest.approx(0, abs=1e-12)
    # So near the reference no symmetry helps: the identity is the best.
    assert result.values[1] == pytest.approx(plain_rmsd(reference, poses)[1])
    # The value does not depend on which symmetric copy of a pose is given.
    pose = rng.normal(size=(count, 3)) * 5
    first, second = symmetry_rmsd(mol, reference, np.stack([pose, pose[image]])).values
    assert first == pytest.approx(second)


def test_time_limit_is_an_error_value_in_any_thread() -> None:
    mol = hypercube(6)  # 46,080 automorphisms, no pinned atom for long
    reference = np.random.default_rng(0).normal(size=(64, 3))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(symmetry_rmsd, mol, reference, reference[None].repeat(3, 0), time_limit=0.3).result()
    assert np.isnan(result.values).all()  # not the plain RMSD, which is 0
    assert result.values.shape == (3,)
    assert result.reason is not None
    assert "0.3 s" in result.reason


def test_poses_that_are_not_finite_fail_alone() -> None:
    mol, rng = Chem.MolFromSmiles("c1ccccc1O"), np.random.default_rng(0)
    reference, poses = rng.normal(size=(7, 3)), rng.normal(size=(3, 7, 3))
    whole = symmetry_rmsd(mol, reference, poses).values
    poses[1, 2, 0] = np.nan
    result = symmetry_rmsd(mol, reference, poses)
    np.testing.assert_array_equal(result.values, [whole[0], np.nan, whole[2]])
    assert "1 of 3 poses" in result.reason
    assert np.isnan(symmetry_rmsd(mol, reference, np.full((2, 7, 3), np.inf)).values).all()
    assert symmetry_rmsd(mol, reference, poses[:0]).values.shape == (0,)


def test_wrong_requests_for_rmsd_are_named() -> None:
    reference = np.zeros((2, 3))
    with pytest.raises(RequestError, match="remove the hydrogens"):
        symmetry_rmsd(graph(2, [(0, 1)], [6, 1]), reference, reference[None])
    with pytest.raises(RequestError, match="3 atoms"):
        symmetry_rmsd(graph(3, [(0, 1)]), reference, reference[None])
    with pytest.raises(RequestError, match="reference pose"):
        symmetry_rmsd(graph(2, [(0, 1)]), reference + np.nan, reference[None])


# Contacts


def test_contacts_have_their_closed_forms() -> None:
    pose = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    poses = np.stack([pose, pose + np.array([3.0, 4, 0]), np.full((3, 3), np.nan)])
    np.testing.assert_allclose(centroid_distance(pose, poses), [0, 5, np.nan], atol=1e-12)
    np.testing.assert_allclose(self_distance(poses), [1, 1, np.nan])
    assert self_distance(np.zeros((2, 1, 3))).tolist() == [np.inf, np.inf]
    protein = np.array([[0.0, 0, 0.3], [50, 50, 50]])
    np.testing.assert_allclose(protein_distance(poses, protein), [0.3, math.sqrt(25.09), np.nan])
    for wrong in (protein[:0], protein + np.nan):
        with pytest.raises(RequestError, match="finite coordinates"):
            protein_distance(poses, wrong)


def test_contacts_equal_all_pairs() -> None:
    rng = np.random.default_rng(0)
    poses, protein = rng.normal(size=(6, 20, 3)) * 5, rng.normal(size=(300, 3)) * 5
    pairs = np.linalg.norm(poses[:, :, None] - protein, axis=-1)
    own = np.linalg.norm(poses[:, :, None] - poses[:, None], axis=-1) + np.diag(np.full(20, np.inf))
    np.testing.assert_allclose(protein_distance(poses, protein), pairs.min((1, 2)))
    np.testing.assert_allclose(self_distance(poses), own.min((1, 2)))


# PoseBusters


def test_posebusters_tells_good_poses_from_bad(complexes: Path) -> None:
    protein = read_protein(complexes / "6e3n" / "protein.pdb")
    mol = Chem.MolFromMolFile(str(complexes / "6e3n" / "ligand.sdf"))
    crystal = mol.GetConformer().GetPositions()
    nearest = protein.positions[np.linalg.norm(protein.positions - crystal.mean(0), axis=1).argmin()]
    inside = crystal - crystal.mean(0) + nearest
    away = crystal + 1000.0
    blown_up = crystal * 3 - 2 * crystal.mean(0)
    poses = with_poses(mol, np.stack([crystal, inside, away, blown_up, crystal + np.nan]))
    checks = check_poses(poses, protein, fast=True)
    assert checks.valid.tolist() == [True, False, False, False, False]
    failed = [{name for name, ok in zip(checks.names, row, strict=True) if not ok} for row in checks.passed]
    assert failed[0] == set()
    assert "minimum_distance_to_protein" in failed[1]
    assert failed[2] == {"protein-ligand_maximum_distance"}
    assert {"bond_lengths", "bond_angles"} <= failed[3]
    assert failed[4] == set(checks.names)
    assert checks.errors == (None, None, None, None, "coordinates are not finite")
    # Without a protein the misplaced poses are fine molecules.
    assert check_poses(poses, fast=True).valid.tolist() == [True, True, True, False, False]


def test_posebusters_validity_leaves_rmsd_out(complexes: Path) -> None:
    mol = Chem.MolFromMolFile(str(complexes / "6e3n" / "ligand.sdf"))
    far = mol.GetConformer().GetPositions() + 2.2
    protein = read_protein(complexes / "6e3n" / "protein.pdb")
    checks = check_poses(with_poses(mol, far[None]), protein, reference=mol, fast=True)
    accuracy = next(index for index, name in enumerate(checks.names) if name.startswith("rmsd"))
    assert not checks.passed[0, accuracy]
    assert checks.valid[0] == np.delete(checks.passed[0], accuracy).all()
    assert "tetrahedral_chirality" in checks.names


def test_posebusters_finds_an_inverted_stereocentre(complexes: Path) -> None:
    mol = Chem.MolFromMolFile(str(complexes / "6gj6" / "ligand.sdf"))
    crystal = mol.GetConformer().GetPositions()
    poses = with_poses(mol, np.stack([crystal, crystal * np.array([-1.0, 1, 1])]))
    checks = check_poses(poses, read_protein(complexes / "6gj6" / "protein.pdb"), reference=mol, fast=True)
    assert checks.passed[:, checks.names.index("tetrahedral_chirality")].tolist() == [True, False]
    assert checks.valid[0]


def test_posebusters_is_given_the_atoms_that_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    protein = read_protein(REAL_PROTEIN)  # gzipped, which PoseBusters does not read
    given = []

    class Recording:
        def bust(self, _: Chem.Mol, __: None, receptor: Chem.Mol) -> None:
            given.append(receptor)
            raise ValueError

    monkeypatch.setattr(posechecks, "_buster", lambda _: Recording())
    point = Chem.MolFromSmiles("CO")
    point.AddConformer(Chem.Conformer(2))
    check_poses(point, protein)
    (receptor,) = given
    np.testing.assert_allclose(receptor.GetConformer().GetPositions(), protein.positions, atol=5e-4)
    assert [atom.GetSymbol() for atom in receptor.GetAtoms()] == list(protein.elements)
    assert not any(atom.GetPDBResidueInfo().GetIsHeteroAtom() for atom in receptor.GetAtoms())


def test_posebusters_does_not_tell_its_configuration(caplog: pytest.LogCaptureFixture) -> None:
    mol = Chem.MolFromSmiles("CO")
    mol.AddConformer(Chem.Conformer(2))
    with caplog.at_level(logging.INFO):
        check_poses(mol, fast=True)
    assert not [record for record in caplog.records if record.name.startswith("posebusters")]


def test_pose_checks_name_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    mol = point = Chem.MolFromSmiles("CO")
    with pytest.raises(RequestError, match="no pose"):
        check_poses(mol)
    point.AddConformer(Chem.Conformer(2))
    with pytest.raises(RequestError, match="need the protein"):
        check_poses(point, reference=mol)

    class Failing:
        def bust(self, *_: object) -> None:
            raise ZeroDivisionError("boom")

    monkeypatch.setattr(posechecks, "_buster", lambda _: Failing())
    with monkeypatch.context() as patch:
        patch.setattr(posechecks, "pdb_block", lambda _: "END\n")
        with pytest.raises(DataError, match="RDKit takes 0 of the 960 atoms"):
            check_poses(point, read_protein(REAL_PROTEIN))
    broken = check_poses(point)
    assert not broken.valid.any()
    assert broken.errors == ("PoseBusters failed: ZeroDivisionError: boom",)


def test_missing_posebusters_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "posebusters", None)
    mol = Chem.MolFromSmiles("CO")
    mol.AddConformer(Chem.Conformer(2))
    with pytest.raises(RequestError, match=r"disco-diff\[docking\]"):
        check_poses(mol)
