"""What is to be docked: flags or a table of a user as jobs, one per ligand, each with an id of its own."""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from rdkit import Chem

from core.errors import RequestError
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.ligand import Ligand, LigandFailure, ligand_from_mol, read_ligands
from domains.docking.chemistry.ligand_files import KNOWN_ENDINGS
from domains.docking.dock.table import Row, read_table
from domains.docking.request import Site, overlaid
from domains.docking.write import FolderNames, folder_name

logger = logging.getLogger("disco")
RESERVED = ("proteins", "config.yaml", "summary.csv", "failures.csv", "report.html")  # what else lies in the folder
NAMES_TOLD = 20  # how many changed names the log tells of
NAMELESS = "ligand"  # what read_ligands calls a SMILES without a name
# DiffDock's headings come first.
COLUMNS = {
    "name": ("complex_name", "id", "name"),
    "protein": ("protein_path", "protein"),
    "ligand": ("ligand_description", "ligand"),
    "sequence": ("protein_sequence",),
    **{
        name: (name,)
        for name in (
            *("template", "pocket", "margin", "radius"),
            *(f"{what}_{axis}" for what in ("center", "size") for axis in "xyz"),
        )
    },
}


@dataclass(frozen=True)
class Failure:
    """A job that gave no poses. stage: ``table``, ``ligand``, ``protein``, ``pocket``, ``conformer``, ``docking`` or
    ``output``; reason: in words."""

    id: str
    row: int
    protein: str
    ligand: str
    stage: str
    reason: str


@dataclass(frozen=True, eq=False)
class Job:
    """One ligand for one protein.

    id: name of its folder, no two alike; row: of the table (the heading is row 1) or record of the ligand file, from 1;
    source: the ligand as the user gave it; site: where in the protein; fingerprint: checksum of all that its result
    depends on, '' where nobody asked.
    """

    id: str
    row: int
    protein: Path
    ligand: Ligand
    source: str
    site: Site = Site()
    fingerprint: str = ""

    def failed(self, stage: str, reason: str) -> Failure:
        """The job as one that gave no poses."""
        return Failure(self.id, self.row, str(self.protein), self.source, stage, reason)


@dataclass(frozen=True)
class _Asked:
    """A row or the flags, as given; row 0: the number of the record counts. path: where the ligand is read from."""

    row: int
    name: str
    protein: str
    ligand: str
    path: str

    def failure(self, id_: str, stage: str, reason: str, row: int = 0) -> Failure:
        return Failure(id_, row or self.row, self.protein, self.ligand, stage, reason)

    def named(self, ligand: str, several: bool) -> str:
        """Name of the complex of one ligand; ``several``: it is not the only one."""
        if self.name:
            return f"{self.name}_{ligand}" if several else self.name
        if not (self.protein and self.ligand):
            return f"row_{self.row}"
        if ligand == NAMELESS and not self.is_file:  # by its text, so that it depends on no other row
            ligand = f"{NAMELESS}-{hashlib.sha256(self.ligand.encode(errors='replace')).hexdigest()[:8]}"
        stem = file_stem(self.protein)
        return stem if ligand == stem else f"{stem}_{ligand}"

    @property
    def is_file(self) -> bool:
        return os.path.exists(self.path) or self.path.lower().endswith(KNOWN_ENDINGS)


class _Ids:
    """Ids of jobs, and the log's word on names that had to be changed."""

    def __init__(self) -> None:
        self._folders, self._told = FolderNames(RESERVED), 0

    def take(self, row: int, name: str, given: bool) -> str:
        """given: the user wrote the name, and may look for it."""
        plain, taken = folder_name(name), self._folders.take(name)
        if taken != plain or (given and taken != name):
            why = "is taken" if taken != plain else "has characters that folders should not have"
            if self._told < NAMES_TOLD:
                logger.warning("row %d: the name %r %s; its folder is %s", row, name, why, taken)
            elif self._told == NAMES_TOLD:
                logger.warning("more names were changed: see the column id of the results")
            self._told += 1
        return taken


def jobs_of_ligands(
    protein: Path, ligand: str | Chem.Mol, *, template: str | None = None, name: str | None = None, site: Site = Site(),
    raw_chirality: bool = False,
) -> Iterator[Job | Failure]:  # fmt: skip
    """One job per record of a ligand file, or the one of a SMILES or an RDKit molecule.

    name: of the complex, with the ligand's name after it where there are several; without, the protein's file stem and
    the ligand's name. Raises RequestError (at the call) for a source or template that cannot be read at all.
    """
    if isinstance(ligand, Chem.Mol):
        title = ligand.GetProp("_Name").strip() if ligand.HasProp("_Name") else ""
        one = ligand_from_mol(ligand, title or NAMELESS, raw_chirality=raw_chirality)
        return _jobs(_Asked(0, name or "", str(protein), one.smiles, ""), iter([one]), site, protein, _Ids())
    ligand = ligand.strip()
    if not ligand:
        raise RequestError("the ligand is empty: give a file or a SMILES")
    asked = _Asked(0, name or "", str(protein), ligand, ligand)
    return _jobs(asked, read_ligands(ligand, template, raw_chirality=raw_chirality), site, protein, _Ids())


