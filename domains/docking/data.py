"""Complexes with known poses, from a folder with one sub-folder per complex."""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from core.errors import DataError, DiscoError, RequestError
from core.files import sha256
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import DataConfig, QuirksConfig
from domains.docking.language import LanguageModel
from domains.docking.pose import Pose, pose_of

logger = logging.getLogger("disco")
PROTEINS = ("protein.pdb", "protein.pdb.gz", "protein.cif", "{name}_protein_processed.pdb", "{name}_protein.pdb")
LIGANDS = ("ligand.sdf", "{name}_ligand.sdf", "ligand.mol2", "{name}_ligand.mol2")
VALIDATION = 20  # one of so many complexes validates where no table says which
ALL = "all"


class DockingDataset:
    """The complexes of one split (``all``: of every split), prepared when the data set is made and then kept.

    names: the complexes asked for, at most ``limit`` of a ``total``; left_out: why some of them could not be used (also
    logged); unseen: those whose receptor the table says is not in training. Raises DataError where the folder or the
    table is missing or wrong, or nothing is left.
    """

    def __init__(
        self, config: DataConfig, split: str, language: LanguageModel | None = None,
        quirks: QuirksConfig = QuirksConfig(), limit: int | None = None,
    ) -> None:  # fmt: skip
        if not config.folder:
            raise DataError("no complexes given: set model.data.folder to a folder with one sub-folder per complex")
        self.folder = Path(config.folder)
        every, self.unseen = _names(self.folder, config.table, split)
        self.names, self.total = every[:limit], len(every)
        self.left_out: dict[str, str] = {}
        self.complexes: list[Complex] = []
        for number, name in enumerate(self.names, start=1):
            try:
                self.complexes.append(read_complex(self.folder / name, language, quirks))
            except DiscoError as error:
                self.left_out[name] = str(error)
                logger.warning("%s left out: %s", name, error)
            if number % 100 == 0:
                logger.info("prepared %d of %d complexes", number, len(self.names))
        if not self.complexes:
            reason = next(iter(self.left_out.values()))
            raise DataError(f"{self.folder}: no complex of the split '{split}' can be used; the first: {reason}")

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names and files."""
        digest = hashlib.sha256()
        for each in self.complexes:
            for path in complex_files(self.folder / each.name):
                digest.update(f"{each.name}/{path.name}:{sha256(path)}".encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.complexes)

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> DockingBatch:
        chosen, numbers = [int(i) for i in indices], torch.as_tensor(np.asarray(ids))
        different = sorted(set(chosen))
        clean = [pose_of(self.complexes[i].graph, self.complexes[i].graph["ligand"].matched) for i in chosen]
        return DockingBatch(
            numbers, tuple(self.complexes[i] for i in different), tuple(different.index(i) for i in chosen),
            Pose.concatenate(clean),
        )  # fmt: skip


def complex_files(folder: Path) -> list[Path]:
    """Protein file of one complex, then its ligand files, the preferred one first. Raises DataError where one is
    missing."""
    found = [[path for p in patterns if (path := folder / p.format(name=folder.name)).exists()]
             for patterns in (PROTEINS, LIGANDS)]  # fmt: skip
    for files, patterns in zip(found, (PROTEINS, LIGANDS), strict=True):
        if not files:
            raise DataError(f"{folder}: has none of {', '.join(p.format(name=folder.name) for p in patterns)}")
    return [found[0][0], *found[1]]


def read_complex(folder: Path, language: LanguageModel | None = None, quirks: QuirksConfig = QuirksConfig()) -> Complex:
    """A complex with its true pose; its conformer follows from its name. Raises DataError or RequestError."""
    protein, *ligands = complex_files(folder)
    receptor = Receptor.of(read_protein(protein), language)
    seed = int.from_bytes(hashlib.sha256(folder.name.encode()).digest()[:4], "little") % 2**31
    ligand = _first_readable(ligands, quirks.raw_chirality)
    return make_complex(folder.name, receptor, ligand, seed, with_pose=True, turn_double=quirks.turn_double_bonds)


def _first_readable(paths: Sequence[Path], raw_chirality: bool) -> Ligand:
    """PDBBind gives every ligand in two formats, and some in one of them only can be made sense of."""
    errors = []
    for path in paths:
        try:
            return read_ligand(path, raw_chirality=raw_chirality)
        except RequestError as error:
            errors.append(error)
    raise errors[0]


def _names(folder: Path, table: str, split: str) -> tuple[list[str], set[str]]:
    """Complexes of a split, sorted, and those whose receptors the table says are not in training."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of complexes (model.data.folder)")
    here = {path.name for path in folder.iterdir() if path.is_dir()}
    if table:
        rows = _rows(Path(table))
        splits = Counter(row["split"] for row in rows)
        wanted = {row["id"] for row in rows if split in (row["split"], ALL)}
        unseen = {row["id"] for row in rows if row.get("no_rec_overlap") == "1"}
    else:
        splits = Counter(map(_split_of, here))
        wanted, unseen = {name for name in here if split in (_split_of(name), ALL)}, set()
    if not wanted:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items())) or "none"
        raise DataError(f"{table or folder}: has no split '{split}'; its splits: {there}")
    missing = sorted(wanted - here)
    if missing:
        logger.warning("%d complexes of %s are not in %s: %s", len(missing), table, folder, ", ".join(missing[:5]))
    if missing and not wanted & here:
        raise DataError(f"{folder}: holds none of the {len(wanted)} complexes of the split '{split}' in {table}")
    return sorted(wanted & here), unseen


def _split_of(name: str) -> str:
    return "train" if hashlib.sha256(name.encode()).digest()[0] % VALIDATION else "val"


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(f"{table}: no such file (model.data.table)") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table (model.data.table): {error}") from error
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise DataError(f"{table}: needs the columns 'id' and 'split'")
    return rows
