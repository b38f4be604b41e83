"""Where complexes lie: folders of complexes in the layouts of the field, tables, and lists of splits.

Layouts: one sub-folder per complex (plain names, PDBBind's, the PoseBusters benchmark's); Binding MOAD as DiffDock lays
it out (``pdb_protein/1abc_1_protein.pdb`` with ``pdb_superligand/1abc_1_XYZ_0.pdb``); a table with a column of proteins
and one of ligands.
"""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import DataError

logger = logging.getLogger("disco")
PROTEINS = tuple(
    f"{stem}{ending}"
    for stem in ("protein", "{name}_protein_processed", "{name}_protein")
    for ending in (".pdb", ".pdb.gz", ".cif", ".cif.gz")
)
LIGANDS = ("ligand.sdf", "{name}_ligand.sdf", "ligand.mol2", "{name}_ligand.mol2", "{name}_ligand.pdb")
WITHOUT_ORDERS = (".pdb", ".ent", ".pdbqt")  # ligands in these formats have no bond orders
VALIDATION = 20  # one of so many complexes validates where nothing says which
ALL = "all"
LISTS = {  # names of lists of complexes, those of the paper first
    "train": ("timesplit_no_lig_overlap_train", "train"),
    "val": ("timesplit_no_lig_overlap_val", "val"),
    "test": ("timesplit_test", "test"),
}
UNSEEN = ("timesplit_test_no_rec_overlap", "test_no_rec_overlap", "unseen")
NAME_COLUMNS, PROTEIN_COLUMNS, LIGAND_COLUMNS = (
    ("id", "complex_name"),
    ("protein", "protein_path"),
    ("ligand", "ligand_path"),
)
Row = Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """One complex on disk. ligands: files of the same ligand, the preferred one first; split: "" where it is in none.

    unseen: its receptor is not in training; template: SMILES for a ligand file without bond orders; pdb: its entry in
    the PDB; cluster: of its sequence, as a table says; problem: why it cannot be used, "" where it perhaps can;
    absent: a table or a list names it, and it is not there.
    """

    name: str
    protein: Path
    ligands: tuple[Path, ...]
    split: str = ""
    unseen: bool = False
    template: str = ""
    pdb: str = ""
    cluster: str = ""
    problem: str = ""
    absent: bool = False


def complex_files(folder: Path) -> list[Path]:
    """Protein file of one complex, then its ligand files, the preferred one first. Raises DataError where one is
    missing."""
    found = [[path for p in patterns if (path := folder / p.format(name=folder.name)).exists()]
             for patterns in (PROTEINS, LIGANDS)]  # fmt: skip
    for files, patterns in zip(found, (PROTEINS, LIGANDS), strict=True):
        if not files:
            raise DataError(f"{folder}: has none of {', '.join(p.format(name=folder.name) for p in patterns)}")
    return [found[0][0], *found[1]]


def find_sources(folder: str, table: str = "", splits: str | Mapping[str, str] = "") -> list[Source]:
    """Every complex there is, sorted by name, with the split that the table, the lists or its name put it into.

    Raises DataError where the folder, the table or a list is missing or wrong, or one complex is in two splits.
    """
    if table and splits:
        raise DataError("give a table (model.data.table) or lists of splits (model.data.splits), not both")
    rows = _rows(Path(table)) if table else {}
    if rows and _column(next(iter(rows.values())), PROTEIN_COLUMNS):
        found = [_in_table(name, row, Path(folder) if folder else Path(table).parent) for name, row in rows.items()]
    elif not folder:
        raise DataError("no complexes given: set model.data.folder to a folder with one sub-folder per complex")
    else:
        found = _in_folder(Path(folder))
    if rows:
        found = [_told(each, rows.get(each.name, {})) for each in _with_absent(found, rows, folder)]
    elif splits:
        found = _listed(found, splits, folder)
    else:
        found = [replace(each, split=_split_of(each.name)) for each in found]
    return sorted(found, key=lambda each: each.name)


def chosen(sources: Sequence[Source], split: str, what: str) -> list[Source]:
    """The complexes of a split (``all``: of any) that are there; a warning names those that are not.

    Raises DataError with the splits there are where nothing is in this one, or nothing of it is there.
    """
    wanted = [each for each in sources if each.split and split in (each.split, ALL)]
    if not wanted:
        counts = Counter(each.split for each in sources if each.split)
        there = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "none"
        raise DataError(f"{what}: has no split '{split}'; its splits: {there}")
    absent = [each.name for each in wanted if each.absent]
    if len(absent) == len(wanted):
        raise DataError(f"{wanted[0].protein}: holds none of the {len(wanted)} complexes of the split '{split}'")
    if absent:
        logger.warning("%d complexes of the split '%s' are not there: %s", len(absent), split, ", ".join(absent[:5]))
    return [each for each in wanted if not each.absent]


def _in_folder(folder: Path) -> list[Source]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of complexes (model.data.folder)")
    if (folder / "pdb_protein").is_dir():
        return _in_moad(folder)
    return [_in_sub_folder(path) for path in folder.iterdir() if path.is_dir()]


