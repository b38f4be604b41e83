"""What makes a molecule as it was parsed fit for docking: one fragment, heavy atoms, sanitised, stereo assigned.

Functions take ``notes``, a list to which they add what they changed. Atoms are counted from 1 in notes.
"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem
from scipy.spatial.distance import pdist

from core.errors import RequestError

MAX_COORDINATE = 1e5  # Angstrom
OVERLAP = 0.3  # Angstrom; no two atoms of a real pose are nearer
Repaired = tuple[Chem.Mol, list[str]]  # a copy, notes
COMPLEXED = {*range(21, 31), *range(39, 49), *range(72, 81)}  # transition metals: no mere counter-ions
NON_METALS = {5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86}  # with half-metals


def short_reason(error: Exception) -> str:
    """First line that says something; RDKit's failed assertions hide it below a header."""
    text = str(error)
    violation = re.search(r"Violation\s*\n\s*(.+)", text)
    return (
        violation[1] if violation else next((line.strip() for line in text.splitlines() if line.strip()), repr(error))
    )


def parse_template(smiles: str) -> Chem.Mol:
    """Largest fragment of a SMILES, heavy atoms only. Raises RequestError where it is no molecule."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or not mol.GetNumHeavyAtoms():
            raise RequestError(f"template {smiles!r}: not a SMILES of a molecule")
        return Chem.RemoveAllHs(largest_fragment(mol, []))


def with_template(mol: Chem.Mol, template: Chem.Mol, notes: list[str]) -> Chem.Mol:
    """The fragment of ``mol`` that has the template's atoms and bonds, with its bond orders and charges."""
    if not mol.GetNumConformers():
        raise RequestError("a template needs 3-D input, not SMILES")
    mol = Chem.RemoveAllHs(mol, sanitize=False)
    fragments = list(Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False))
    wanted = template.GetNumAtoms()
    for fragment in fragments:
        if fragment.GetNumAtoms() != wanted:
            continue
        try:
            matched: Chem.Mol = AllChem.AssignBondOrdersFromTemplate(template, fragment)  # type: ignore[no-untyped-call]
        except ValueError:
            continue
        if len(fragments) > 1:
            notes.append(f"{len(fragments) - 1} fragment(s) that are not the template's were removed")
        notes.append("bond orders and charges are those of the template")
        Chem.AssignStereochemistryFrom3D(matched)
        if not matched.HasSubstructMatch(template, useChirality=True):
            notes.append(
                "the stereochemistry of the coordinates differs from the template's; that of the coordinates is kept"
            )
        return matched
    sizes = ", ".join(str(fragment.GetNumAtoms()) for fragment in fragments)
    raise RequestError(f"the template ({wanted} heavy atoms) does not fit the input (fragments of {sizes} heavy atoms)")


def one_conformer(mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
    """Copy with the first conformer only, and with none if that is a flat drawing.

    MOL2 and PDB cannot say that they are flat; there, and in unmarked MOL blocks, z = 0 throughout says so.
    """
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    if not mol.GetNumConformers():
        return copy
    conformer = Chem.Conformer(mol.GetConformers()[0])
    marked = mol.HasProp("_MolFileInfo") and mol.GetProp("_MolFileInfo")[20:22] == "3D"
    drawn = mol.GetNumAtoms() > 1 and not conformer.GetPositions()[:, 2].any() and not marked
    if drawn or not conformer.Is3D():
        notes.append("flat 2-D coordinates: not used")
        return copy
    conformer.SetId(0)
    copy.AddConformer(conformer)
    return copy


def largest_fragment(mol: Chem.Mol, notes: list[str]) -> Chem.Mol:
    """The fragment with most heavy atoms, the first of equal ones; atoms and bonds keep their order."""
    fragments = list(Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False))
    heavy = [fragment.GetNumHeavyAtoms() for fragment in fragments]
    if len(fragments) < 2:
        return mol
    keep = heavy.index(max(heavy))
    others = [Chem.MolToSmiles(fragment) for i, fragment in enumerate(fragments) if i != keep]
    notes.append(f"salt or solvent removed, largest fragment kept: {'.'.join(others)[:100]}")
    if any(a.GetAtomicNum() in COMPLEXED for i, other in enumerate(fragments) if i != keep for a in other.GetAtoms()):
        notes.append("a transition metal was removed with it: what is docked is not the metal complex")
    kept: Chem.Mol = fragments[keep]
    return kept


