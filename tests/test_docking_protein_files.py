"""Structure files: formats told by content, damage told by name, Biopython and gemmi saying the same."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from rdkit import Chem

from core.errors import RequestError
from domains.docking.chemistry import protein_files
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.pocket import Sphere
from domains.docking.chemistry.protein import Protein, read_protein
from domains.docking.chemistry.protein_files import read_structure_file
from tests.protein_support import BACKBONE, REAL_PROTEIN, as_cif, atom_line, peptide, real_text, residue

SHORT = peptide()
MESSY = (
    "MODRES 1ABC MSE A    2  MET  SELENOMETHIONINE\n"
    + residue("ALA", "A", "-1", 0)
    + residue("MSE", "A", "2", 1, (*BACKBONE, "CB", "CG", "SE", "CE"), record="HETATM")
    + residue("SER", "A", "52", 2, (*BACKBONE, "CB"))
    + residue("SER", "A", "52A", 3)
    + residue("SER", "A", "53", 4, BACKBONE)
    + residue("SER", "A", "53", 4, ("CB", "OG"), alt="A", occupancy=0.4)
    + residue("SER", "A", "53", 4.01, ("CB", "OG"), alt="B", occupancy=0.6)
    + residue("HIS", "A", "54", 5, (*BACKBONE, "CB", "H", "HA"))
    + peptide("GLY LYS", "B", 7, row=12.0)
    + atom_line("ZN", "ZN", "A", "301", (30.0, 9.0, 9.0), record="HETATM", element="ZN")
    + "\n"
    + atom_line("C1", "LIG", "A", "302", (33.0, 9.0, 9.0), record="HETATM")
    + "\n"
    + atom_line("O", "HOH", "B", "401", (36.0, 9.0, 9.0), record="HETATM")
    + "\nEND\n"
)


def fields(protein: Protein) -> tuple[object, ...]:
    """All of a protein but the names of format and reader."""
    arrays = (protein.ca, protein.positions, protein.residue, protein.origin)
    words = (protein.names, protein.chains, protein.numbers, protein.letters, protein.atom_names, protein.elements)
    return (*words, *(array.tolist() for array in arrays), protein.notes)


@pytest.mark.parametrize("text", [SHORT, MESSY, real_text()], ids=["short", "messy", "6w70"])
def test_pdb_and_mmcif_by_biopython_and_by_gemmi_give_one_protein(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pdb").write_text(text)
    (tmp_path / "a.cif").write_text(as_cif(text))
    first = [read_protein(tmp_path / name) for name in ("a.pdb", "a.cif")]
    assert [(p.report.format, p.report.reader) for p in first] == [("PDB", "Biopython"), ("mmCIF", "Biopython")]
    monkeypatch.setattr(protein_files, "_by_biopython", lambda *_, **__: None)
    second = [read_protein(tmp_path / name) for name in ("a.pdb", "a.cif")]
    assert [p.report.reader for p in second] == ["gemmi", "gemmi"]
    for other in (*first[1:], *second):
        assert fields(other) == fields(first[0])


@pytest.mark.parametrize("name", ["a.pdb", "a.cif", "a.ent.gz", "a.txt", "noending", "a.sdf"])
@pytest.mark.parametrize("form", ["pdb", "cif"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_content_decides_and_not_the_name(name: str, form: str, zipped: bool, tmp_path: Path) -> None:
    content = (SHORT if form == "pdb" else as_cif(SHORT)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if zipped else content)
    protein = read_protein(tmp_path / name)
    assert protein.report.format == {"pdb": "PDB", "cif": "mmCIF"}[form]
    assert protein.chain_sequences() == {"A": "AGS"}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text,
        lambda text: "REMARK caf\u00e9\n" + text,
        lambda text: "HEADER    X\n" + "REMARK   1 long\n" * 9000 + text,
        lambda text: "CONECT    1    2\n" + text,
        lambda text: text.replace("ALA", "ala"),
        lambda text: "\n".join(line[:54] for line in text.split("\n")),  # neither occupancy nor element
        lambda text: text.replace("  0.00          ", " *****          "),
    ],
    ids=["dos", "old mac", "byte order mark", "blank lines", "not utf-8", "long header", "conect first", "lower case",
         "54 columns", "no b factor"],
)  # fmt: skip
def test_harmless_oddities_change_nothing(change: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "plain.pdb").write_text(SHORT)
    (tmp_path / "odd.pdb").write_bytes(change(SHORT).encode("latin-1" if "caf" in change(SHORT) else "utf-8"))
    assert fields(read_protein(tmp_path / "odd.pdb")) == fields(read_protein(tmp_path / "plain.pdb"))


def _no_coordinates(text: str) -> str:
    return text.replace("   2.500   0.000   0.000", "************************")


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "only spaces": (b" \n\n ", "is empty"),
    "html": (b"<!DOCTYPE html>\n<html><body>404 ATOM  </body></html>", "HTML or XML page"),
    "xml": (b'<?xml version="1.0"?><PDBx:datablock/>', "HTML or XML page"),
    "binary": (b"\x83\xa7version\0\0\0", "binary file"),
    "zip": (b"PK\x03\x04rest", "is an archive"),
    "xz": (b"\xfd7zXZ\0", "is an archive"),
    "tar": (b"x" * 257 + b"ustar" + b"\0" * 200, "is an archive"),
    "json": (b'{"detail": "not found"}', "JSON"),
    "sdf": (b"name\n\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n$$$$\n", "is a ligand file"),
    "prose": (b"hello, this is a protein", "has no atom"),
    "header only": (b"HEADER    HYDROLASE\nEND\n", "no ATOM or HETATM line"),
    "cut gzip": (gzip.compress(SHORT.encode())[:-30], "damaged or was cut short"),
    "wrong gzip": (b"\x1f\x8b" + b"junk" * 9, "damaged or was cut short"),
    "cut line": (SHORT.encode()[: SHORT.index("2.500") + 2], r"line 3 \(residue ALA A 1, atom C\): no coordinates"),
    "stars": (_no_coordinates(SHORT).encode(), r"line 3 \(residue ALA A 1, atom C\): no coordinates"),
    "cut cif": (as_cif(SHORT).encode()[:-30], "CIF file is damaged or was cut short"),
    "quote in cif": (b"data_x\n_cell.length_a 'unfinished\n", "CIF file is damaged or was cut short"),
    "cif without atoms": (b"data_x\n_entry.id x\n", "no _atom_site table"),
    "component": (b"data_GG2\nloop_\n_chem_comp_atom.atom_id\nC1\n", "a ligand's definition"),
    "reflections": (b"data_r1\nloop_\n_refln.index_h\n1\n", "structure factors"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_structure_is_named(what: str, tmp_path: Path) -> None:
    content, message = HOSTILE[what]
    path = tmp_path / "a.pdb"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        read_protein(path)
    assert str(caught.value).startswith(str(path))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        read_protein(tmp_path / "none.pdb")
    with pytest.raises(RequestError, match="a folder"):
        read_protein(tmp_path)


def test_unknown_text_under_an_unknown_name_is_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("hello")
    with pytest.raises(RequestError, match="no known structure format"):
        read_protein(tmp_path / "a.doc")


@pytest.mark.parametrize(
    "text",
    [
        "MODEL        1\n{0}ENDMDL\nMODEL        2\n{1}ENDMDL\nEND\n",
        "MODEL        1\n{0}MODEL        2\n{1}END\n",
        "{0}END\n{1}END\n",
    ],
)
def test_the_first_of_several_models_is_used_and_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(text.format(SHORT, peptide("TRP TRP")))
    protein = read_protein(tmp_path / "a.pdb")
    assert protein.chain_sequences() == {"A": "AGS"}
    assert protein.report.models == 2
    assert "the file has 2 models; only the first is used" in protein.notes


def test_the_first_of_several_mmcif_models_is_used(tmp_path: Path) -> None:
    text = f"MODEL        1\n{SHORT}ENDMDL\nMODEL        2\n{peptide('TRP TRP')}ENDMDL\nEND\n"
    (tmp_path / "a.cif").write_text(as_cif(text))
    protein = read_protein(tmp_path / "a.cif")
    assert (protein.chain_sequences(), protein.report.models) == ({"A": "AGS"}, 2)


def test_what_biopython_would_lose_is_read_by_gemmi(tmp_path: Path) -> None:
    """Two copies of one chain name; hybrid-36 residue numbers; chain names of two letters; six-digit serials."""
    path = tmp_path / "a.pdb"

    def read(text: str) -> Protein:
        path.write_text(text)
        protein = read_protein(path)
        assert protein.report.reader == "gemmi"
        return protein

    copies = read(SHORT + "TER\n" + peptide(row=20.0))
    assert copies.chain_sequences() == {"A": "AGS", "A_2": "AGS"}
    assert read(SHORT.replace("A   1 ", "AA000 ")).numbers == ("10000", "2", "3")
    two = read(SHORT.replace(" A   ", "BA   ") + peptide(row=20.0).replace(" A   ", "CA   "))
    assert two.chains == ("BA",) * 3 + ("CA",) * 3


def test_six_digit_serials_and_names_of_four_letters_are_repaired(tmp_path: Path) -> None:
    (tmp_path / "plain.pdb").write_text(peptide("HIS GLY SER"))
    (tmp_path / "odd.pdb").write_text(
        peptide("HIS GLY SER").replace("ATOM      1", "ATOM  100000").replace("HIS A", "HISEA")
    )
    assert fields(read_protein(tmp_path / "odd.pdb")) == fields(read_protein(tmp_path / "plain.pdb"))


def test_large_mmcif_files_are_read_by_gemmi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.cif").write_text(as_cif(MESSY))
    small = read_protein(tmp_path / "a.cif")
    monkeypatch.setattr(protein_files, "MAX_BIOPYTHON_CIF_ATOMS", 10)
    large = read_protein(tmp_path / "a.cif")
    assert (small.report.reader, large.report.reader) == ("Biopython", "gemmi")
    assert fields(large) == fields(small)


def test_an_empty_first_model_is_said(tmp_path: Path) -> None:
    water = atom_line("O", "HOH", "A", "1", (0.0, 0.0, 0.0), record="HETATM")
    (tmp_path / "a.pdb").write_text(f"MODEL        1\n{water}\nENDMDL\nMODEL        2\n{SHORT}ENDMDL\n")
    with pytest.raises(RequestError, match=r"found: waters \(1\) \(of its 2 models only the first is read\)"):
        read_protein(tmp_path / "a.pdb")


def test_precise_mmcif_keeps_its_decimals(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(as_cif(SHORT).replace(" 1.2 ", " 1.2345678 ").replace(" 1.200 ", " 1.2345678 "))
    protein = read_protein(tmp_path / "a.cif")
    assert protein.report.reader == "gemmi"
    assert protein.ca[0, 0] == 1.2345678


def test_minimal_mmcif_of_a_structure_predictor(tmp_path: Path) -> None:
    """No author columns, occupancies or B factors; label columns then say chain and number."""
    columns = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id"
    columns += " Cartn_x Cartn_y Cartn_z"
    rows = []
    for serial, line in enumerate(SHORT.splitlines(), start=1):
        atom, name, number = line[12:16].strip(), line[17:20], line[22:26].strip()
        rows.append(f"ATOM {serial} {atom[0]} {atom} . {name} B {number} {line[30:38]} {line[38:46]} {line[46:54]}")
    header = "".join(f"_atom_site.{column}\n" for column in columns.split())
    (tmp_path / "a.cif").write_text(f"data_pred\nloop_\n{header}" + "\n".join(rows) + "\n")
    (tmp_path / "a.pdb").write_text(SHORT)
    cif, pdb = read_protein(tmp_path / "a.cif"), read_protein(tmp_path / "a.pdb")
    assert cif.chain_sequences() == {"B": "AGS"}
    assert cif.numbers == ("1", "2", "3")
    np.testing.assert_array_equal(cif.positions, pdb.positions)


def test_author_numbering_is_kept_in_mmcif(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(as_cif(MESSY))
    protein = read_protein(tmp_path / "a.cif")
    assert protein.numbers == ("-1", "2", "52", "52A", "53", "54", "7", "8")
    assert protein.chains == ("A",) * 6 + ("B",) * 2
    assert protein.label(3) == "SER A 52A"


def test_the_real_file_is_read_line_by_line() -> None:
    file = read_structure_file(REAL_PROTEIN)
    assert (file.format, file.reader, file.models, len(file.rows)) == ("PDB", "Biopython", 1, 960)
    expected = [tuple(float(line[k : k + 8]) for k in (30, 38, 46)) for line in real_text().splitlines()[:960]]
    assert [row.position for row in file.rows] == expected


def test_modified_residues_of_a_file_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(MESSY)
    assert read_structure_file(tmp_path / "a.pdb").parents == {"MSE": "MET"}
    structure = gemmi.read_pdb_string(MESSY)
    structure.setup_entities()
    assert [mod.parent_comp_id for mod in structure.mod_residues] == ["MET"]
    (tmp_path / "a.cif").write_text(as_cif(MESSY))
    assert read_structure_file(tmp_path / "a.cif").parents == {"MSE": "MET"}


# Proteins written as PDB


def again(protein: Protein, folder: Path) -> Protein:
    """Written and read; RDKit has to find the same atoms in the text."""
    text = pdb_block(protein)
    mol = Chem.MolFromPDBBlock(text, sanitize=False, removeHs=False, proximityBonding=False)
    assert [atom.GetSymbol() for atom in mol.GetAtoms()] == list(protein.elements)
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), protein.positions, atol=6e-4)
    (folder / "again.pdb").write_text(text)
    return read_protein(folder / "again.pdb")


@pytest.mark.parametrize("text", [SHORT, MESSY, real_text(), SHORT.replace(" A   ", "     ")])
def test_a_written_protein_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(text)
    protein = read_protein(tmp_path / "a.pdb")
    assert fields(again(protein, tmp_path))[:-1] == fields(protein)[:-1]  # all but the notes


def test_a_written_pocket_is_read_as_it_was(tmp_path: Path) -> None:
    whole = read_protein(REAL_PROTEIN)
    pocket = whole.crop(Sphere(tuple(whole.center), 12.0))
    assert 0 < pocket.n_residues < whole.n_residues
    found = again(pocket, tmp_path)
    assert (found.numbers, found.names, found.atom_names) == (pocket.numbers, pocket.names, pocket.atom_names)


def test_labels_that_pdb_cannot_hold_are_made_to_fit(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(SHORT + "TER\n" + peptide(row=20.0) + peptide("ALA TRP", "B", row=40.0))
    protein = read_protein(tmp_path / "a.pdb")
    assert dict.fromkeys(protein.chains) == dict.fromkeys(("A", "A_2", "B"))
    found = again(protein, tmp_path)
    assert found.chains == (*"AAA", *"CCC", *"BB")  # C is free
    assert found.numbers == protein.numbers
    numbers = ("9999", "10000", "-1234", "10002B", "123456", "5C", "?", "-999")
    found = again(replace(protein, numbers=numbers), tmp_path)
    assert found.numbers == ("9999", "0", "8766", "2B", "3456", "5C", "0", "-999")
    long = replace(protein, names=("LONGNAME", *protein.names[1:]), atom_names=("HO5''", *protein.atom_names[1:]))
    assert pdb_block(long).splitlines()[0].startswith("ATOM      1 HO5' LON A   1 ")


def test_very_large_proteins_keep_all_atoms(tmp_path: Path) -> None:
    """105,000 atoms, 10,050 residues of one chain, 70 chains, a place far below zero."""
    (tmp_path / "a.pdb").write_text(peptide("GLY"))
    one = read_protein(tmp_path / "a.pdb")
    step = np.arange(26_250)
    shifts = np.stack([step % 30, step // 30 % 30, step // 900], axis=1) * 8.0
    places = (one.positions + shifts[:, None]).reshape(-1, 3) - 150.0

    def large(chains: list[str], numbers: list[str]) -> Protein:
        n = len(chains)
        return replace(
            one, names=("GLY",) * n, chains=tuple(chains), numbers=tuple(numbers), letters=("G",) * n,
            ca=places[1 : 4 * n : 4], atom_names=one.atom_names * n, elements=one.elements * n,
            positions=places[: 4 * n], residue=np.repeat(np.arange(n), 4), origin=np.arange(n),
        )  # fmt: skip

    every = large(["A"] * len(step), ["1"] * len(step))
    mol = Chem.MolFromPDBBlock(pdb_block(every), sanitize=False, proximityBonding=False)
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), every.positions, atol=6e-4)
    found = again(large(["A"] * 10_050, [str(number) for number in range(1, 10_051)]), tmp_path)
    assert found.n_residues == 10_050
    assert found.numbers[9_998:10_001] == ("9999", "0", "1")
    assert again(large([f"chain{number}" for number in range(70)], ["1"] * 70), tmp_path).n_atoms == 280
    far = replace(one, positions=one.positions - 2000.0)
    mol = Chem.MolFromPDBBlock(pdb_block(far), sanitize=False)
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), far.positions, atol=0.01)
