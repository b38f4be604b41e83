"""What a residue name means: its parent amino acid, its letter, and what kind of molecule the rest of a file is."""

from collections.abc import Iterable
from functools import cache

import gemmi
from Bio.Data.PDBData import protein_letters_1to3, protein_letters_3to1, protein_letters_3to1_extended

from domains.docking.chemistry.features import RESIDUES


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNKNOWN_LETTER = "-"  # what the authors gave their language model for a residue they did not know
WATERS = _words("HOH WAT DOD H2O TIP TIP3 TP3 TP4 TP5 T3P T4P SOL SPC OH2")
CAPS = _words("ACE FOR NH2 NME NMA NHE")
COFACTORS = _words(
    "HEM HEA HEB HEC HEO SRM CLA CHL BCL BPH PHO NAD NAI NAP NDP FAD FDA FMN ADP ATP AMP GDP GTP GNP ANP ACP APC AGS "
    "SAM SAH COA ACO PLP PMP TPP TDP BTN LPA B12 COB CNC H4B THG FOL MTE MGD PQQ SF4 FES F3S GSH PNS PN"
)
SIMPLE_IONS = _words("Li Na K Rb Cs F Cl Br I")
# Protonation states and redox states that force fields name; CCD gives some of these names to other molecules.
VARIANTS = {
    "ASH": "ASP", "ASPH": "ASP", "GLH": "GLU", "GLUH": "GLU", "LYN": "LYS", "ARN": "ARG", "TYM": "TYR",
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "CYS2": "CYS",
    "SEC": "CYS", "PYL": "LYS",
}  # fmt: skip
RARE_LETTERS = {"SEC": "U", "PYL": "O", "ASX": "B", "GLX": "Z"}
# Selenium stands where the parent has sulphur.
SELENIUM = {"MSE": "SD", "SEC": "SG"}
# Heavy atoms of a whole residue inside a chain (without OXT).
HEAVY_ATOMS = {
    "GLY": 4, "ALA": 5, "SER": 6, "CYS": 6, "PRO": 7, "VAL": 7, "THR": 7, "ASP": 8, "ASN": 8, "LEU": 8, "ILE": 8,
    "MET": 8, "GLU": 9, "GLN": 9, "LYS": 9, "HIS": 10, "PHE": 11, "ARG": 11, "TYR": 12, "TRP": 14,
}  # fmt: skip


@cache
def parent(name: str) -> str | None:
    """The standard amino acid that a residue is or derives from (MSE: MET), None where none is known."""
    if name in HEAVY_ATOMS:
        return name
    if name in VARIANTS:
        return VARIANTS[name]
    code = protein_letters_3to1_extended.get(name, "")
    if not code:
        about = gemmi.find_tabulated_residue(name)
        code = about.one_letter_code.upper() if about.is_amino_acid() else ""
    found = protein_letters_1to3.get(code)
    return found.upper() if found else None


def feature_name(name: str, known_parent: str | None) -> str:
    """The name that the networks are given: as it is where their vocabulary has it, else its parent's."""
    return name if name in RESIDUES or known_parent is None else known_parent


def letter(name: str, known_parent: str | None) -> str:
    """One-letter code of the residue or its parent, ``-`` where unknown."""
    return RARE_LETTERS.get(name) or protein_letters_3to1.get(known_parent or "", UNKNOWN_LETTER)


@cache
def is_amino_acid(name: str) -> bool:
    """Whether the name is that of an amino acid, standard or not (UNK is one)."""
    return parent(name) is not None or name in RESIDUES or gemmi.find_tabulated_residue(name).is_amino_acid()


@cache
def atom_element(residue: str, atom: str, element: str) -> str:
    """Element symbol ("C", "Se"), "H" also for deuterium.

    In amino acids of the vocabulary the atom's name tells it: element columns may hold charges, atom types or, in old
    files, line numbers, and CA there is no calcium. Elsewhere the element given counts, the name where it is none.
    """
    initial = atom.lstrip("0123456789'\"")[:1].upper()
    if (residue in RESIDUES or residue in VARIANTS) and initial in tuple("CNOSPHD"):
        return "H" if initial == "D" else initial
    symbol = element.strip().capitalize()
    if gemmi.Element(symbol).atomic_number == 0:
        symbol = "Se" if atom.upper() == "SE" else initial
    return "H" if symbol == "D" else symbol


def kind(name: str, hetero: bool, atoms: Iterable[str], elements: Iterable[str]) -> str:
    """What a monomer outside the protein chains is.

    One of waters, ions (alkali and halide), metals, caps, additives (buffer and crystallisation agents), sugars,
    nucleotides, cofactors, incomplete (an amino acid), ligands.
    """
    about = gemmi.find_tabulated_residue(name)
    names, symbols = set(atoms), list(elements)
    lone = symbols[0] if len(symbols) == 1 else ""
    incomplete = is_amino_acid(name) and not names >= {"N", "CA", "C"} and (not hetero or "CA" in names)
    rules = {
        "waters": name in WATERS or about.is_water(),
        "ions": lone in SIMPLE_IONS,
        "metals": gemmi.Element(lone).is_metal,
        "caps": name in CAPS,
        "nucleotides": about.is_nucleic_acid() or (not hetero and names >= {"C1'", "C4'"}),
        "sugars": about.kind in (gemmi.ResidueKind.PYR, gemmi.ResidueKind.KET),
        "additives": about.kind == gemmi.ResidueKind.BUF,
        "cofactors": name in COFACTORS,
        "incomplete": incomplete,
    }
    return next((group for group, holds in rules.items() if holds), "ligands")