def check_size(mol: Chem.Mol, max_heavy_atoms: int) -> None:
    """Raises RequestError for no heavy atom, or more than ``max_heavy_atoms``."""
    heavy = mol.GetNumHeavyAtoms()
    if not mol.GetNumAtoms():
        raise RequestError("has no atoms")
    if not heavy:
        raise RequestError("has no heavy atoms, only hydrogens or dummies")
    if heavy > max_heavy_atoms:
        raise RequestError(f"has {heavy} heavy atoms, over the limit of {max_heavy_atoms}: is it a protein?")


def sanitise(mol: Chem.Mol, notes: list[str]) -> tuple[Chem.Mol, int]:
    """A sanitised copy and the RDKit steps that worked: all, all after a small repair, or all but the impossible."""
    every = int(Chem.SANITIZE_ALL)
    for repair in (_as_it_is, _charge_by_valence, _hydrogen_on_aromatic_nitrogen):
        repaired, note = repair(mol)
        if Chem.SanitizeMol(repaired, catchErrors=True) == Chem.SANITIZE_NONE:
            notes += note
            return repaired, every
    partial = {
        every ^ Chem.SANITIZE_KEKULIZE: "aromatic bonds have no Kekule structure; left as they are",
        every ^ Chem.SANITIZE_PROPERTIES: "an atom has an impossible valence; left as it is",
        every
        ^ Chem.SANITIZE_PROPERTIES
        ^ Chem.SANITIZE_KEKULIZE: "impossible valences and aromatic bonds; left as they are",
    }
    for flags, text in partial.items():
        copy = Chem.Mol(mol)
        copy.UpdatePropertyCache(strict=False)
        if Chem.SanitizeMol(copy, flags, catchErrors=True) == Chem.SANITIZE_NONE:
            problems = Chem.DetectChemistryProblems(mol)
            notes.append(f"{text} ({short_reason(RuntimeError(problems[0].Message()))})" if problems else text)
            return copy, int(flags)
    Chem.SanitizeMol(Chem.Mol(mol))
    raise RequestError("RDKit cannot sanitise the molecule")


def _as_it_is(mol: Chem.Mol) -> Repaired:
    return Chem.Mol(mol), []


def _charge_by_valence(mol: Chem.Mol) -> Repaired:
    """Neutral N with four bonds, O with three and B with four get the charge that files often forget."""
    copy, notes = Chem.Mol(mol), []
    for problem in Chem.DetectChemistryProblems(mol):
        if problem.GetType() != "AtomValenceException":
            continue
        atom = copy.GetAtomWithIdx(problem.GetAtomIdx())
        bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        charge = {("N", 4): 1, ("O", 3): 1, ("B", 4): -1}.get((atom.GetSymbol(), round(bonds)))
        if charge and not atom.GetFormalCharge():
            atom.SetFormalCharge(charge)
            notes.append(f"atom {atom.GetIdx() + 1} ({atom.GetSymbol()}, {bonds:g} bonds): charge {charge:+d} given")
    return copy, notes


def _hydrogen_on_aromatic_nitrogen(mol: Chem.Mol) -> Repaired:
    """The first nitrogen whose missing hydrogen (as in pyrrole) explains why there is no Kekule structure."""
    for problem in Chem.DetectChemistryProblems(mol):
        if problem.GetType() != "KekulizeException":
            continue
        for index in problem.GetAtomIndices():
            copy = Chem.Mol(mol)
            atom = copy.GetAtomWithIdx(index)
            if atom.GetSymbol() != "N" or atom.GetFormalCharge() or atom.GetDegree() != 2:
                continue
            atom.SetNumExplicitHs(1)
            if not Chem.DetectChemistryProblems(copy):
                return copy, [f"hydrogen given to aromatic nitrogen {index + 1}; another tautomer may be meant"]
    return Chem.Mol(mol), []


def without_hydrogens(mol: Chem.Mol, flags: int, notes: list[str]) -> Chem.Mol:
    """Heavy atoms only; ``flags`` are the steps of sanitisation that the molecule can take."""
    bare = Chem.RemoveAllHs(mol, sanitize=False)
    removed = mol.GetNumAtoms() - bare.GetNumAtoms()
    if removed:
        isotopes = sum(atom.GetAtomicNum() == 1 and atom.GetIsotope() > 0 for atom in mol.GetAtoms())
        notes.append(
            f"{removed} hydrogens removed" + (f" ({isotopes} of them deuterium or tritium)" if isotopes else "")
        )
    bare.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(bare, flags)
    return bare


