"""Ligands from files, SMILES or RDKit molecules: heavy atoms, sanitised, every change noted, no silent failure.

Formats: SDF and MOL (V2000, V3000), MOL2, PDB or PDBQT with a SMILES template for the bond orders, lists of SMILES or
InChI, each also gzipped. The content decides what a file is; its name only where the content cannot tell.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from rdkit import Chem, rdBase

from core.errors import RequestError
from domains.docking.chemistry import cleanup
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.ligand_files import Record, file_records, smiles_source

MAX_HEAVY_ATOMS = 500
RDKIT_ERRORS = (ValueError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Ligand:
    """A ligand of one connected fragment.

    mol: heavy atoms only, sanitised; it has one conformer exactly where ``coordinates`` is not None.
    coordinates: [n, 3] Angstrom in the frame of the input, None where the input has no 3-D (SMILES, flat drawings).
    notes: what was changed in the input or is doubtful about it; atoms are counted from 1, in the order of the input.
    """

    name: str
    mol: Chem.Mol
    coordinates: Float64[np.ndarray, "n 3"] | None
    notes: tuple[str, ...] = ()

    @property
    def n_atoms(self) -> int:
        return int(self.mol.GetNumAtoms())

    @property
    def smiles(self) -> str:
        """Canonical SMILES with stereochemistry."""
        return Chem.MolToSmiles(self.mol)


@dataclass(frozen=True)
class LigandFailure:
    """A record that gives no ligand. ``record`` counts from 1 in ``source``."""

    source: str
    record: int
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: record {self.record} ({self.name}): {self.reason}"


def read_ligands(
    source: str | Path,
    template: str | None = None,
    *,
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    raw_chirality: bool = False,
) -> Iterator[Ligand | LigandFailure]:
    """Ligands of a file or of one SMILES string, one per record, read as they are asked for.

    Args:
        source: a path, or a SMILES (``"CCO ethanol"`` names it) or InChI where no such file exists.
        template: SMILES whose bond orders and charges the 3-D input gets; PDB and PDBQT, which have none, need it.
        max_heavy_atoms: larger ligands fail.
        raw_chirality: keep the tags that RDKit sets on all tetrahedral atoms of 3-D files, even CH2 and CH3 with
            hydrogens, as the authors' preparation did. Needed only to repeat their features: the tags depend on the
            order of atoms in the file. Otherwise only true stereocentres are tagged, so all formats give one graph.

    A record that cannot be used comes as a ``LigandFailure`` and the rest goes on. Names are the titles, else the
    ``file_stem``, with ``_2``, ``_3`` ... where one would come twice.

    Raises:
        RequestError: (at the call) the source is no file and no SMILES, or of no known format; the template is wrong.
    """
    frame = None if template is None else cleanup.parse_template(template)
    text = str(source)
    path = Path(source)
    with rdBase.BlockLogs():
        if os.path.isdir(text):
            raise RequestError(f"{text}: a folder; give one ligand file")
        if os.path.exists(text):
            kind, records = file_records(path)
            _check_template(kind, path, frame is not None)
            stem = file_stem(path)
        else:
            records, stem = iter([smiles_source(source)]), "ligand"
    return _ligands(records, text, stem, frame, max_heavy_atoms, raw_chirality)


def read_ligand(
    source: str | Path,
    template: str | None = None,
    *,
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    raw_chirality: bool = False,
) -> Ligand:
    """The first ligand of a source, as ``read_ligands`` gives it; a note tells where the source has more.

    Raises:
        RequestError: the source or its first record cannot be read.
    """
    ligands = read_ligands(source, template, max_heavy_atoms=max_heavy_atoms, raw_chirality=raw_chirality)
    found = list(islice(ligands, 2))
    if not found:
        raise RequestError(f"{source}: has no ligand record")
    if isinstance(found[0], LigandFailure):
        raise RequestError(str(found[0]))
    if len(found) > 1:
        return replace(found[0], notes=(*found[0].notes, "the file has more records; only the first is used"))
    return found[0]


def ligand_from_mol(
    mol: Chem.Mol,
    name: str = "ligand",
    notes: Sequence[str] = (),
    *,
    max_heavy_atoms: int = MAX_HEAVY_ATOMS,
    raw_chirality: bool = False,
) -> Ligand:
    """Ligand of an RDKit molecule, sanitised or not; the molecule itself is left alone.

    Coordinates are those of its first conformer, if that is 3-D; the stereochemistry is then read off them.
    ``notes`` come first in the ligand's notes; for the other arguments see ``read_ligands``.

    Raises:
        RequestError: no heavy atom, too many, impossible coordinates, or chemistry that RDKit cannot make sense of.
    """
    said = list(notes)
    with rdBase.BlockLogs():
        try:
            mol = cleanup.one_conformer(mol, said)
            mol = cleanup.largest_fragment(mol, said)
            cleanup.check_size(mol, max_heavy_atoms)
            mol, flags = cleanup.sanitise(mol, said)
            mol = cleanup.without_hydrogens(mol, flags, said)
            if not raw_chirality:
                cleanup.assign_stereo(mol)
            mol = cleanup.count_hydrogens_as_authors(mol, flags)
            coordinates = cleanup.coordinates(mol, said)
            said += cleanup.doubts(mol)
        except RDKIT_ERRORS as error:
            raise RequestError(f"RDKit cannot make sense of the molecule: {cleanup.short_reason(error)}") from error
    return Ligand(name, mol, coordinates, tuple(said))


def read_coordinates(path: str | Path) -> Float64[np.ndarray, "n 3"]:
    """Heavy-atom positions [n, 3] (Angstrom) of the first record of a ligand file with 3-D coordinates.

    Bonds are not looked at, so nothing is sanitised and a PDB or PDBQT file needs no template: for reference ligands
    that say where a pocket is.

    Raises:
        RequestError: the file or its first record cannot be read, is a protein, or has no 3-D coordinates.
    """
    path = Path(path)
    try:
        with rdBase.BlockLogs():
            kind, records = file_records(path)
            if kind == "protein":
                raise RequestError("looks like a protein; give the reference ligand alone")
            record = next(records, None)
            if record is None:
                raise RequestError("has no ligand record")
            mol = cleanup.one_conformer(record.parse()[0], [])
            places = cleanup.coordinates(mol, [])
    except (RequestError, *RDKIT_ERRORS) as error:
        reason = cleanup.short_reason(error)
        raise RequestError(reason if reason.startswith(f"{path}: ") else f"{path}: {reason}") from error
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    if places is None or not heavy:
        raise RequestError(f"{path}: has no 3-D coordinates of heavy atoms")
    return places[heavy]


def _check_template(kind: str, path: Path, has_template: bool) -> None:
    """Raises RequestError where a template is needed and not given, or the other way round."""
    if kind == "smiles" and has_template:
        raise RequestError(f"{path}: a template needs 3-D input, not SMILES")
    if kind == "protein" and not has_template:
        raise RequestError(
            f"{path}: looks like a protein, not a ligand; for a ligand inside it, give that ligand's SMILES as template"
        )
    if kind == "pdb" and not has_template:
        raise RequestError(f"{path}: a PDB or PDBQT file has no bond orders; give the SMILES of the ligand as template")


def _ligands(
    records: Iterator[Record],
    source: str,
    stem: str,
    frame: Chem.Mol | None,
    max_heavy_atoms: int,
    raw_chirality: bool,
) -> Iterator[Ligand | LigandFailure]:
    names: dict[str, int] = {}
    for number, record in enumerate(records, start=1):
        name = _unique(record.title.strip() or (stem if number == 1 else f"{stem}_{number}"), names)
        try:
            with rdBase.BlockLogs():
                mol, notes = record.parse()
                mol = mol if frame is None else cleanup.with_template(mol, frame, notes)
            yield ligand_from_mol(mol, name, notes, max_heavy_atoms=max_heavy_atoms, raw_chirality=raw_chirality)
        except (RequestError, *RDKIT_ERRORS) as error:
            yield LigandFailure(source, number, name, cleanup.short_reason(error))


def _unique(name: str, taken: dict[str, int]) -> str:
    """The name, or the first of name_2, name_3, ... that is not taken; ``taken`` holds the last number of each name."""
    new = name
    while new in taken:
        taken[name] += 1
        new = f"{name}_{taken[name]}"
    taken[new] = 1
    return new
