"""Categorical features of ligand atoms and bonds, residues and protein atoms, as DiffDock's networks expect them.

Every feature is an index into a fixed vocabulary (DisCo-Diff, supplement E; the vocabularies are those of the published
networks, so a weight trained there means the same here). Except for flags and chirality, the last index of a vocabulary
stands for everything that is not in it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from rdkit import Chem

HYBRIDIZATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
RING_SIZES = (3, 4, 5, 6, 7, 8)
# Atomic number 1..118, chirality, total degree 0..10, charge -5..5, implicit valence 0..6, hydrogens 0..8, radical
# electrons 0..4, hybridisation, aromatic, number of rings 0..6, then one flag per ring size.
LIGAND_FEATURE_SIZES = (119, 4, 12, 12, 8, 10, 6, 6, 2, 8, 2, 2, 2, 2, 2, 2)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RESIDUES = _words(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL HIP HIE TPO HID LEV MEU PTR GLV "
    "CYT SEP HIZ CYM GLM ASQ TYS CYX GLZ"
)
ATOM_NAME_STEMS = _words("C* CA CB CD CE CG CH CZ N* ND NE NH NZ O* OD OE OG OH OX S* SD SG")
ATOM_NAMES = _words(
    "C CA CB CD CD1 CD2 CE CE1 CE2 CE3 CG CG1 CG2 CH2 CZ CZ2 CZ3 N ND1 ND2 NE NE1 NE2 NH1 NH2 NZ O OD1 OD2 OE1 OE2 OG "
    "OG1 OH OXT SD SG"
)
ONE_LETTER_ELEMENTS = {"H": 1, "B": 5, "C": 6, "N": 7, "O": 8, "F": 9, "P": 15, "S": 16, "K": 19}
ONE_LETTER_ELEMENTS |= {"V": 23, "Y": 39, "I": 53, "W": 74, "U": 92}
# Residue, atomic number, stem of the atom name, atom name.
PROTEIN_ATOM_FEATURE_SIZES = (len(RESIDUES) + 1, 119, len(ATOM_NAME_STEMS) + 1, len(ATOM_NAMES) + 1)

RESIDUE_FEATURE_SIZES = (len(RESIDUES) + 1,)
BOND_KINDS = 4  # single, double, triple, aromatic


def ligand_features(mol: Chem.Mol) -> Int64[np.ndarray, "n 16"]:
    """Features [n, 16] of a sanitised ligand (valences and rings known), one row per atom in the order of the molecule.

    Column sizes are ``LIGAND_FEATURE_SIZES``. A chirality beyond tetrahedral (allene, square planar, ...) counts as
    "other", where the authors' code stops. The chirality column holds RDKit's tag, which is relative to the order of
    the atom's bonds. Isotopes are not seen.
    """
    rings = mol.GetRingInfo()
    rows = [_atom_row(atom, rings) for atom in mol.GetAtoms()]
    return np.array(rows, dtype=np.int64).reshape(-1, len(LIGAND_FEATURE_SIZES))


def bond_graph(mol: Chem.Mol) -> tuple[Int64[np.ndarray, "2 e"], Int64[np.ndarray, " e"]]:
    """Directed bonds [2, 2E] and their kind [2E] (0 single, 1 double, 2 triple, 3 aromatic).

    In RDKit's bond order: bond k = (i, j) gives i->j in column 2k and j->i in column 2k+1. Kinds outside the four have
    no embedding in the networks: quadruple and above count as triple, everything else (dative, ionic, zero order,
    hydrogen, unspecified) as single, so that the atoms stay connected.
    """
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    columns = [pair for i, j in ends for pair in ((i, j), (j, i))]
    kinds = [_bond_kind(bond) for bond in mol.GetBonds()]
    index = np.array(columns, dtype=np.int64).reshape(-1, 2).T.copy()
    return index, np.repeat(np.array(kinds, dtype=np.int64), 2)


def residue_feature(name: str) -> int:
    """Index of a residue name (``ALA``, as in the PDB file, upper case) among 37 known ones; 37 is any other."""
    return _index(RESIDUES, name)


def protein_atom_features(
    residue_names: Sequence[str], elements: Sequence[str], atom_names: Sequence[str]
) -> Int64[np.ndarray, "a 4"]:
    """Features [A, 4] of protein atoms: residue, atomic number - 1, stem of the atom name, atom name.

    ``residue_names``, ``elements`` and ``atom_names`` have one entry per atom. The authors looked up the upper-case
    element column of the PDB file in a table of properly cased symbols, so elements of two letters (SE, ZN) count as
    "other"; only CD is read as carbon. The same is done here whatever the case, because the weights were trained so.
    """
    rows = [
        (
            residue_feature(residue),
            _element(element),
            _index(ATOM_NAME_STEMS, (name + "*")[:2]),
            _index(ATOM_NAMES, name),
        )
        for residue, element, name in zip(residue_names, elements, atom_names, strict=True)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(PROTEIN_ATOM_FEATURE_SIZES))


def _atom_row(atom: Chem.Atom, rings: Chem.RingInfo) -> list[int]:
    index = atom.GetIdx()
    return [
        _range_index(atom.GetAtomicNum(), 1, 118),
        min(int(atom.GetChiralTag()), 3),  # unspecified, clockwise, counter-clockwise, other
        _range_index(atom.GetTotalDegree(), 0, 10),
        _range_index(atom.GetFormalCharge(), -5, 5),
        _range_index(atom.GetNumImplicitHs(), 0, 6),  # RDKit's implicit valence
        _range_index(atom.GetTotalNumHs(), 0, 8),
        _range_index(atom.GetNumRadicalElectrons(), 0, 4),
        _index(HYBRIDIZATIONS, str(atom.GetHybridization())),
        int(atom.GetIsAromatic()),
        _range_index(rings.NumAtomRings(index), 0, 6),
        *(int(rings.IsAtomInRingOfSize(index, size)) for size in RING_SIZES),
    ]


def _bond_kind(bond: Chem.Bond) -> int:
    kind = bond.GetBondType()
    if kind == Chem.BondType.AROMATIC:
        return 3
    higher = (Chem.BondType.TRIPLE, Chem.BondType.QUADRUPLE, Chem.BondType.QUINTUPLE, Chem.BondType.HEXTUPLE)
    return 2 if kind in higher else int(kind == Chem.BondType.DOUBLE)


def _element(symbol: str) -> int:
    upper = symbol.strip().upper()
    return _range_index(ONE_LETTER_ELEMENTS.get("C" if upper == "CD" else upper, 0), 1, 118)


def _index(vocabulary: Sequence[str], word: str) -> int:
    """Position of the word, or the index after the last."""
    return vocabulary.index(word) if word in vocabulary else len(vocabulary)


def _range_index(value: int, low: int, high: int) -> int:
    """Position of the value in low..high, or the index after the last."""
    return value - low if low <= value <= high else high - low + 1
