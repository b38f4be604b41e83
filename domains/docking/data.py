"""Complexes with known poses, from a folder with one sub-folder per complex."""

import csv
import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from core.errors import DataError, DiscoError
from core.files import sha256
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.ligand import read_ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import DataConfig
from domains.docking.language import LanguageModel
from domains.docking.pose import Pose, pose_of

logger = logging.getLogger("disco")
PROTEINS = ("protein.pdb", "protein.pdb.gz", "protein.cif", "{name}_protein_processed.pdb", "{name}_protein.pdb")
LIGANDS = ("ligand.sdf", "{name}_ligand.sdf", "ligand.mol2", "{name}_ligand.mol2")
VALIDATION = 20  # one of so many complexes validates where no table says which


class DockingDataset:
    """The complexes of one split, prepared when the data set is made and then kept.

    A complex that cannot be prepared is left out and named in the log. Raises DataError where the folder or the table
    is missing or wrong, or nothing is left.
    """

    def __init__(self, config: DataConfig, split: str, language: LanguageModel | None = None) -> None:
        if not config.folder:
            raise DataError("no complexes given: set model.data.folder to a folder with one sub-folder per complex")
        self.folder = Path(config.folder)
        names, self.unseen = _names(self.folder, config.table, split)
        self.left_out: dict[str, str] = {}
        self.complexes: list[Complex] = []
        for number, name in enumerate(names, start=1):
            try:
                self.complexes.append(read_complex(self.folder / name, language))
            except DiscoError as error:
                self.left_out[name] = str(error)
                logger.warning("%s left out: %s", name, error)
            if number % 100 == 0:
                logger.info("prepared %d of %d complexes", number, len(names))
        if not self.complexes:
            raise DataError(f"{self.folder}: no complex of the split '{split}' can be used")

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


def complex_files(folder: Path) -> tuple[Path, Path]:
    """Protein and ligand file of one complex. Raises DataError where one is missing."""

    def first(patterns: tuple[str, ...]) -> Path:
        for pattern in patterns:
            path = folder / pattern.format(name=folder.name)
            if path.exists():
                return path
        raise DataError(f"{folder}: none of {', '.join(p.format(name=folder.name) for p in patterns)} is in it")

    return first(PROTEINS), first(LIGANDS)


def read_complex(folder: Path, language: LanguageModel | None = None) -> Complex:
    """A complex with its true pose; its conformer follows from its name. Raises DataError or RequestError."""
    protein, ligand = complex_files(folder)
    receptor = Receptor.of(read_protein(protein), language)
    seed = int.from_bytes(hashlib.sha256(folder.name.encode()).digest()[:4], "little") % 2**31
    return make_complex(folder.name, receptor, read_ligand(ligand), seed, with_pose=True)


def _names(folder: Path, table: str, split: str) -> tuple[list[str], set[str]]:
    """Complexes of a split, sorted, and those whose receptors the table says are not in training."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of complexes (model.data.folder)")
    here = {path.name for path in folder.iterdir() if path.is_dir()}
    if not table:
        return sorted(name for name in here if _split_of(name) == split), set()
    rows = [row for row in _rows(Path(table)) if row["split"] == split]
    wanted = {row["id"] for row in rows}
    missing = sorted(wanted - here)
    if missing:
        logger.warning("%d complexes of %s are not in %s: %s", len(missing), table, folder, ", ".join(missing[:5]))
    return sorted(wanted & here), {row["id"] for row in rows if row.get("no_rec_overlap") == "1"}


def _split_of(name: str) -> str:
    return "train" if hashlib.sha256(name.encode()).digest()[0] % VALIDATION else "val"


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table (model.data.table): {error}") from error
    if not rows or not {"id", "split"} <= set(rows[0]):
        raise DataError(f"{table}: needs the columns 'id' and 'split'")
    return rows