def _in_sub_folder(path: Path) -> Source:
    try:
        protein, *ligands = complex_files(path)
    except DataError as error:
        return Source(path.name, path, (), problem=str(error))
    return Source(path.name, protein, tuple(ligands))


def _in_moad(folder: Path) -> list[Source]:
    """The ligands of Binding MOAD; the first two parts of a name (entry, biological unit) are the receptor's."""
    where = next((folder / name for name in ("pdb_superligand", "pdb_ligand") if (folder / name).is_dir()), None)
    if where is None:
        raise DataError(f"{folder}: has pdb_protein, and neither pdb_superligand nor pdb_ligand beside it")
    found = []
    for ligand in where.glob("*.pdb"):
        protein = folder / "pdb_protein" / f"{'_'.join(ligand.stem.split('_')[:2])}_protein.pdb"
        problem = "" if protein.exists() else f"{protein}: no such file"
        found.append(Source(ligand.stem, protein, (ligand,), problem=problem))
    return found


def _in_table(name: str, row: Row, base: Path) -> Source:
    protein, ligand = (_column(row, names) for names in (PROTEIN_COLUMNS, LIGAND_COLUMNS))
    files = [base / text for text in (protein, ligand)]  # an absolute path stays what it is
    problem = f"row of '{name}': needs a protein and a ligand file" if not (protein and ligand) else ""
    for path in files if not problem else []:
        if not path.is_file():
            problem = f"{path}: no such file (of a ligand its pose is needed: a SMILES is not enough)"
            break
    return Source(name, files[0], (files[1],), problem=problem)


def _told(source: Source, row: Row) -> Source:
    """What a row of a table says of a complex; a table without splits leaves them to the names."""
    if not row:
        return source
    return replace(
        source,
        split=row["split"] if "split" in row else _split_of(source.name),
        unseen=row.get("no_rec_overlap") == "1",
        template=row.get("smiles", ""),
        pdb=row.get("pdb", ""),
        cluster=_column(row, ("cluster", "cluster30")),
    )


def _listed(found: Sequence[Source], splits: str | Mapping[str, str], folder: str) -> list[Source]:
    files = _list_files(splits)
    split_of: dict[str, str] = {}
    for split, path in files.items():
        if split == "unseen":
            continue
        for name in _names(path):
            if split_of.setdefault(name, split) != split:
                raise DataError(f"{path}: '{name}' is in {split} and in {split_of[name]}: a complex has one split")
    unseen = set(_names(files["unseen"])) if "unseen" in files else set()
    everything = _with_absent(found, split_of, folder)
    return [replace(each, split=split_of.get(each.name, ""), unseen=each.name in unseen) for each in everything]


def _with_absent(found: Sequence[Source], named: Iterable[str], folder: str) -> list[Source]:
    here = {each.name for each in found}
    absent = [name for name in named if name not in here]
    return [*found, *(Source(n, Path(folder), (), problem=f"{folder}: has no '{n}'", absent=True) for n in absent)]


def _list_files(splits: str | Mapping[str, str]) -> dict[str, Path]:
    if not isinstance(splits, str):
        return {split: Path(path) for split, path in splits.items()}
    folder = Path(splits)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of lists (model.data.splits)")
    files = {}
    for split, names in {**LISTS, "unseen": UNSEEN}.items():
        paths = (folder / f"{name}{ending}" for name in names for ending in ("", ".txt"))
        if (path := next((path for path in paths if path.is_file()), None)) is not None:
            files[split] = path
    if not set(files) & set(LISTS):
        wanted = ", ".join(name for names in LISTS.values() for name in names)
        raise DataError(f"{folder}: has no list of complexes; one of {wanted} (or with .txt) is needed")
    return files


def _names(path: Path) -> list[str]:
    """Names in a list, one a line (with any line ends)."""
    return _read(path, "model.data.splits").split()


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file ({key})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({key}): {error}") from error


def _rows(table: Path) -> dict[str, Row]:
    """Rows of a table by the name of their complex. Raises DataError."""
    text = _read(table, "model.data.table")
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise DataError(f"{table}: cannot be read as a table (model.data.table): {error}") from error
    columns = set(rows[0]) if rows else set()
    if not columns & set(NAME_COLUMNS) or not columns & {"split", *PROTEIN_COLUMNS}:
        raise DataError(f"{table}: needs the columns 'id' and 'split', or 'id', 'protein' and 'ligand'")
    found: dict[str, Row] = {}
    for line, row in enumerate(rows, start=2):
        name = _column(row, NAME_COLUMNS)
        if name in found and found[name] != row:
            raise DataError(f"{table}: line {line}: '{name}' was in an earlier line, with other values")
        if name in found:
            logger.warning("%s: line %d: '%s' comes twice and is used once", table, line, name)
        if name:
            found[name] = row
    return found


def _column(row: Row, names: Iterable[str]) -> str:
    """The first of these columns that has a value."""
    return next((value.strip() for name in names if (value := row.get(name))), "")


def _split_of(name: str) -> str:
    return "train" if hashlib.sha256(name.encode()).digest()[0] % VALIDATION else "val"
