"""Categorical features against the authors' own, by hand, and their invariances."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from domains.docking.chemistry.features import (
    ATOM_NAME_STEMS,
    ATOM_NAMES,
    BOND_KINDS,
    LIGAND_FEATURE_SIZES,
    PROTEIN_ATOM_FEATURE_SIZES,
    RESIDUES,
    bond_graph,
    ligand_features,
    protein_atom_features,
    residue_feature,
)
from domains.docking.chemistry.ligand import ligand_from_mol, read_ligand
from domains.docking.chemistry.rotatable import rotatable_bonds
from tests.docking_support import GOLDEN, NO_GOLDEN, golden

DATA = Path(__file__).parent / "data" / "docking"
CHIRALITY, IMPLICIT, HYDROGENS = 1, 4, 5
MOLECULES = [
    "COc1ccc(-n2nc(C(N)=O)c3c2C(=O)N(c2ccc(N4CCCCC4=O)cc2)CC3)cc1",
    "C[C@H]([NH3+])C(=O)Nc1ccccc1",
    "O=S(=O)(c1ccccc1)N1CC[C@@H](F)C1",
    "CC(C)(C)OP(=O)([O-])OC#CC=C",
    "C1CC2CCC1C2.Cl",
    "c1ccc2[nH]ccc2c1",
    "N[Pt](N)(Cl)Cl",
    "F[C@](Cl)(Br)I",
    "C",
]


@pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)
def test_features_bonds_and_torsions_equal_the_authors() -> None:
    expected = golden("graph_6w70")
    ligand = read_ligand(DATA / "6w70_ligand.sdf", raw_chirality=True)
    index, kinds = bond_graph(ligand.mol)
    np.testing.assert_array_equal(ligand_features(ligand.mol), expected["lig_x"])
    np.testing.assert_array_equal(index, expected["lig_bond_index"])
    np.testing.assert_array_equal(np.eye(BOND_KINDS)[kinds], expected["lig_bond_attr"])
    np.testing.assert_array_equal(ligand.coordinates, expected["lig_orig_pos"])
    bonds, moves = rotatable_bonds(ligand.n_atoms, index)
    np.testing.assert_array_equal(moves, expected["lig_mask_rotate"])
    np.testing.assert_array_equal(bonds.T, index[:, expected["lig_edge_mask"].numpy()])


@pytest.mark.skipif(not GOLDEN.exists(), reason=NO_GOLDEN)
def test_only_the_tags_of_true_stereocentres_are_kept_unless_asked() -> None:
    features = ligand_features(read_ligand(DATA / "6w70_ligand.sdf").mol)
    expected = golden("graph_6w70")["lig_x"].numpy()
    assert not features[:, CHIRALITY].any()  # the ligand has no stereocentre
    assert expected[:, CHIRALITY].any()
    np.testing.assert_array_equal(np.delete(features, CHIRALITY, 1), np.delete(expected, CHIRALITY, 1))


def test_acetate_by_hand() -> None:
    ligand = read_ligand("CC(=O)[O-]")
    # Z - 1, chirality, degree, charge + 5, implicit, hydrogens, radicals, hybridisation, aromatic, rings, 6 ring sizes
    tail = [0] * 8
    expected = [
        [5, 0, 4, 5, 3, 3, 0, 2, *tail],
        [5, 0, 3, 5, 0, 0, 0, 1, *tail],
        [7, 0, 1, 5, 0, 0, 0, 1, *tail],
        [7, 0, 1, 4, 0, 0, 0, 1, *tail],
    ]
    np.testing.assert_array_equal(ligand_features(ligand.mol), expected)
    index, kinds = bond_graph(ligand.mol)
    np.testing.assert_array_equal(index, [[0, 1, 1, 2, 1, 3], [1, 0, 2, 1, 3, 1]])
    np.testing.assert_array_equal(kinds, [0, 0, 1, 1, 0, 0])


def test_rings_and_aromaticity() -> None:
    features = ligand_features(read_ligand("C1CC1c1ccc2CCCc2c1").mol)
    ring_of_three, aromatic = features[0], features[[atom for atom in range(12) if features[atom, 8]]]
    np.testing.assert_array_equal(ring_of_three[8:], [0, 1, 1, 0, 0, 0, 0, 0])
    assert len(aromatic) == 6
    assert sorted(map(tuple, aromatic[:, 9:])) == [(1, 0, 0, 0, 1, 0, 0)] * 4 + [(2, 0, 0, 1, 1, 0, 0)] * 2


@pytest.mark.parametrize(
    ("smiles", "kind"),
    [("CC", 0), ("C=C", 1), ("C#C", 2), ("C$C", 2), ("[NH3]->[Cu+2]", 0), ("C~C", 0), ("[Fe]<-N", 0)],
)
def test_kinds_of_bonds(smiles: str, kind: int) -> None:
    np.testing.assert_array_equal(bond_graph(read_ligand(smiles).mol)[1], [kind, kind])


def test_aromatic_bonds() -> None:
    np.testing.assert_array_equal(bond_graph(read_ligand("c1ccccc1").mol)[1], [3] * 12)


def test_one_atom_has_no_bonds() -> None:
    index, kinds = bond_graph(read_ligand("O").mol)
    assert (index.shape, kinds.shape) == ((2, 0), (0,))


def test_every_feature_stays_in_its_vocabulary_whatever_the_atom() -> None:
    table = Chem.GetPeriodicTable()
    odd = ["*", "[C-7]", "[U+9]", "[CH9]", "[N@TB5H](F)(F)(F)F", "[Cl@OH3](F)(F)(F)(F)F", "C1=CC2=CC1=C2"]
    for smiles in [*odd, *(f"[{table.GetElementSymbol(z)}]" for z in range(2, 119))]:
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        features = ligand_features(mol)
        assert (features >= 0).all(), smiles
        assert (features < LIGAND_FEATURE_SIZES).all(), smiles
    assert [ligand_features(read_ligand(f"[{name}]").mol)[0, 0] for name in ("Li", "Og")] == [2, 117]


@pytest.mark.parametrize("smiles", MOLECULES)
def test_features_follow_a_permutation_of_the_atoms(smiles: str) -> None:
    ligand = read_ligand(smiles)
    index, kinds = bond_graph(ligand.mol)
    order = np.random.default_rng(0).permutation(ligand.n_atoms)
    other = ligand_from_mol(Chem.RenumberAtoms(ligand.mol, order.tolist()))
    features, moved = ligand_features(ligand.mol)[order], ligand_features(other.mol)
    # RDKit's tag says clockwise by the order of bonds, so only whether there is one is invariant.
    features[:, CHIRALITY], moved[:, CHIRALITY] = features[:, CHIRALITY] > 0, moved[:, CHIRALITY] > 0
    np.testing.assert_array_equal(features, moved)
    other_index, other_kinds = bond_graph(other.mol)
    before = {(int(i), int(j), int(k)) for (i, j), k in zip(index.T, kinds, strict=True)}
    after = {(int(order[i]), int(order[j]), int(k)) for (i, j), k in zip(other_index.T, other_kinds, strict=True)}
    assert before == after


def test_all_formats_give_the_same_graph() -> None:
    smiles = "C[C@H]([NH3+])C(=O)Nc1ccccc1"
    reference = read_ligand(smiles)
    graphs = []
    for name, template in (("sdf", None), ("mol2", None), ("pdbqt", smiles)):
        ligand = read_ligand(DATA / f"alanine_anilide.{name}", template)
        match = list(ligand.mol.GetSubstructMatch(reference.mol, useChirality=True))
        graphs.append(ligand_features(ligand.mol)[match])
        assert sorted(bond_graph(ligand.mol)[1]) == sorted(bond_graph(reference.mol)[1])
    for features in graphs:
        features[:, CHIRALITY] = features[:, CHIRALITY] > 0
        expected = ligand_features(reference.mol)
        expected[:, CHIRALITY] = expected[:, CHIRALITY] > 0
        np.testing.assert_array_equal(features, expected)


@pytest.mark.parametrize(
    ("smiles", "bracket"), [("CC", "[CH3][CH3]"), ("C[NH3+]", "C[N+]([H])([H])[H]"), ("O", "[OH2]")]
)
def test_how_hydrogens_are_written_makes_no_difference(smiles: str, bracket: str) -> None:
    plain, written = (ligand_features(read_ligand(text).mol) for text in (smiles, bracket))
    np.testing.assert_array_equal(plain, written)


def test_the_hydrogen_of_a_stereocentre_counts_as_explicit() -> None:
    features = ligand_features(read_ligand("C[C@H](N)O").mol)
    assert (features[1, IMPLICIT], features[1, HYDROGENS]) == (0, 1)
    assert (features[0, IMPLICIT], features[0, HYDROGENS]) == (3, 3)


# Residues and protein atoms


def test_residues() -> None:
    assert len(RESIDUES) == 37
    assert [residue_feature(name) for name in ("ALA", "VAL", "GLZ", "MSE", "", "ala")] == [0, 19, 36, 37, 37, 37]


def test_protein_atoms() -> None:
    found = protein_atom_features(
        ["ALA", "TYR", "MSE", "HIS", "ZN"], ["C", "O", "SE", "", "ZN"], ["CA", "OH", "SE", "HD1", "ZN"]
    )
    other = [size - 1 for size in PROTEIN_ATOM_FEATURE_SIZES]
    expected = [
        [0, 5, ATOM_NAME_STEMS.index("CA"), ATOM_NAMES.index("CA")],
        [18, 7, ATOM_NAME_STEMS.index("OH"), ATOM_NAMES.index("OH")],
        [37, 118, other[2], other[3]],
        [8, 118, other[2], other[3]],
        other,
    ]
    np.testing.assert_array_equal(found, expected)
    assert protein_atom_features([], [], []).shape == (0, 4)


def test_backbone_atoms_have_stems_of_their_own() -> None:
    found = protein_atom_features(["GLY"] * 3, ["N", "C", "O"], ["N", "C", "O"])[:, 2]
    np.testing.assert_array_equal(found, [ATOM_NAME_STEMS.index(stem) for stem in ("N*", "C*", "O*")])
