"""Proteins: what is kept, dropped, renamed and said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.errors import RequestError
from domains.docking.chemistry.protein import Protein, atom_arrays, read_protein
from domains.docking.chemistry.residues import is_amino_acid, kind, letter, parent
from tests.protein_support import BACKBONE, REAL_PROTEIN, atom_line, peptide, residue

Reader = Callable[[str], Protein]
FULL = (*BACKBONE, "CB")
REAL = read_protein(REAL_PROTEIN)


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    def _read(text: str) -> Protein:
        (tmp_path / "a.pdb").write_text(text)
        return read_protein(tmp_path / "a.pdb")

    return _read


def het(name: str, number: str, atoms: str = "C1", element: str | None = None, record: str = "HETATM") -> str:
    """A small molecule well away from the chains."""
    place = (0.0, 40.0 + int(number), 0.0)
    lines = [atom_line(atom, name, "A", number, place, record=record, element=element) for atom in atoms.split()]
    return "\n".join(lines) + "\n"


def test_the_real_protein_is_understood() -> None:
    assert (REAL.n_residues, REAL.n_atoms, REAL.label(0)) == (126, 960, "SER A 1")
    assert REAL.chain_sequences()["A"].startswith("SVKSEYAEAAAVGQEAV")
    assert REAL.notes == ("residues without some of their side-chain atoms: GLU A 51, GLU A 102, GLN A 106, LYS A 124",)
    first = [REAL.atom_names[k] for k in np.flatnonzero(REAL.residue == 0)]
    assert first == ["N", "CA", "C", "O", "CB", "OG"]


def test_insertion_codes_negative_numbers_and_several_chains(read: Reader) -> None:
    text = residue("ALA", "A", "-5", 0) + residue("SER", "A", "52", 1, (*FULL, "OG")) + residue("ASP", "A", "52A", 2)
    protein = read(text + peptide("GLY TRP", "B", 52, row=15.0))
    assert [protein.label(i) for i in range(5)] == ["ALA A -5", "SER A 52", "ASP A 52A", "GLY B 52", "TRP B 53"]
    assert protein.chain_sequences() == {"A": "ASD", "B": "GW"}
    assert protein.report.gaps == ()


def test_a_chain_keeps_its_place_where_its_parts_lie_apart(read: Reader) -> None:
    protein = read(peptide("ALA GLY") + peptide("TRP", "B", row=15.0) + residue("SER", "A", "3", 2))
    assert protein.chain_sequences() == {"A": "AGS", "B": "W"}


def test_repeated_numbers_make_a_second_chain(read: Reader) -> None:
    """As in files of simulations, which have one blank chain name."""
    protein = read(peptide("ALA GLY SER", " ") + peptide("ALA TRP SER LYS", " ", row=15.0))
    assert protein.chain_sequences() == {"": "AGS", "_2": "AWSK"}
    assert protein.label(0) == "ALA 1"
    assert protein.report.renamed == ("_2 from ALA 1",)
    assert len(set(zip(protein.chains, protein.numbers, strict=True))) == 7


def test_the_conformer_with_the_highest_occupancy_is_taken_whole(read: Reader) -> None:
    def protein(a: float, b: float) -> Protein:
        sides = [residue("SER", "A", "2", 1 + s, ("CB", "OG"), alt=x, occupancy=o) for x, o, s in alternatives(a, b)]
        return read(peptide("ALA") + residue("SER", "A", "2", 1, BACKBONE) + "".join(sides))

    def alternatives(a: float, b: float) -> list[tuple[str, float, float]]:
        return [("A", a, 0.0), ("B", b, 0.01)]

    moved = 0.038
    for a, b, expected in [(0.6, 0.4, "A"), (0.4, 0.6, "B"), (0.5, 0.5, "A"), (0.0, 0.0, "A")]:
        found = protein(a, b)
        shift = moved if expected == "B" else 0.0
        np.testing.assert_allclose(found.positions[-2:, 0], np.array([1.2, 0.0]) + 3.8 + shift, atol=1e-9)
        assert found.atom_names[-6:] == ("N", "CA", "C", "O", "CB", "OG")
        assert found.report.alternates == (f"SER A 2 ({expected} of A/B)",)


def test_occupancies_count_over_the_whole_residue_and_atoms_never_mix(read: Reader) -> None:
    """CB alone would choose A, OG alone B; B has more in all."""
    text = peptide("ALA") + residue("SER", "A", "2", 1, BACKBONE)
    for atom, a, b in [("CB", 0.6, 0.4), ("OG", 0.1, 0.9)]:
        text += residue("SER", "A", "2", 1, (atom,), alt="A", occupancy=a)
        text += residue("SER", "A", "2", 1.01, (atom,), alt="B", occupancy=b)
    np.testing.assert_allclose(read(text).positions[-2:, 0], np.array([1.2, 0.0]) + 3.838, atol=1e-9)


def test_a_conformer_without_backbone_is_passed_over(read: Reader) -> None:
    text = residue("SER", "A", "1", 0, FULL, alt="A", occupancy=0.3)
    text += residue("SER", "A", "1", 0, ("CB", "OG"), alt="B", occupancy=0.9) + residue("ALA", "A", "2", 1)
    assert read(text).report.alternates == ("SER A 1 (A of A/B)",)


def test_two_residues_at_one_place_give_the_likelier_one(read: Reader) -> None:
    text = peptide("GLY") + residue("SER", "A", "2", 1, alt="A", occupancy=0.3)
    protein = read(text + residue("ALA", "A", "2", 1, alt="B", occupancy=0.7) + residue("TRP", "A", "3", 2))
    assert protein.names == ("GLY", "ALA", "TRP")
    assert protein.report.alternates == ("ALA A 2 (B of A/B)",)


def test_conformers_in_blocks_are_one_residue(read: Reader) -> None:
    blocks = [
        residue(name, "A", str(k + 1), k, FULL, alt=alt, occupancy=occupancy)
        for alt, occupancy in (("A", 0.2), ("B", 0.8))
        for k, name in enumerate(("ALA", "SER"))
    ]
    protein = read("".join(blocks))
    assert protein.names == ("ALA", "SER")
    assert protein.report.alternates == ("ALA A 1 (B of A/B)", "SER A 2 (B of A/B)")


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
@pytest.mark.parametrize(
    ("name", "feature", "code", "said"),
    [
        ("MSE", "MET", "M", True), ("CSO", "CYS", "C", True), ("HYP", "PRO", "P", True), ("MLY", "LYS", "K", True),
        ("SEP", "SEP", "S", True), ("TPO", "TPO", "T", True), ("PTR", "PTR", "Y", True), ("SEC", "CYS", "U", True),
        ("HID", "HID", "H", True), ("HIE", "HIE", "H", True), ("HIP", "HIP", "H", True), ("CYX", "CYX", "C", True),
        ("HSD", "HIS", "H", True), ("ASH", "ASP", "D", True), ("GLH", "GLU", "E", True), ("LYN", "LYS", "K", True),
        ("DAL", "ALA", "A", True), ("UNK", "UNK", "-", False), ("QQQ", "QQQ", "-", False), ("ASX", "ASX", "B", False),
    ],
)  # fmt: skip
def test_modified_residues_in_a_chain(
    read: Reader, record: str, name: str, feature: str, code: str, said: bool
) -> None:
    protein = read(peptide("ALA") + residue(name, "A", "2", 1, record=record) + residue("TRP", "A", "3", 2))
    assert protein.names == ("ALA", feature, "TRP")
    assert protein.chain_sequences() == {"A": f"A{code}W"}
    changed, same = protein.report.modified, protein.report.variants
    assert [text.split(" (")[0] for text in (same if feature == name else changed)] == ([f"{name} A 2"] if said else [])
    assert () in (changed, same)
    assert protein.report.unknown == (() if said else (f"{name} A 2",))


def test_the_file_knows_the_parent_of_a_residue_that_no_table_has(read: Reader) -> None:
    text = peptide("ALA") + residue("QQQ", "A", "2", 1, record="HETATM")
    assert read("MODRES 1ABC QQQ A    2  TRP  SOMETHING\n" + text).names == ("ALA", "TRP")
    assert read("MODRES 1ABC QQQ A    2  XYZ  SOMETHING\n" + text).names == ("ALA", "QQQ")


def test_selenomethionine_becomes_methionine_with_its_sulphur(read: Reader) -> None:
    protein = read(peptide("ALA") + residue("MSE", "A", "2", 1, (*FULL, "CG", "SE", "CE"), record="HETATM"))
    assert protein.atom_names[-3:] == ("CG", "SD", "CE")
    assert protein.elements[-3:] == ("C", "S", "C")
    assert atom_arrays(protein)["features"][-2].tolist() == [12, 15, 20, 35]  # MET, sulphur, SD, SD


def test_everything_else_is_counted_or_named(read: Reader) -> None:
    text = peptide() + residue("ASP", "A", "4", 3, ("N", "CA", "O", "CB"))
    text += residue("GLU", "A", "300", 30, row=30.0, record="HETATM")  # free amino acid
    text += (
        het("HOH", "401", "O") + het("WAT", "402", "O") + het("NA", "403", "NA", "NA") + het("CL", "404", "CL", "CL")
    )
    text += het("ZN", "405", "ZN", "ZN") + het("CA", "406", "CA", "CA") + het("HEM", "407", "C1 C2")
    text += het("LIG", "408", "C1 C2") + het("NAG", "409", "C1") + het("GOL", "410", "C1") + het("ACE", "411", "C1")
    text += het("DA", "412", "P", record="ATOM") + het("SO4", "413", "S")
    report = read(text).report
    assert (report.residues, report.waters, report.ions) == (3, 2, 2)
    assert report.incomplete == ("ASP A 4",)
    assert report.metals == ("ZN A 405", "CA A 406")
    assert report.cofactors == ("HEM A 407",)
    assert report.ligands == ("GLU A 300", "LIG A 408")
    assert report.sugars == ("NAG A 409",)
    assert report.additives == ("GOL A 410", "SO4 A 413")
    assert report.caps == ("ACE A 411",)
    assert report.nucleotides == ("DA A 412",)
    said = "\n".join(report.sentences())
    for words in (
        "waters removed: 2",
        "metals, not part of the receptor (the model cannot see them): ZN A 405, CA A 406",
    ):
        assert words in said


def test_hydrogens_deuterium_and_doubled_atoms_are_dropped(read: Reader) -> None:
    text = residue("ALA", "A", "1", 0, (*FULL, "H", "HA")) + residue("ALA", "A", "1", 0.1, ("CB",))
    text += atom_line("1HB", "ALA", "A", "1", (1.0, 2.0, 2.0), element=" ") + "\n"
    text += atom_line("D2", "ALA", "A", "1", (1.0, 2.0, 2.5)) + "\n"
    protein = read(text + residue("SER", "A", "2", 1))
    assert protein.atom_names[:5] == FULL
    assert (protein.report.hydrogens, protein.report.duplicates) == (4, 1)
    assert protein.positions[4, 0] == 1.2


def test_element_columns_that_lie_are_not_believed(read: Reader) -> None:
    """Calcium for C-alpha, line numbers of old files, atom types of AutoDock."""
    lines = peptide().splitlines()
    for column in ("CA", " 7", "OA", "HD", "  ", "NA"):
        protein = read("\n".join(line[:76] + column for line in lines))
        assert "".join(protein.elements) == "NCCOC" + "NCCO" + "NCCOC"


@pytest.mark.parametrize("value", ["     nan", "     inf", "   1.0e9", "9999.999"])
def test_impossible_coordinates_name_the_residue(read: Reader, value: str) -> None:
    with pytest.raises(RequestError, match=r"a\.pdb: residue GLY A 2: atom CA .*impossible coordinates"):
        read(peptide().replace("   5.000   0.830", f"{value}   0.830"))
    water = het("HOH", "401", "O").replace("   0.000", value, 1)
    assert read(peptide() + water).report.waters == 1  # dropped anyway


def test_missing_atoms_written_as_zeros_name_the_residue(read: Reader) -> None:
    text = residue("ALA", "A", "1", 20) + residue("ALA", "A", "2", 21)
    last = text.splitlines()[-1]
    with pytest.raises(RequestError, match=r"residue ALA A 2: atom CB at .* far from its C-alpha"):
        read(text.replace(last, last[:30] + "   0.000" * 3 + last[54:]))
    zeros = "\n".join(line[:30] + "   0.000" * 3 + line[54:] for line in peptide().splitlines())
    with pytest.raises(RequestError, match=r"residue ALA A 1: atom N .*lies on its C-alpha"):
        read(zeros)


def test_nanometres_are_noticed(read: Reader) -> None:
    def shrunk(line: str) -> str:
        return line[:30] + "".join(f"{float(line[k : k + 8]) / 10:8.3f}" for k in (30, 38, 46)) + line[54:]

    with pytest.raises(RequestError, match=r"0.15 A long in the median.*in Angstrom"):
        read("\n".join(shrunk(line) for line in peptide().splitlines()))


NUCLEIC = "".join(het(name, str(k), "P C1'", record="ATOM") for k, name in enumerate(("DA", "DC", "DG"), start=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NUCLEIC, "no protein residue .*found: nucleotides .3."),
        (het("HOH", "1", "O") + het("HOH", "2", "O"), "found: waters .2."),
        (het("LIG", "1", "C1 C2") + het("ATP", "2", "N1"), "found: ligands .1., cofactors .1."),
        (residue("GLU", "A", "1", 0, record="HETATM"), r"found: ligands \(1\)"),
        (residue("ALA", "A", "1", 0, ("H", "HA")), "found: no heavy atoms"),
        ("".join(residue("ALA", "A", str(k), k, ("CA",)) for k in range(9)), r"C-alpha-only model \(9 residues\)"),
        ("".join(residue("ALA", "A", str(k), k, ("CA", "CB")) for k in range(9)), r"found: incomplete \(9\)"),
    ],
    ids=["nucleic acid", "waters", "ligands", "free amino acid", "hydrogens", "trace", "no backbone"],
)
def test_files_without_protein_say_what_they_have(read: Reader, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(text)


def test_a_chain_written_as_hetatm_is_still_a_chain(read: Reader) -> None:
    assert read(peptide().replace("ATOM  ", "HETATM")).chain_sequences() == {"A": "AGS"}


def test_breaks_short_side_chains_and_second_copies_are_told(read: Reader) -> None:
    text = peptide("ALA GLY") + residue("LYS", "A", "9", 8) + residue("ALA", "B", "1", 0)
    report = read(text).report
    assert report.gaps == ("GLY A 2 to LYS A 9",)
    assert report.truncated == ("LYS A 9",)
    assert report.coincident == ("ALA B 1",)


def test_names_have_the_meaning_of_the_field() -> None:
    assert [parent(name) for name in ("ALA", "MSE", "HIE", "ATP", "UNK")] == ["ALA", "MET", "HIS", None, None]
    assert [letter(name, parent(name)) for name in ("TRP", "KCX", "PYL", "XXX")] == ["W", "K", "O", "-"]
    assert [is_amino_acid(name) for name in ("UNK", "CSO", "HEM", "HOH")] == [True, True, False, False]
    assert kind("K", True, ["K"], ["K"]) == "ions"
    assert kind("UNX", True, ["UNK"], ["X"]) == "ligands"
