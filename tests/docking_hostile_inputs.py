"""Odd and hostile inputs for docking, each with the outcome that a user must get."""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rdkit import Chem
from rdkit.Chem import AllChem

from tests.ligand_support import BLOCK, MOL2, PDBQT, SMILES, pdb_text, with_hydrogens
from tests.protein_support import BACKBONE, PLACES, as_cif, atom_line, peptide, real_text, residue

Content = str | bytes | Callable[[], str]
DOCKED = "docked"
HELIX = peptide("ALA GLY SER LEU LYS GLU PHE TRP HIS ASP VAL TYR")  # named for brevity; it is straight
AMINE = "NCCc1ccccc1"
HTML = "<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


@dataclass(frozen=True)
class Case:
    """One row of the table. outcome: ``docked`` or the stage at which it fails; says: pattern that the notes of the
    result, or the reason, must have; files: written beside the table; more: other columns; folder: of its results
    where that is not just the name of the case."""

    outcome: str
    says: str = ""
    protein: str = "good.pdb"
    ligand: str = AMINE
    files: Mapping[str, Content] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""


def protein(content: Content, outcome: str, says: str = "", name: str = "p.pdb", **more: str) -> Case:
    return Case(outcome, says, name, AMINE, {name: content}, more)


def ligand(content: Content, outcome: str, says: str = "", name: str = "l.sdf", **more: str) -> Case:
    return Case(outcome, says, "good.pdb", name, {name: content}, more)


def called(name: str, folder: str) -> Case:
    """A complex of this name, which must be docked into this folder."""
    return Case(DOCKED, more={"complex_name": name}, folder=folder)


def smiles(text: str, outcome: str, says: str = "", **more: str) -> Case:
    return Case(outcome, says, ligand=text, more=more)


def water(number: int) -> str:
    return atom_line("O", "HOH", "W", str(number), (5.0 * number, 9.0, 0.0), record="HETATM") + "\n"


def moved(pdb: str, column: int, text: str) -> str:
    """The first atom with another number in a coordinate column."""
    first, rest = pdb.split("\n", 1)
    return f"{first[:column]}{text:>8}{first[column + 8 :]}\n{rest}"


def only(pdb: str, *atoms: str) -> str:
    return "\n".join(line for line in pdb.split("\n") if line[12:16].strip() in atoms)


def without(pdb: str, number: int, atom: str) -> str:
    """The file without one atom of one residue."""
    lines = pdb.split("\n")
    return "\n".join(x for x in lines if (x[22:26].strip(), x[12:16].strip()) != (str(number), atom))


def models(count: int) -> str:
    parts = [f"MODEL     {k:4d}\n{peptide('ALA GLY SER LEU', row=0.1 * k)}ENDMDL\n" for k in range(1, count + 1)]
    return "".join(parts) + "END\n"


def nucleic() -> str:
    atoms = {"P": (0.0, 0.0, 0.0), "C4'": (2.0, 1.0, 0.0), "C1'": (3.0, 1.5, 1.0), "N9": (4.2, 1.5, 1.2)}
    return "".join(
        atom_line(atom, "DA", "A", str(k), (x + 6 * k, y, z)) + "\n"
        for k in range(1, 9)
        for atom, (x, y, z) in atoms.items()
    )


def bound_copies() -> str:
    """The protein with two copies of a ligand beside it."""
    mol = with_hydrogens()
    lines = []
    for copy, shift in enumerate((4.0, 9.0)):
        for atom, (x, y, z) in zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True):
            name = f"{atom.GetSymbol()}{atom.GetIdx()}"
            xyz = (x + 5, y + shift, z)
            lines.append(atom_line(name, "LIG", "X", str(copy + 1), xyz, record="HETATM", element=atom.GetSymbol()))
    return HELIX + "\n".join(lines) + "\n"


def large() -> str:
    """10,000 residues as dense as a protein: 20 chains of 20 strands of 25, strands and chains 6.5 Angstrom apart."""
    lines = []
    for number in range(10_000):
        chain, strand, place = number // 500, number // 25 % 20, number % 25
        for atom in BACKBONE:
            x, y, z = PLACES[atom]
            xyz = (x + 3.8 * place, y + 6.5 * strand, z + 6.5 * chain)
            lines.append(atom_line(atom, "GLY", "ABCDEFGHIJKLMNOPQRST"[chain], str(number % 500 + 1), xyz))
    return "\n".join(lines) + "\n"


