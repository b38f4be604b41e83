"""What the report shows, read from the files of a run: results, failures, poses, proteins, trajectories."""

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.errors import DataError
from domains.docking.dock.record import RESULT, read_record
from domains.docking.dock.report.drawing import drawing

FAILURE_COLUMNS = ("id", "ligand", "stage", "reason")


FACTS: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
    ("Model", lambda record: record["model"]["name"]),
    ("Weights", lambda record: str(record["model"]["sha256"])[:12]),
    ("Seed", lambda record: record["settings"]["seed"]),
    ("Poses", lambda record: record["settings"]["poses"]),
    ("Steps", lambda record: record["settings"]["steps"]),
    ("Sampler", lambda record: record["settings"]["sampler"]),
    ("Guidance", lambda record: record["settings"]["guidance"]),
)


@dataclass(frozen=True, eq=False)
class Finished:
    """A docked complex in short, so that a hundred thousand fit into memory.

    row: what the table lists of it (figures of rank 1); facts: names and values of what it was docked with.
    """

    folder: Path
    row: Mapping[str, Any]
    facts: tuple[tuple[str, str], ...]


def read_results(folders: Iterable[Path]) -> tuple[list[Finished], list[dict[str, str]]]:
    """Complexes, best confidence of rank 1 first, then those without; and a failure for every damaged result."""
    finished, failures = [], []
    for folder in folders:
        try:
            record = read_record(folder / RESULT)
        except DataError as error:
            failures.append(dict(zip(FAILURE_COLUMNS, (folder.name, "", "report", str(error)), strict=True)))
        else:
            finished.append(Finished(folder, _row(record), tuple(_facts(record))))
    finished.sort(key=lambda result: _natural(result.row["id"]))
    finished.sort(key=lambda result: math.inf if result.row["confidence"] is None else -result.row["confidence"])
    return finished, failures


def read_failures(path: Path) -> list[dict[str, str]]:
    """Rows of failures.csv; none where there is no such file. Raises DataError where it is no table."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as handle:
            return [{name: row.get(name) or "" for name in FAILURE_COLUMNS} for row in csv.DictReader(handle)]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}): remove it and write the report again") from error


def run_facts(results: Iterable[Finished]) -> list[tuple[str, str]]:
    """Names and values of what all complexes were docked with; several values where they differ."""
    seen = dict.fromkeys(fact for result in results for fact in result.facts)
    values = {name: [value for other, value in seen if other == name] for name, _ in FACTS}
    return [(name, ", ".join(found)) for name, found in values.items() if found]


def complex_contents(folder: Path, receptors: dict[str, int], base: Path) -> dict[str, Any]:
    """Everything that the page shows of a complex. Files that are not there are None. Raises DataError.

    receptors: number of every protein text met so far; a new one is added.
    """
    record = read_record(folder / RESULT)
    poses = record["poses"]
    protein_file = folder / str(record.get("protein", {}).get("file") or "protein.pdb")
    protein = _text(protein_file)
    blocks = [_molblock(_text(folder / str(pose.get("file", "")))) for pose in poses]
    drawn = next((block for block in blocks if block), None)
    files = [("All poses (SDF)", "poses.sdf"), ("Everything (JSON)", RESULT)]
    files += [(f"Pose {pose.get('rank')} (SDF)", str(pose["file"])) for pose in poses if pose.get("file")]
    files += [(f"Pose {p.get('rank')}, trajectory (PDB)", str(p["trajectory"])) for p in poses if p.get("trajectory")]
    places = [(label, folder / name) for label, name in files] + [("Protein (PDB)", protein_file)]
    return {
        "record": record,
        "receptor": None if protein is None else receptors.setdefault(protein, len(receptors)),
        "molblocks": blocks,
        "trajectories": [_frames(_text(folder / str(p["trajectory"]))) if p.get("trajectory") else None for p in poses],
        "drawing": drawing(drawn) if drawn else None,
        "files": [[label, link(path, base)] for label, path in places if path.is_file()],
    }


def link(path: Path, base: Path) -> str:
    """Relative address of a file, seen from a page in the folder ``base``."""
    return "./" + quote(Path(os.path.relpath(path, base)).as_posix())


def _row(record: dict[str, Any]) -> dict[str, Any]:
    first = record["poses"][0] if record["poses"] else {}
    figures = {name: first.get(name) for name in ("confidence", "confidence_band", "flags", "pb_valid", "rescores")}
    ligand = str(record.get("ligand", {}).get("name") or "")
    return {"id": str(record["id"]), "ligand": ligand, "poses": len(record["poses"]), **figures}


def _facts(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in FACTS:
        with suppress(KeyError, TypeError):
            yield name, str(value(record))


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _molblock(sdf: str | None) -> str | None:
    """First record of an SD file without its properties."""
    found = None if sdf is None else re.match(r".*?^M  END$", sdf, re.DOTALL | re.MULTILINE)
    return found[0] + "\n" if found else None


def _frames(pdb: str | None) -> list[list[float]] | None:
    """x, y, z of all atoms after each other, Angstrom, for every MODEL; None where the file is missing or damaged."""
    if pdb is None:
        return None
    try:
        frames = [list(_coordinates(model)) for model in re.split(r"^ENDMDL.*$", pdb, flags=re.MULTILINE)]
    except ValueError:
        return None
    frames = [frame for frame in frames if frame]
    return frames if frames and len({len(frame) for frame in frames}) == 1 else None


def _coordinates(model: str) -> Iterator[float]:
    for line in model.splitlines():
        if line.startswith(("ATOM", "HETATM")):
            yield from (round(float(line[start : start + 8]), 2) for start in (30, 38, 46))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Key that sorts lig2 before lig10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", name)]
