"""The protein as an RDKit molecule with bonds, charges and hydrogens: for force fields and scoring functions."""

from dataclasses import replace

from rdkit import Chem, rdBase
from rdkit.Chem.rdchem import BondType

from core.errors import DataError
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.protein import Protein
from domains.docking.chemistry.residues import parent

# Side chains and chain ends that are charged at pH 7; an amino end is left neutral, for it may be a gap in the chain.
CHARGES = {("ASP", "OD2"): -1, ("GLU", "OE2"): -1, ("LYS", "NZ"): 1, ("ARG", "NH2"): 1}
NEUTRAL = frozenset({"ASH", "ASPH", "GLH", "GLUH", "LYN", "ARN"})  # names that say so


def protonated(protein: Protein) -> Chem.Mol:
    """All heavy atoms of the protein in their order, then hydrogens where ideal geometry puts them, Angstrom.

    Bond orders are those of the standard residue (its parent's, for HIE or MSE); aspartate, glutamate, lysine, arginine
    and the carboxylate at the end are charged unless the name says otherwise; histidine is
    neutral with its hydrogen on NE2. Hydroxyl hydrogens point where they happen to. Crops and gaps end in hydrogens.
    Raises DataError where RDKit does not take the protein.
    """
    plain = replace(protein, names=tuple(parent(name) or name for name in protein.names))
    with rdBase.BlockLogs():
        mol = Chem.MolFromPDBBlock(pdb_block(plain), sanitize=False, removeHs=False)
        if mol is None or mol.GetNumAtoms() != protein.n_atoms:
            read = 0 if mol is None else mol.GetNumAtoms()
            raise DataError(f"RDKit takes {read} of the {protein.n_atoms} atoms of the protein")
        mol = _without_contacts(mol, protein)
        _charge(mol, protein, plain.names)
        try:
            Chem.SanitizeMol(mol)
            return Chem.AddHs(mol, addCoords=True)
        except (ValueError, RuntimeError) as error:
            raise DataError(f"RDKit cannot make sense of the protein: {error}") from error


def _without_contacts(mol: Chem.Mol, protein: Protein) -> Chem.Mol:
    """RDKit bonds whatever is near; between residues only peptide bonds to the next one and disulphides are."""
    editable = Chem.RWMol(mol)
    for bond in mol.GetBonds():
        first, last = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        names = protein.atom_names[first], protein.atom_names[last]
        step = protein.residue[last] - protein.residue[first]
        if not (step == 0 or names == ("SG", "SG") or (step == 1 and names == ("C", "N"))):
            editable.RemoveBond(first, last)
    return editable.GetMol()


def _charge(mol: Chem.Mol, protein: Protein, parents: tuple[str, ...]) -> None:
    for atom, residue, name in zip(mol.GetAtoms(), protein.residue.tolist(), protein.atom_names, strict=True):
        charge = -1 if name == "OXT" else CHARGES.get((parents[residue], name), 0)
        acid = charge < 0 and (atom.GetDegree() != 1 or atom.GetBonds()[0].GetBondType() != BondType.SINGLE)
        if charge and not acid and protein.names[residue] not in NEUTRAL:
            atom.SetFormalCharge(charge)