def block(text: str, *, flat: bool = False, hydrogens: bool = True) -> str:
    """MOL block of a SMILES, with coordinates made for it."""
    mol = Chem.AddHs(Chem.MolFromSmiles(text)) if hydrogens else Chem.MolFromSmiles(text)
    if flat:
        AllChem.Compute2DCoords(mol)  # type: ignore[attr-defined]
    else:
        AllChem.EmbedMolecule(mol, randomSeed=1)  # type: ignore[attr-defined]
    return str(Chem.MolToMolBlock(mol))


def shifted(text: str, distance: float) -> str:
    """A MOL block whose atoms lie elsewhere."""
    mol = Chem.MolFromMolBlock(text, removeHs=False)
    conformer = mol.GetConformer()
    for i, (x, y, z) in enumerate(conformer.GetPositions()):
        conformer.SetAtomPosition(i, (x + distance, y, z))
    return str(Chem.MolToMolBlock(mol))


def first_x(text: str, value: str) -> str:
    """A MOL block with another x of its first atom."""
    lines = text.split("\n")
    lines[4] = f"{value:>10}{lines[4][10:]}"
    return "\n".join(lines)


def overlapping() -> str:
    """A MOL block whose second atom lies on the first."""
    lines = BLOCK.split("\n")
    lines[5] = lines[4][:30] + lines[5][30:]
    return "\n".join(lines)


def five_bonds() -> str:
    """A carbon with five carbons around it, with coordinates."""
    atoms = [(0, 0, 0), (1.5, 0, 0), (-1.5, 0, 0), (0, 1.5, 0), (0, -1.5, 0), (0, 0, 1.5)]
    lines = [f"{x:10.4f}{y:10.4f}{z:10.4f} C   0  0  0  0  0  0  0  0  0  0  0  0" for x, y, z in atoms]
    bonds = [f"  1{k:3d}  1  0" for k in range(2, 7)]
    return "\n".join(
        ["five", "  test              3D", "", "  6  5  0  0  0  0  0  0  0  0999 V2000", *lines, *bonds, "M  END", ""]
    )


ALTERNATES = (
    peptide("ALA GLY")
    + residue("SER", "A", "3", 2, alt="A", occupancy=0.6)
    + residue("SER", "A", "3", 2, alt="B", occupancy=0.4, row=0.3)
    + residue("LEU", "A", "4", 3)
)
MIXED = (  # one place, two kinds of residue
    peptide("ALA GLY")
    + residue("SER", "A", "3", 2, alt="A", occupancy=0.3)
    + residue("ALA", "A", "3", 2, alt="B", occupancy=0.7)
    + residue("LEU", "A", "4", 3)
)
INSERTED = "".join(residue("ALA", "A", number, k) for k, number in enumerate(["52", "52A", "52B", "53"]))
NEGATIVE = "".join(residue("ALA", "A", number, k) for k, number in enumerate(["-5", "-4", "0", "1"]))
REPEATED = peptide("ALA GLY SER") + peptide("ALA GLY SER", row=9.0)
MODIFIED = peptide("ALA GLY") + residue(
    "MSE", "A", "3", 2, ("N", "CA", "C", "O", "CB", "CG", "SE", "CE"), record="HETATM"
)
UNKNOWN = peptide("ALA GLY") + residue("XYZ", "A", "3", 2) + residue("SER", "A", "4", 3)
METAL = HELIX + atom_line("ZN", "ZN", "A", "99", (3.0, 6.0, 0.0), record="HETATM", element="ZN") + "\n" + water(1)
CUT = HELIX[: HELIX.index("\n") * 9 + 45]

