"""The folder of a docking run: what is in it, what is finished, and whose it is."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from core.errors import DataError, RequestError
from core.files import locked, sha256, storage_errors, write_text
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.pdb_block import pdb_block
from domains.docking.chemistry.protein import Protein
from domains.docking.dock.jobs import Failure, Job
from domains.docking.dock.record import CONFIG, FAILURES, PROTEINS, RESULT, SUMMARY, read_record
from domains.docking.dock.result import DockingResult, clear
from domains.docking.dock.worker import stamp
from domains.docking.write import folder_name

COLUMNS = (
    "id", "row", "protein", "ligand", "smiles", "poses", "confidence", "confidence_band", "flags", "clashes", "strain",
    "pb_valid", "seconds", "best_pose", "notes",
)  # fmt: skip
FREE = ("batch_size", "model")  # change no result; the model is known by the checksum of its weights


class RunFolder:
    """OUT of ``disco dock``. A complex is finished where OUT/ID/result.json is and fits its inputs."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """settings: what the results depend on beside those of ``begin``, as plain values."""
        self.path, self.settings = path, dict(settings)
        self.overwrite = self.begun = False

    @contextmanager
    def opened(self, overwrite: bool) -> Iterator[None]:
        """Hold the folder; nothing in it is touched before ``begin``. Raises RequestError where another run does,
        StorageError."""
        self.overwrite, self.begun = overwrite, False
        with locked(self.path):
            yield

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start a run under these settings. Raises RequestError where the folder holds results of others; with
        ``overwrite`` all results are taken away instead. Raises StorageError."""
        self.settings = {**settings, **self.settings}
        with storage_errors(self.path):
            for folder in (self.path, self.path / PROTEINS):
                _tidy(folder)
            if self.overwrite:
                for result in self.path.glob(f"*/{RESULT}"):
                    clear(result.parent)
            else:
                self._check()
        write_text(self.path / CONFIG, yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True))
        self.begun = True

    def _check(self) -> None:
        if next(self.path.glob(f"*/{RESULT}"), None) is None:
            return
        try:
            before = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            before = None
        if not isinstance(before, dict):
            raise RequestError(
                f"{self.path} holds results, but its {CONFIG}, with their settings, is missing or damaged: choose "
                "another folder, or --overwrite to dock everything again"
            )
        now = {name: value for name, value in self.settings.items() if name not in FREE}
        differ = [
            f"{name} {before.get(name)!r}, now {value!r}" for name, value in now.items() if before.get(name) != value
        ]
        if differ:
            raise RequestError(
                f"{self.path} holds results of other settings ({'; '.join(differ)}): choose another folder, or "
                "--overwrite to dock everything again"
            )

    def fingerprint(self, job: Job) -> str:
        """SHA-256 of what a job's result depends on. Settings are the folder's own, so they are not in it."""
        site = job.site.model_dump(mode="json")
        pocket = None if job.site.pocket is None else _checksum(job.site.pocket)
        parts = [job.id, _checksum(job.protein), job.ligand.name, job.ligand.smiles, site, pocket]
        digest = hashlib.sha256(json.dumps(parts).encode())
        if job.ligand.coordinates is not None:
            digest.update(job.ligand.coordinates.tobytes())
        return digest.hexdigest()

    def finished(self, job: Job) -> dict[str, Any] | None:
        """The row of a job that was done before, from the same inputs."""
        try:
            record = read_record(self.path / job.id / RESULT)
            return row_of(record, job.row) if record.get("fingerprint") == job.fingerprint else None
        except (DataError, LookupError, TypeError, AttributeError):  # none, or damaged
            return None

    def has(self, id_: str) -> bool:
        """Whether there is a result of this name, from whatever inputs."""
        return (self.path / id_ / RESULT).is_file()

    def drop(self, id_: str) -> None:
        """Take away what an earlier run wrote for a job that fails now: it was docked from other inputs."""
        if self.has(id_):
            clear(self.path / id_)

    def write(self, job: Job, result: DockingResult) -> dict[str, Any]:
        """Write one result; returns its row of the summary. Raises StorageError."""
        folder = self.path / job.id
        with storage_errors(folder):
            _tidy(folder)
            protein = self._protein(job.protein, result.complex.receptor.whole)
            record = result.write(folder, f"../{PROTEINS}/{protein}", fingerprint=job.fingerprint)
        return row_of(record, job.row)

    def _protein(self, source: Path, protein: Protein) -> str:
        """File of a protein as it was read, whole; its name holds a checksum, so equal ones share a file."""
        text = _block(protein)
        name = f"{folder_name(file_stem(source))}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.pdb"
        path = self.path / PROTEINS / name
        if not path.is_file():
            write_text(path, text)
        return name

    def write_tables(self, rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> None:
        """failures.csv of this run, and summary.csv with one row per finished complex: those of this run in the order
        of the jobs, then those that earlier runs left here. Raises StorageError."""
        known = {row["id"] for row in rows}
        every = sorted(rows, key=lambda row: (row["row"], row["id"])) + self._others(known)
        failed = [asdict(failure) for failure in sorted(failures, key=lambda failure: (failure.row, failure.id))]
        write_text(self.path / SUMMARY, _table(COLUMNS, every))
        write_text(self.path / FAILURES, _table([f.name for f in fields(Failure)], failed))

    def _others(self, known: Set[str]) -> list[dict[str, Any]]:
        rows = []
        for path in sorted(self.path.glob(f"*/{RESULT}")):
            if path.parent.name not in known:
                with suppress(DataError, LookupError, TypeError, AttributeError):  # damaged
                    rows.append(row_of(read_record(path), None))
        return rows


def row_of(record: Mapping[str, Any], row: int | None) -> dict[str, Any]:
    """One complex as a row of summary.csv: its best pose. row: of the job, None where it is not of this run."""
    best = record["poses"][0]
    more = {f"minimized_{name}": value for name, value in best.get("minimized", {}).items()}
    return {
        "id": record["id"], "row": row, "protein": record["protein"]["source"], "ligand": record["ligand"]["source"],
        "smiles": record["ligand"]["smiles"], "poses": len(record["poses"]), "confidence": best["confidence"],
        "confidence_band": best["confidence_band"], "flags": ", ".join(best["flags"]), "clashes": best["clashes"],
        "strain": best["strain"], "pb_valid": best.get("pb_valid"), "seconds": record["seconds"],
        "best_pose": f"{record['id']}/{best['file']}",
        "notes": "; ".join(record["ligand"]["notes"]), **more, **best.get("rescores", {}),
    }  # fmt: skip


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text; columns that only some rows have come behind."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _tidy(folder: Path) -> None:
    """Take away what a run that was killed while writing left behind."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    changed = stamp(path)
    try:
        return "" if changed is None else _checksum_of(path, changed)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _checksum_of(path: Path, changed: tuple[int, int]) -> str:
    return sha256(path)


@lru_cache(maxsize=8)
def _block(protein: Protein) -> str:
    return pdb_block(protein)
