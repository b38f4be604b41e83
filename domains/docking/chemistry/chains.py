"""Which monomers of a structure make up the protein chains, and what is said about the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from core.errors import RequestError
from domains.docking.chemistry.features import RESIDUES
from domains.docking.chemistry.monomers import Monomer
from domains.docking.chemistry.protein_files import StructureFile
from domains.docking.chemistry.protein_report import ProteinReport
from domains.docking.chemistry.residues import HEAVY_ATOMS, is_amino_acid, kind, parent

MAX_COORDINATE = 9999.0  # what the PDB format can hold; programs write 9999.999 for unknown
MAX_REACH, MIN_BOND = 40.0, 0.1  # Angstrom: of any atom from its C-alpha (lipids reach 25), of N from it
PEPTIDE_BOND = 2.0  # Angstrom, generous: 1.33 in a good structure
CHAIN_BREAK = 2.5
BOND_RANGE = (1.0, 2.0)  # of the median N-CA bond, 1.46 in a good structure


@dataclass(frozen=True)
class ChainResidue:
    """An amino acid of a chain; ``chain`` differs from the monomer's where that gives numbers twice."""

    monomer: Monomer
    chain: str
    parent: str | None


def select_chains(monomers: Sequence[Monomer], file: StructureFile) -> tuple[list[ChainResidue], ProteinReport]:
    """Residues of the protein, in the order given, and the report on everything.

    Taken are monomers with N, CA and C that are amino acids in ATOM records, or, whatever their name and record, have a
    peptide bond to another such monomer; a free amino acid in HETATM records is a ligand.

    Raises:
        RequestError: no protein, only C-alphas, impossible coordinates.
    """
    candidates = [monomer for monomer in monomers if monomer.has_backbone]
    for monomer in candidates:
        _check_coordinates(monomer)
    linked = _peptide_linked(candidates)
    taken = {
        id(monomer)
        for monomer, link in zip(candidates, linked, strict=True)
        if link or (not monomer.hetero and is_amino_acid(monomer.name))
    }
    chosen = [monomer for monomer in candidates if id(monomer) in taken]
    others = _others([monomer for monomer in monomers if id(monomer) not in taken])
    if not chosen:
        first = f" (of its {file.models} models only the first is read)" if file.models > 1 else ""
        raise RequestError(_why_no_protein(monomers, others) + first)
    _check_scale(chosen)
    names, renamed = _unique_chains(chosen)
    parents = [_parent(monomer.name, file.parents) for monomer in chosen]
    residues = [ChainResidue(*parts) for parts in zip(chosen, names, parents, strict=True)]
    report = ProteinReport(
        format=file.format,
        reader=file.reader,
        models=file.models,
        residues=len(residues),
        waters=len(others.get("waters", ())),
        ions=len(others.get("ions", ())),
        ligands=others.get("ligands", ()),
        cofactors=others.get("cofactors", ()),
        metals=others.get("metals", ()),
        sugars=others.get("sugars", ()),
        nucleotides=others.get("nucleotides", ()),
        additives=others.get("additives", ()),
        caps=others.get("caps", ()),
        incomplete=others.get("incomplete", ()),
        hydrogens=sum(monomer.hydrogens for monomer in chosen),
        duplicates=sum(monomer.duplicates for monomer in chosen),
        alternates=tuple(_alternate(monomer) for monomer in chosen if monomer.altlocs),
        modified=_derived(residues, in_vocabulary=False),
        variants=_derived(residues, in_vocabulary=True),
        unknown=tuple(residue.monomer.label for residue in residues if residue.parent is None),
        truncated=tuple(monomer.label for monomer in chosen if _is_truncated(monomer)),
        gaps=_gaps(residues),
        renamed=renamed,
        coincident=_coincident(chosen),
    )
    return residues, report


def _derived(residues: Sequence[ChainResidue], *, in_vocabulary: bool) -> tuple[str, ...]:
    """Residues that are not their parent, with the parent."""
    derived = [r for r in residues if r.parent not in (None, r.monomer.name)]
    chosen = [r for r in derived if (r.monomer.name in RESIDUES) == in_vocabulary]
    return tuple(f"{residue.monomer.label} ({residue.parent})" for residue in chosen)


def _parent(name: str, of_file: dict[str, str]) -> str | None:
    """The parent by the file, where it names a standard residue, else by the tables."""
    by_file = of_file.get(name)
    return by_file if by_file in HEAVY_ATOMS and name not in HEAVY_ATOMS else parent(name)