PROTEINS: dict[str, Case] = {
    "empty file": protein("", "protein", "is empty"),
    "blank file": protein(" \n\n", "protein", "is empty"),
    "cut in a line": protein(CUT, "protein", "no coordinates in columns.*damaged or cut short"),
    "cut between lines": protein("\n".join(HELIX.split("\n")[:22]), DOCKED, "N, CA or C is missing|without some of"),
    "PDB called SDF": protein(HELIX, DOCKED, name="p.sdf"),
    "SDF instead of PDB": protein(BLOCK + "$$$$\n", "protein", "is a ligand file"),
    "HTML instead of PDB": protein(HTML, "protein", "HTML or XML page"),
    "JSON instead of PDB": protein('{"detail": "not found"}', "protein", "JSON"),
    "sequence file": protein(">1abc\nMKVLAAGGSS\n", "protein", "has no atom in it"),
    "binary file": protein(bytes(range(256)), "protein", "binary file"),
    "archive": protein(b"PK\x03\x04rest", "protein", "archive; unpack it first"),
    "damaged gzip": protein(gzip.compress(real_text().encode())[:5000], "protein", "gzip file is damaged", "p.pdb.gz"),
    "gzip without the ending": protein(gzip.compress(HELIX.encode()), DOCKED),
    "folder": Case("protein", "a folder; give one PDB", protein="folder"),
    "no such protein": Case("protein", r"none\.pdb: no such file", protein="none.pdb"),
    "PDB code instead of a file": Case("protein", "6W70: no such file", protein="6W70"),
    "NMR with 20 models": protein(models(20), DOCKED, "20 models; only the first"),
    "only C-alphas": protein(only(HELIX, "CA"), "protein", "C-alpha-only model.*rebuild"),
    "side chains only": protein(only(HELIX, "CB"), "protein", r"no protein residue \(with N, CA and C\)"),
    "one residue without backbone": protein(without(HELIX, 4, "C"), DOCKED, "N, CA or C is missing: LEU A 4"),
    "one residue": protein(residue("ALA", "A", "1", 0), DOCKED),
    "two residues": protein(peptide("ALA GLY"), DOCKED),
    "10,000 residues": protein(large, DOCKED),
    "10,000 residues and a pocket": protein(
        large, DOCKED, name="big.pdb", center_x="9", center_y="0", center_z="0", radius="15"
    ),
    "all HETATM": protein(HELIX.replace("ATOM  ", "HETATM"), DOCKED),
    "ligands only": protein(pdb_text(), "protein", "no protein residue.*found: ligands"),
    "negative numbers": protein(NEGATIVE, DOCKED),
    "repeated numbers": protein(REPEATED, DOCKED, "gives? a residue number twice.*A_2 from ALA A 1"),
    "insertion codes": protein(INSERTED, DOCKED),
    "alternate locations": protein(ALTERNATES, DOCKED, r"alternate locations: SER A 3 \(A of A/B\)"),
    "two residues at one place": protein(MIXED, DOCKED, r"alternate locations: ALA A 3"),
    "modified residues": protein(MODIFIED, DOCKED, "taken as their parent: MSE A 3"),
    "unknown residue": protein(UNKNOWN, DOCKED, "unknown kind.*XYZ A 3"),
    "metals and waters": protein(METAL, DOCKED, "waters removed: 1.*metals, not part of the receptor"),
    "NaN coordinates": protein(moved(HELIX, 30, "nan"), "protein", "residue ALA A 1: atom N.*impossible coordinates"),
    "coordinates of 1e9": protein(
        moved(HELIX, 30, "1.0e9"), "protein", "residue ALA A 1: atom N.*impossible coordinates"
    ),
    "stars": protein(moved(HELIX, 30, "********"), "protein", "no coordinates in columns"),
    "nanometres": protein(
        re.sub(
            r"(?<=^.{30}).{24}", lambda m: "".join(f"{float(x) / 10:8.3f}" for x in m[0].split()), HELIX, flags=re.M
        ),
        "protein",
        "are the coordinates in Angstrom",
    ),
    "all atoms at one place": protein(
        re.sub(r"(?<=^.{30}).{24}", f"{1:8.3f}" * 3, HELIX, flags=re.M), "protein", "lies on its C-alpha"
    ),
    "nucleic acid only": protein(nucleic(), "protein", "no protein residue.*nucleotides"),
    "waters only": protein("".join(water(k) for k in range(1, 9)), "protein", "no protein residue.*waters"),
    "ligand bound twice": protein(
        bound_copies(), DOCKED, "other molecules, not part of the receptor: LIG X 1, LIG X 2"
    ),
    "two copies of the protein": protein(HELIX + HELIX.replace(" A ", " B "), DOCKED, "lie on another one"),
    "broken chain": protein(peptide("ALA GLY") + residue("SER", "A", "9", 8), DOCKED, "breaks in a chain.*GLY A 2"),
    "mmCIF": protein(as_cif(HELIX), DOCKED, name="p.cif"),
    "mmCIF called PDB": protein(as_cif(HELIX), DOCKED),
    "cut mmCIF": protein(as_cif(HELIX)[:-30], "protein", "CIF file is damaged or was cut short", "p.cif"),
    "structure factors": protein("data_r1\nloop_\n_refln.index_h\n1\n", "protein", "structure factors", "p.cif"),
    "UTF-16": protein(HELIX.encode("utf-16"), DOCKED),
    "CRLF": protein(HELIX.replace("\n", "\r\n"), DOCKED),
    "unicode and spaces in the name": protein(HELIX, DOCKED, name="mein Protein Ω (1).pdb"),
    "a long file name": protein(HELIX, DOCKED, name="p" * 250 + ".pdb"),
}

