"""Reading ligands: every format, every kind of molecule that files hold, and what is wrong with them."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from core.errors import RequestError
from domains.docking.chemistry.ligand import Ligand, LigandFailure, ligand_from_mol, read_ligand, read_ligands
from tests.ligand_support import BLOCK, DATA, FORMATS, MOL2, SMILES, pdb_text, with_hydrogens

Write = Callable[[str, str | bytes], Path]


def good(source: str | Path, template: str | None = None) -> list[Ligand]:
    found = list(read_ligands(source, template))
    assert all(isinstance(one, Ligand) for one in found), [str(one) for one in found]
    return [one for one in found if isinstance(one, Ligand)]


def mentions(ligand: Ligand, text: str) -> bool:
    return any(text in note for note in ligand.notes)


# Formats


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_molecule_and_coordinates(kind: str, write: Write) -> None:
    name, content, template = FORMATS[kind]
    (ligand,) = good(write(name, content()), template)
    reference = read_ligand(DATA / "alanine_anilide.sdf")
    assert ligand.smiles == reference.smiles == SMILES
    assert ligand.n_atoms == 12
    if "smiles" in kind:
        assert ligand.coordinates is None
    else:
        match = ligand.mol.GetSubstructMatch(reference.mol, useChirality=True)
        assert ligand.coordinates is not None
        assert reference.coordinates is not None
        ring = sorted(match[7:])  # the two sides of the ring may be swapped
        np.testing.assert_allclose(ligand.coordinates[list(match[:7])], reference.coordinates[:7], atol=2e-3)
        np.testing.assert_allclose(ligand.coordinates[ring].sum(0), reference.coordinates[7:].sum(0), atol=1e-2)
        np.testing.assert_array_equal(ligand.mol.GetConformer().GetPositions(), ligand.coordinates)


def test_a_smiles_string_is_a_source() -> None:
    assert [(one.name, one.smiles) for one in good("OCC  ethyl alcohol ")] == [("ethyl alcohol", "CCO")]
    assert read_ligand("OCC").name == "ligand"


@pytest.mark.parametrize(
    "smiles",
    [
        SMILES, "F/C=C/[C@H](O)C", "CS(=O)(=O)NC", "CCNC(=O)N[C@@H](C)C(N)=O", "O=C1CCCCN1", "CNC(=S)C", "CNC(=N)NC",
        "O=C([O-])c1ccccc1", "O=c1cc[nH]cc1", "C[C@H]1CC[C@@H](C)CC1",
    ],
)  # fmt: skip
def test_an_inchi_is_a_source(smiles: str, write: Write) -> None:
    """Amides come as amides, not as the imidic acids that RDKit makes of them."""
    inchi = str(Chem.MolToInchi(Chem.MolFromSmiles(smiles)))
    expected = read_ligand(smiles).smiles
    ligand = read_ligand(inchi)
    assert (ligand.smiles, ligand.name) == (expected, "ligand")
    assert mentions(ligand, "tautomer") == ("(H" in inchi)
    assert [(one.smiles, one.name) for one in good(write("list", f"{inchi}\tname\n"))] == [(expected, "name")]


def test_text_that_is_no_inchi_is_said() -> None:
    with pytest.raises(RequestError, match="neither an existing file nor a SMILES or InChI"):
        read_ligand("InChI=1S/nonsense")


def test_a_pdb_file_of_several_models_gives_one_ligand_each(write: Write) -> None:
    rows = "\n".join(row for row in pdb_text().split("\n") if row.startswith("HETATM"))
    ligands = good(write("poses.pdb", f"MODEL 1\n{rows}\nENDMDL\nMODEL 2\n{rows}\nENDMDL\n"), SMILES)
    assert [(one.name, one.smiles) for one in ligands] == [("poses", SMILES), ("poses_2", SMILES)]


def test_the_template_picks_its_molecule_out_of_a_pdb_file(write: Write) -> None:
    water = "HETATM   90  O   HOH A   2      20.000  20.000  20.000  1.00  0.00           O  \n"
    (ligand,) = good(write("a.pdb", water + pdb_text()), SMILES)
    assert ligand.smiles == SMILES
    assert mentions(ligand, "1 fragment(s) that are not the template's")


def test_coordinates_win_over_the_stereochemistry_of_the_template(write: Write) -> None:
    (ligand,) = good(write("a.pdb", pdb_text()), SMILES.replace("@", "@@"))
    assert ligand.smiles == SMILES
    assert mentions(ligand, "stereochemistry of the coordinates differs")


# Records and names


def test_names_are_unique(write: Write) -> None:
    path = write("list.smi", "smiles id\nC a\nCC a\nCCC a_2\n# a comment\n\nCCCC a\nCCCCC\n")
    assert [one.name for one in good(path)] == ["a", "a_2", "a_2_2", "a_3", "list_5"]


def test_many_records_of_one_name(write: Write) -> None:
    found = good(write("list.smi", "C x\n" * 500))
    assert len({one.name for one in found}) == 500
    assert found[-1].name == "x_500"


@pytest.mark.parametrize(("title", "encoding"), [("Ωmega-β 药", "utf-8"), ("caf\xe9 \x85", "latin-1")])
def test_names_of_any_script(title: str, encoding: str, write: Write) -> None:
    content = "\n".join([title, *BLOCK.split("\n")[1:]])
    (ligand,) = good(write("a.sdf", content.encode(encoding)))
    assert (ligand.name, ligand.smiles) == (title.strip(), SMILES)


def test_a_broken_record_loses_only_itself(write: Write) -> None:
    atoms, bonds = BLOCK.replace(" 25 25 ", " 25 99 "), BLOCK.replace("  1  2  1", "  1 77  1")
    assert BLOCK not in (atoms, bonds)
    text = "$$$$\n".join([BLOCK, BLOCK[:200] + "\n", atoms, bonds, BLOCK, ""])
    found = list(read_ligands(write("a.sdf", text)))
    assert [type(one) for one in found] == [Ligand, LigandFailure, LigandFailure, LigandFailure, Ligand]
    failure = found[1]
    assert isinstance(failure, LigandFailure)
    assert failure.record == 2
    assert "record 2 (alanine anilide_2): there is no 'M  END' line" in str(failure)


def test_a_broken_smiles_or_mol2_record_loses_only_itself(write: Write) -> None:
    found = list(read_ligands(write("a.smi", "CC a\nC1CC b\nCC(C)(C c\nCCC d\n")))
    assert [type(one) for one in found] == [Ligand, LigandFailure, LigandFailure, Ligand]
    found = list(read_ligands(write("a.mol2", MOL2 + MOL2[:400] + "\n" + MOL2)))
    assert [type(one) for one in found] == [Ligand, LigandFailure, Ligand]


def test_a_gzip_file_cut_short_gives_what_was_whole(write: Write) -> None:
    rng = np.random.default_rng(0)
    text = "".join(f"{BLOCK}> <x>\n{rng.integers(2**60)}\n\n$$$$\n" for _ in range(400))
    packed = gzip.compress(text.encode())
    found = list(read_ligands(write("a.sdf.gz", packed[: len(packed) // 2])))
    assert len(found) > 100
    assert all(isinstance(one, Ligand) for one in found[:-1])
    assert "cut short" in str(found[-1])


def test_the_first_ligand_of_a_file(write: Write) -> None:
    assert mentions(read_ligand(write("a.smi", "C\nCC\n")), "more records")
    with pytest.raises(RequestError, match=r"record 1 .*cannot parse"):
        read_ligand(write("a.smi", "C1CC\nCC\n"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BLOCK[:300], "cut short"),
        ("$$$$\n", "no 'M  END'"),
        (Chem.MolToMolBlock(Chem.Mol()), "no atoms"),
        (BLOCK.replace("   -2.8963", "       nan", 1), "cannot be read"),
        (BLOCK.replace("   -2.8963", "  9.00e+30", 1), "coordinate|cannot be read"),
    ],
)
def test_records_that_are_no_ligands(content: str, reason: str, write: Write) -> None:
    (failure,) = read_ligands(write("a.sdf", content))
    assert isinstance(failure, LigandFailure)
    assert any(part in failure.reason for part in reason.split("|"))


def test_a_template_that_does_not_fit(write: Write) -> None:
    (failure,) = read_ligands(write("a.pdb", pdb_text()), "CCCC")
    assert isinstance(failure, LigandFailure)
    assert "does not fit" in failure.reason


# Molecules

MOLECULES: dict[str, tuple[str, str, str]] = {  # input, SMILES of the ligand, part of a note ("" for no notes)
    "salt": ("[Cl-].C[NH3+]", "C[NH3+]", "salt or solvent removed, largest fragment kept: [Cl-]"),
    "mixture, first of equals": ("CCO.CCN", "CCO", "largest fragment kept: CCN"),
    "ions": ("[Na+].[Cl-]", "[Na+]", "metals (their coordination is not parametrised"),
    "radical": ("C[CH2]", "[CH2]C", "radical electrons: atoms 2"),
    "isotope": ("C[13CH3]", "C[13CH3]", "isotope labels (not seen by the model): atoms 2"),
    "deuterium": ("[2H]C([2H])C", "CC", "2 of them deuterium"),
    "metal": ("N[Pt](N)(Cl)Cl", "[NH2][Pt]([NH2])([Cl])[Cl]", "poses around them are unreliable): atoms 2"),
    "dative bond": ("[NH3]->[Cu+2]", "[NH3]->[Cu+2]", "1 dative or other unusual bonds"),
    "quadruple bond": ("C$C", "C$C", "1 dative or other unusual bonds"),
    "unknown element": ("*CC", "*CC", "unknown elements: atoms 1"),
    "charge left out": ("CN(C)(C)C", "C[N+](C)(C)C", "charge +1 given"),
    "nitro group with five bonds": ("CN(=O)=O", "C[N+](=O)[O-]", ""),
    "impossible valence": ("CC(C)(C)(C)C", "CC(C)(C)(C)C", "impossible valence"),
    "impossible aromatic": ("c1cccc1", "c1cccc1", "no Kekule structure"),
    "hydrogen left out": ("c1ccnc1", "c1cc[nH]c1", "hydrogen given to aromatic nitrogen 4"),
    "stereocentre unspecified": ("CC(O)F", "CC(O)F", "picked at random, by the seed, for all poses): atoms 2"),
    "double bond unspecified": ("FC=CF", "FC=CF", "1 double bonds of unspecified E/Z"),
    "double bond": ("F/C=C/F", "F/C=C/F", ""),
    "one atom": ("C", "C", ""),
    "noble gas": ("[Xe]", "[Xe]", ""),
    "two atoms": ("[C-]#[O+]", "[C-]#[O+]", ""),
    "macrocycle": ("C1" + "C" * 18 + "1", "C1" + "C" * 17 + "C1", ""),
    "long chain": ("C" * 64, "C" * 64, ""),
    "explicit hydrogens": ("[H]C([H])([H])O[H]", "CO", "4 hydrogens removed"),
    "zwitterion": ("[NH3+]CC(=O)[O-]", "[NH3+]CC(=O)[O-]", ""),
}


@pytest.mark.parametrize("kind", MOLECULES)
def test_unusual_molecules_are_read_and_said_to_be_so(kind: str) -> None:
    source, smiles, note = MOLECULES[kind]
    ligand = read_ligand(source)
    assert ligand.smiles == smiles
    assert mentions(ligand, note) if note else not ligand.notes
    assert all(atom.GetAtomicNum() != 1 for atom in ligand.mol.GetAtoms())
    assert len(Chem.GetMolFrags(ligand.mol)) == 1


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [("[H][H]", "no heavy atoms"), ("", "no atoms"), ("C" * 501, "501 heavy atoms, over the limit")],
)
def test_molecules_that_cannot_be_docked(smiles: str, reason: str) -> None:
    (failure,) = read_ligands(smiles)
    assert isinstance(failure, LigandFailure)
    assert reason in failure.reason


def test_the_limit_of_atoms_can_be_set() -> None:
    assert read_ligand("C" * 501, max_heavy_atoms=501).n_atoms == 501
    with pytest.raises(RequestError, match="limit of 5"):
        read_ligand("CCCCCC", max_heavy_atoms=5)


def test_a_flat_drawing_has_no_coordinates_but_keeps_its_stereochemistry(write: Write) -> None:
    mol = Chem.MolFromSmiles("C[C@H](N)O")
    rdDepictor.Compute2DCoords(mol)
    block = Chem.MolToMolBlock(mol)
    for text in (block, block.replace("2D", "  ")):  # not every program says that its drawing is flat
        ligand = read_ligand(write("a.mol", text))
        assert ligand.coordinates is None
        assert ligand.mol.GetNumConformers() == 0
        assert mentions(ligand, "flat 2-D")
        assert ligand.smiles == "C[C@H](N)O"


def test_stereochemistry_comes_from_the_coordinates() -> None:
    mol = with_hydrogens()
    positions = mol.GetConformer().GetPositions()
    mol.GetConformer().SetPositions(np.ascontiguousarray(positions * [1.0, 1.0, -1.0]))
    assert ligand_from_mol(mol).smiles == SMILES.replace("@", "@@")


def test_the_given_molecule_is_left_alone() -> None:
    mol = with_hydrogens()
    before = mol.ToBinary()
    ligand_from_mol(mol)
    assert mol.ToBinary() == before


def test_the_first_conformer_is_used() -> None:
    mol = with_hydrogens()
    second = Chem.Conformer(mol.GetConformer())
    second.SetPositions(np.ascontiguousarray(mol.GetConformer().GetPositions() + 5.0))
    mol.AddConformer(second, assignId=True)
    ligand = ligand_from_mol(mol)
    assert ligand.mol.GetNumConformers() == 1
    np.testing.assert_array_equal(ligand.coordinates, mol.GetConformer(0).GetPositions()[:12])


def test_atoms_that_overlap_are_noted(write: Write) -> None:
    rows = BLOCK.split("\n")
    rows[5] = rows[4][:30] + rows[5][30:]
    assert mentions(read_ligand(write("a.sdf", "\n".join(rows))), "atoms overlap")