def _check_coordinates(monomer: Monomer) -> None:
    positions = np.array([row.position for row in monomer.atoms])
    wrong = ~(np.abs(positions) < MAX_COORDINATE).all(axis=1)  # NaN is not below either
    what = "has impossible coordinates"
    if not wrong.any():
        places = monomer.positions
        wrong = np.linalg.norm(positions - places["CA"], axis=1) > MAX_REACH
        what = "is far from its C-alpha"
        if np.linalg.norm(np.subtract(places["N"], places["CA"])) < MIN_BOND:
            wrong[[row.atom for row in monomer.atoms].index("N")] = True
            what = "lies on its C-alpha"
    if wrong.any():
        row = monomer.atoms[int(np.argmax(wrong))]
        place = ", ".join(f"{x:g}" for x in row.position)
        raise RequestError(
            f"residue {monomer.label}: atom {row.atom} at ({place}) {what}; repair or remove the residue"
        )


def _peptide_linked(candidates: Sequence[Monomer]) -> np.ndarray:
    """Which of the monomers have a bond C-N to another one."""
    linked = np.zeros(len(candidates), dtype=bool)
    if candidates:
        carbonyl = np.array([monomer.positions["C"] for monomer in candidates])
        nitrogen = np.array([monomer.positions["N"] for monomer in candidates])
        distance, partner = cKDTree(nitrogen).query(carbonyl, k=min(2, len(candidates)))
        distance, partner = distance.reshape(len(candidates), -1), partner.reshape(len(candidates), -1)
        own = partner == np.arange(len(candidates))[:, None]
        start, column = np.nonzero((distance < PEPTIDE_BOND) & ~own)
        linked[start] = linked[partner[start, column]] = True
    return linked


def _others(monomers: Sequence[Monomer]) -> dict[str, tuple[str, ...]]:
    """Labels of the monomers by what they are."""
    groups: dict[str, list[str]] = {}
    for monomer in monomers:
        if monomer.atoms:
            names, elements = [row.atom for row in monomer.atoms], [row.element for row in monomer.atoms]
            groups.setdefault(kind(monomer.name, monomer.hetero, names, elements), []).append(monomer.label)
    return {name: tuple(labels) for name, labels in groups.items()}


def _why_no_protein(monomers: Sequence[Monomer], others: dict[str, tuple[str, ...]]) -> str:
    amino = [monomer for monomer in monomers if is_amino_acid(monomer.name) and monomer.name in HEAVY_ATOMS]
    traces = sum({row.atom for row in monomer.atoms} == {"CA"} for monomer in amino)
    if traces and 2 * traces > len(amino):
        return f"is a C-alpha-only model ({traces} residues); the receptor needs all backbone atoms: rebuild them first"
    found = ", ".join(f"{name} ({len(labels)})" for name, labels in others.items()) or "no heavy atoms"
    return f"has no protein residue (with N, CA and C); found: {found}"


def _check_scale(residues: Sequence[Monomer]) -> None:
    bonds = [np.subtract(residue.positions["N"], residue.positions["CA"]) for residue in residues]
    median = float(np.median(np.linalg.norm(bonds, axis=1)))
    if not BOND_RANGE[0] < median < BOND_RANGE[1]:
        raise RequestError(
            f"the N-CA bonds are {median:.2f} A long in the median, not 1.46: are the coordinates in Angstrom?"
        )


def _unique_chains(residues: Sequence[Monomer]) -> tuple[list[str], tuple[str, ...]]:
    """Chain names with which every (chain, number) is unique, and what was renamed."""
    taken = {residue.chain for residue in residues}
    current: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    names, renamed = [], []
    for residue in residues:
        name = current.setdefault(residue.chain, residue.chain)
        if (name, residue.number) in seen:
            count = 2
            while (name := f"{residue.chain}_{count}") in taken:
                count += 1
            taken.add(name)
            current[residue.chain] = name
            renamed.append(f"{name} from {residue.label}")
        seen.add((name, residue.number))
        names.append(name)
    return names, tuple(renamed)


def _alternate(monomer: Monomer) -> str:
    letters = [letter.strip() or "blank" for letter in monomer.altlocs]
    return f"{monomer.label} ({letters[0]} of {'/'.join(sorted(letters))})"


def _is_truncated(monomer: Monomer) -> bool:
    return sum(row.atom != "OXT" for row in monomer.atoms) < HEAVY_ATOMS.get(monomer.name, 0)


def _gaps(residues: Sequence[ChainResidue]) -> tuple[str, ...]:
    """Neighbours in one chain without a peptide bond between them."""
    carbonyl = np.array([residue.monomer.positions["C"] for residue in residues])[:-1]
    nitrogen = np.array([residue.monomer.positions["N"] for residue in residues])[1:]
    far = np.flatnonzero(np.linalg.norm(carbonyl - nitrogen, axis=1) > CHAIN_BREAK).tolist()
    return tuple(
        f"{residues[i].monomer.label} to {residues[i + 1].monomer.label}"
        for i in far
        if residues[i].chain == residues[i + 1].chain
    )


def _coincident(residues: Sequence[Monomer]) -> tuple[str, ...]:
    seen: set[tuple[float, ...]] = set()
    found = []
    for residue in residues:
        place = tuple(round(x, 1) for x in residue.positions["CA"])
        if place in seen:
            found.append(residue.label)
        seen.add(place)
    return tuple(found)