LIGANDS: dict[str, Case] = {
    "empty ligand file": ligand("", "ligand", "is empty"),
    "heading only": ligand("smiles name\n", "ligand", "has no ligand record", "l.smi"),
    "cut SDF": ligand(BLOCK[:400], "ligand", "no 'M  END' line: the record is cut short"),
    "SDF called MOL2": ligand(BLOCK + "$$$$\n", DOCKED, name="l.mol2"),
    "HTML instead of SDF": ligand(HTML, "ligand", "HTML or XML page"),
    "damaged ligand gzip": ligand(gzip.compress(BLOCK.encode())[:15], "ligand", "damaged or was cut short", "l.sdf.gz"),
    "binary ligand": ligand(bytes(range(256)), "ligand", "binary file"),
    "prose": ligand("This is not chemistry.", "ligand", "no known ligand format", "l.txt"),
    "folder as ligand": Case("ligand", "a folder; give one ligand file", ligand="folder"),
    "no such ligand": Case("ligand", r"none\.sdf: no such file", ligand="none.sdf"),
    "neither file nor SMILES": smiles("aspirin", "ligand", "'aspirin' is neither an existing file nor a SMILES"),
    "protein as ligand": Case("ligand", "looks like a protein, not a ligand", ligand="good20.pdb"),
    "CIF as ligand": ligand("data_LIG\nloop_\n", "ligand", "CIF file; convert the ligand to SDF", "l.cif"),
    "SMILES like a path": smiles("C/C=C/C", DOCKED),
    "SMILES named like a path": smiles("CCO ../../etc/passwd", DOCKED),
    "InChI": smiles("InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3", DOCKED),
    "salt": smiles("C[NH3+].[Cl-]", DOCKED, "salt or solvent removed.*Cl-"),
    "mixture": smiles("CCO.CCN", DOCKED, "largest fragment kept: CCN"),
    "only ions": smiles("[Na+].[Cl-]", DOCKED, "metals.*unreliable"),
    "metal complex": smiles("N[Pt](N)(Cl)Cl", DOCKED, "metals.*unreliable"),
    "dative bond": smiles("[NH3]->[Cu+2]", DOCKED, "dative or other unusual bonds"),
    "radical": smiles("C[CH2]", DOCKED, "radical electrons"),
    "isotopes": smiles("C[13CH3]", DOCKED, "isotope labels"),
    "deuterium": smiles("[2H]C([2H])([2H])CO", DOCKED, "3 of them deuterium"),
    "macrocycle": smiles("O=C1CCCCCCCCCCCCCCO1", DOCKED),
    "60 rotatable bonds": smiles("C" * 63, DOCKED),
    "single atom": smiles("C", DOCKED),
    "metal ion": smiles("[Zn+2]", DOCKED, "metals"),
    "two atoms": smiles("[C-]#[O+]", DOCKED),
    "only hydrogen": smiles("[H][H]", "ligand", "no heavy atoms"),
    "ring of 60 atoms": smiles("C1" + "C" * 58 + "1", DOCKED),
    "organometal in two parts": smiles("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", DOCKED, r"removed.*\[Fe\+2\]"),
    "300 fragments": smiles(".".join(["C"] * 300), DOCKED, "largest fragment kept"),
    "no hydrogens": ligand(Chem.MolToMolBlock(Chem.RemoveHs(with_hydrogens())), DOCKED),
    "unknown element": smiles("*CC", DOCKED, "unknown elements"),
    "impossible valence": smiles("CC(C)(C)(C)C", "conformer", "impossible valence.*correct its bonds"),
    "impossible valence with coordinates": ligand(
        five_bonds(), DOCKED, "impossible valence; left as it is.*those of the input are its conformer"
    ),
    "impossible aromatic ring": smiles("c1cccc1", "conformer", "correct its bonds"),
    "charge left out": smiles("CN(C)(C)C", DOCKED, r"charge \+1 given"),
    "charged": smiles("[NH3+]C[C@H](C)C(=O)[O-]", DOCKED),
    "V3000": ligand(Chem.MolToV3KMolBlock(with_hydrogens()) + "$$$$\n", DOCKED),
    "stereo unspecified": smiles("CC(O)C(F)Cl", DOCKED, "unspecified stereocentres"),
    "E/Z unspecified": smiles("FC=CF", DOCKED, "unspecified E/Z"),
    "flat drawing": ligand(block("CC(N)C(=O)O", flat=True), DOCKED, "flat 2-D"),
    "atoms on each other": ligand(overlapping(), DOCKED, "atoms overlap: the nearest two are 0.00"),
    "over 500 atoms": smiles("C" * 501, "ligand", "501 heavy atoms, over the limit of 500"),
    "peptide": smiles("NCC(=O)N[C@@H](C)C(=O)N[C@@H](CO)C(=O)NCC(=O)O", DOCKED),
    "odd MOL2 types": ligand(re.sub(r"(?m)( [CN]\.\S+ )", " Xx.9 ", MOL2), "ligand", "unknown atom types", "l.mol2"),
    "MOL2": ligand(MOL2, DOCKED, name="l.mol2"),
    "PDB without template": ligand(pdb_text(), "ligand", "give the SMILES of the ligand as template", "l.pdb"),
    "PDB with template": ligand(pdb_text(), DOCKED, "those of the template", "l.pdb", template=SMILES),
    "PDBQT with template": ligand(PDBQT, DOCKED, "those of the template", "l.pdbqt", template=SMILES),
    "template that does not fit": ligand(pdb_text(), "ligand", "does not fit the input", "l.pdb", template="CCO"),
    "template that is none": ligand(pdb_text(), "ligand", "template 'xx': not a SMILES", "l.pdb", template="xx"),
    "NaN in the ligand": ligand(first_x(BLOCK, "nan"), "ligand", "atom or bond lines of the MOL block cannot be read"),
    "1e9 in the ligand": ligand(
        first_x(BLOCK, "1.0e9"), "ligand", "atom or bond lines of the MOL block cannot be read"
    ),
    "too far in the ligand": ligand(first_x(BLOCK, "999999.00"), "ligand", r"beyond 100000 Angstrom"),
    "far from the protein": ligand(shifted(BLOCK, 900.0), DOCKED),
    "unicode and spaces in the ligand's name": ligand(BLOCK, DOCKED, name="Ligand β (neu).sdf"),
}