def jobs_of_table(table: Path, *, site: Site = Site(), raw_chirality: bool = False) -> Iterator[Job | Failure]:
    """The rows of a CSV, read as they are asked for; a ligand file of several records gives several jobs.

    Paths start at the working directory, else at the table's folder. Where a row says where to dock, that replaces
    ``site``. A row that cannot be used is a Failure, and the rest goes on. Protein and pocket files are not opened.

    Raises:
        RequestError: (at the call) the file is no table that can be read, or has no column for protein or ligand.
    """
    rows = read_table(table, COLUMNS, ("protein", "ligand"))
    return _jobs_of_rows(rows, table.parent, site, raw_chirality)


def _jobs_of_rows(rows: Iterator[Row], folder: Path, site: Site, raw_chirality: bool) -> Iterator[Job | Failure]:
    ids = _Ids()
    for row in rows:
        given, stage = row.fields, "table"
        protein, ligand = given.get("protein", ""), given.get("ligand", "")
        path = _located(ligand, folder)
        asked = _Asked(row.line, given.get("name", ""), protein, ligand, path)
        try:
            _check_complete(row)
            stage = "pocket"
            own = _own_site(given, site, folder)
            stage = "ligand"
            found = read_ligands(path, given.get("template"), raw_chirality=raw_chirality)
        except RequestError as error:
            name = asked.named(file_stem(path) if asked.is_file else NAMELESS, several=False)
            yield asked.failure(ids.take(row.line, name, bool(asked.name)), stage, str(error))
            continue
        yield from _jobs(asked, found, own, Path(_located(protein, folder)), ids)


def _jobs(
    asked: _Asked, found: Iterator[Ligand | LigandFailure], site: Site, protein: Path, ids: _Ids
) -> Iterator[Job | Failure]:
    """Jobs of the ligands that were found for a row."""
    try:
        first = list(islice(found, 2))
        several = len(first) > 1
        for number, each in enumerate(chain(first, found), start=1):
            row = asked.row or number
            id_ = ids.take(row, asked.named(each.name, several), bool(asked.name))
            if isinstance(each, Ligand):
                yield Job(id_, row, protein, each, asked.ligand, site)
            else:
                reason = f"record {number} ({each.name}): {each.reason}" if several else each.reason
                yield asked.failure(id_, "ligand", reason, row)
        if not first:
            raise RequestError("has no ligand record")
    except (RequestError, OSError) as error:
        row = asked.row or 1
        name = asked.named(file_stem(asked.path), several=False)
        yield asked.failure(ids.take(row, name, bool(asked.name)), "ligand", f"{asked.path}: {error}", row)


def _check_complete(row: Row) -> None:
    """Raises RequestError for a row that cannot be read, or says too little."""
    if row.problem:
        raise RequestError(row.problem)
    absent = [name for name in ("protein", "ligand") if name not in row.fields]
    if absent == ["protein"] and "sequence" in row.fields:
        raise RequestError(
            "only a protein_sequence is given, and structures are not predicted here: give protein_path, a PDB or "
            "mmCIF file"
        )
    if absent:
        raise RequestError(f"the row gives no {' and no '.join(absent)}")


def _located(text: str, folder: Path) -> str:
    """A path from the working directory, else from the folder where it exists there, else the text itself."""
    beside = os.path.join(folder, text)
    return text if not text or os.path.exists(text) or not os.path.exists(beside) else beside


def _own_site(given: Mapping[str, str], site: Site, folder: Path) -> Site:
    """The site with what a row says of it. Raises RequestError for numbers that are none, or too few of them."""
    own = {name: given[name] for name in ("margin", "radius") if name in given}
    for what in ("center", "size"):
        parts = [given.get(f"{what}_{axis}", "") for axis in "xyz"]
        own |= {what: ",".join(parts)} if any(parts) else {}
    if "pocket" in given:
        own["pocket"] = _located(given["pocket"], folder)
    if not own:
        return site
    try:
        return Site.parse(overlaid({name: getattr(site, name) for name in Site.model_fields}, own))
    except RequestError as error:
        said = ", ".join(f"{name} {value}" for name, value in own.items())
        raise RequestError(f"{error} (the row gives {said})") from error