def count_hydrogens_as_authors(mol: Chem.Mol, flags: int) -> Chem.Mol:
    """Make the implicit valence, which is a feature, independent of the format, and that of the authors' preparation.

    They add hydrogens, embed and remove them again, which leaves the one hydrogen of a stereocentre explicit (implicit
    valence 0) and all others but those of aromatic nitrogen implicit. Bracket atoms of SMILES ([NH3+]) come explicit.
    """
    for atom in mol.GetAtoms():
        _make_implicit(atom)
    mol = Chem.RemoveAllHs(Chem.AddHs(mol), sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(mol, flags)
    return mol


def _make_implicit(atom: Chem.Atom) -> None:
    """Turn explicit hydrogens into implicit ones where RDKit then counts as many; aromatic N keeps its own."""
    counted, fixed = atom.GetNumExplicitHs(), atom.GetNoImplicit()
    if not (counted or fixed) or (atom.GetIsAromatic() and atom.GetAtomicNum() != 6):
        return
    before = atom.GetTotalNumHs(), atom.GetNumRadicalElectrons()
    atom.SetNoImplicit(False)
    atom.SetNumExplicitHs(0)
    atom.UpdatePropertyCache(strict=False)
    if (atom.GetTotalNumHs(), atom.GetNumRadicalElectrons()) != before:
        atom.SetNoImplicit(fixed)
        atom.SetNumExplicitHs(counted)
        atom.UpdatePropertyCache(strict=False)


def assign_stereo(mol: Chem.Mol) -> None:
    """Tag true stereocentres only: from the coordinates if there are any, else from the marks of the input."""
    if mol.GetNumConformers():
        Chem.AssignStereochemistryFrom3D(mol)
    else:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    for atom in mol.GetAtoms():  # a distorted sulfonate passes for a bipyramid; only metals are of such shapes
        if int(atom.GetChiralTag()) > 2 and atom.GetAtomicNum() in NON_METALS:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)


def coordinates(mol: Chem.Mol, notes: list[str]) -> Float64[np.ndarray, "n 3"] | None:
    """[n, 3] Angstrom, None without 3-D. Raises RequestError for coordinates that no molecule has."""
    if not mol.GetNumConformers():
        return None
    position = np.array(mol.GetConformer().GetPositions(), dtype=np.float64)
    if not np.isfinite(position).all() or np.abs(position).max() > MAX_COORDINATE:
        raise RequestError(f"has a coordinate that is not a number or is beyond {MAX_COORDINATE:g} Angstrom")
    if len(position) > 1 and (nearest := float(pdist(position).min())) < OVERLAP:
        notes.append(f"atoms overlap: the nearest two are {nearest:.2f} Angstrom apart")
    return position


def doubts(mol: Chem.Mol) -> list[str]:
    """What a user should know about the ligand as it is used."""
    atoms = list(mol.GetAtoms())
    metals = "metals (their coordination is not parametrised: poses around them are unreliable)"
    kinds = {
        "radical electrons": [a for a in atoms if a.GetNumRadicalElectrons()],
        metals: [a for a in atoms if a.GetAtomicNum() > 2 and a.GetAtomicNum() not in NON_METALS],
        "isotope labels (not seen by the model)": [a for a in atoms if a.GetIsotope()],
        "unknown elements": [a for a in atoms if not a.GetAtomicNum()],
    }
    notes = [f"{kind}: {_listed([a.GetIdx() for a in found])}" for kind, found in kinds.items() if found]
    ordinary = {Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC}
    if odd := [b for b in mol.GetBonds() if b.GetBondType() not in ordinary]:
        notes.append(f"{len(odd)} dative or other unusual bonds; the model sees single (or triple) bonds")
    unspecified = [
        (str(info.type), info.centeredOn)
        for info in Chem.FindPotentialStereo(mol)
        if info.specified == Chem.StereoSpecified.Unspecified
    ]
    if centres := [index for kind, index in unspecified if kind == "Atom_Tetrahedral"]:
        notes.append(
            "unspecified stereocentres (one isomer is picked at random, by the seed, for all poses):"
            f" {_listed(centres)}"
        )
    if bonds := [index for kind, index in unspecified if kind == "Bond_Double"]:
        notes.append(f"{len(bonds)} double bonds of unspecified E/Z")
    return notes


def _listed(indices: Sequence[int]) -> str:
    return "atoms " + ", ".join(str(index + 1) for index in indices[:10]) + (", ..." if len(indices) > 10 else "")