TABLE: dict[str, Case] = {
    "no ligand given": Case("table", "gives no ligand", ligand=""),
    "no protein given": Case("table", "gives no protein", protein=""),
    "sequence only": Case("table", "not predicted here", protein="", more={"protein_sequence": "MKV"}),
    "pocket": Case(DOCKED, protein="real.pdb.gz", ligand="CCO", more={"pocket": "real.sdf"}),
    "pocket far away": smiles(
        "CCO",
        "pocket",
        "no atom of the protein lies.*same frame",
        center_x="900",
        center_y="0",
        center_z="0",
        radius="5",
    ),
    "pocket of half a center": smiles("CCO", "pocket", "center: give three numbers", center_x="1", radius="5"),
    "pocket of words": smiles("CCO", "pocket", "radius.*wide", center_x="1", center_y="1", center_z="1", radius="wide"),
    "pocket without coordinates": Case(
        "pocket", "no 3-D coordinates", files={"ref.smi": "CCO\n"}, more={"pocket": "ref.smi"}
    ),
    "pocket that is missing": Case("pocket", r"no\.sdf: cannot be read: No such file", more={"pocket": "no.sdf"}),
    "a name that climbs": called("../../escape", "escape"),
    "a name from the root": called("/tmp/escape", "tmp_escape"),
    "a name that climbs in Windows": called("..\\..\\escape", "escape_2"),
    "a hidden name": called(".lock", "lock"),
    "a name like an option": called("--overwrite", "overwrite"),
    "a name of ours": called("proteins", "proteins_2"),
    "a file of ours": called("summary.csv", "summary.csv_2"),
    "a device": called("NUL", "complex_NUL"),
    "a name of dots": called("..", "complex"),
    "a long name": called("long" * 100, "long" * 20),
    "a name of any script": called("Протеин 药 β", "Протеин_药_β"),
    "a name": called("twice", "twice"),
    "the same name": called("twice", "twice_2"),
    "the same name in capitals": called("TWICE", "TWICE_3"),
    "pocket that is a protein": Case("pocket", "looks like a protein", more={"pocket": "good20.pdb"}),
}

CASES = {**PROTEINS, **LIGANDS, **TABLE}
