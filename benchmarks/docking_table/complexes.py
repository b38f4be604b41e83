"""The complexes that every method docks, where it may look, and what it gives."""

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from core.errors import DataError
from domains.docking.chemistry.ligand import Ligand, read_ligand
from domains.docking.data import complex_files

Mode = Literal["blind", "pocket"]
MARGIN = 10.0  # Angstrom around the crystal ligand: the pocket of all methods but Vina
BOX_MARGIN, LEAST_EDGE = 5.0, 20.0  # Angstrom on every side of what a search box holds, and its least edge


@dataclass(frozen=True)
class Case:
    """A complex of the test set. subset: ``main`` or ``hard``; unseen: the table lists its receptor as one that the
    published models were not trained on."""

    name: str
    subset: str
    unseen: bool
    folder: Path

    @property
    def protein(self) -> Path:
        """Its protein file. Raises DataError where there is none."""
        return complex_files(self.folder)[0]

    @property
    def crystal(self) -> Path:
        """The ligand as the crystal has it. Raises DataError where there is none."""
        return complex_files(self.folder)[1]

    def ligand(self) -> Ligand:
        """The ligand with its true pose. Raises DataError or RequestError where it cannot be read or has no pose."""
        ligand = read_ligand(self.crystal)
        if ligand.coordinates is None:
            raise DataError(f"{self.crystal}: has no 3-D coordinates: there is no true pose to measure against")
        return ligand


@dataclass(frozen=True, eq=False)
class Poses:
    """What a method found. positions: [P, n, 3] Angstrom, atoms as in ``Case.ligand``, NaN for a pose that was lost;
    scores: [P] by which the method ranked them, best first; None: their order says nothing."""

    positions: Float64[np.ndarray, "p n 3"]
    scores: Float64[np.ndarray, " p"] | None = None

    @property
    def ranked(self) -> bool:
        return self.scores is not None


Method = Callable[[Case, Mode], Poses]  # from the files to poses; raises where it finds none


def read_cases(folder: Path, table: Path, subset: str = "all") -> list[Case]:
    """Complexes of a table (columns id, subset, no_rec_overlap), in the order of a hash of their names, so that the
    first N are a sample whatever N is.

    subset: ``main``, ``hard`` or ``all``. Raises DataError for a table without these columns or complexes.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        every = [
            Case(row["id"], row["subset"].partition("(")[0], row["no_rec_overlap"] == "1", folder / row["id"])
            for row in rows
        ]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is no table with the columns id, subset and no_rec_overlap: {error!r}") from error
    chosen = [case for case in every if subset in (case.subset, "all")]
    if not chosen:
        there = ", ".join(sorted({case.subset for case in every})) or "none"
        raise DataError(f"{table}: has no complex of the subset '{subset}'; its subsets: {there}")
    return sorted(chosen, key=lambda case: hashlib.sha256(case.name.encode()).digest())


def search_box(points: Float64[np.ndarray, "n 3"]) -> tuple[list[float], list[float]]:
    """Center and edges (Angstrom) of the box that a search gets: the extent of the points + 10 A, at least 20 A."""
    low, high = points.min(axis=0), points.max(axis=0)
    return ((low + high) / 2).tolist(), np.maximum(high - low + 2 * BOX_MARGIN, LEAST_EDGE).tolist()
