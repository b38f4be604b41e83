"""What each method did on each complex: one file per complex, so that a run that was killed goes on where it was."""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.docking_table.complexes import Case, Method, Mode, Poses
from core.errors import DataError, RequestError
from core.files import write_text
from domains.docking.chemistry.ligand import Ligand
from domains.docking.chemistry.protein import read_protein
from domains.docking.metrics.poses import judge_poses

logger = logging.getLogger("disco")
ABOUT = "method.json"
SYMMETRY_LIMIT = 600.0  # seconds on the wall for the RMSDs of one complex: far above what is needed, also under load


@dataclass(frozen=True)
class Record:
    """One method on one complex; poses best first where ``ranked``, else in an order that says nothing.

    rmsd, centroid, protein_distance, self_distance, scores: one figure per pose, None where it could not be found;
    valid: whether the first pose is PB-valid, None where it could not be checked; wall, cpu: seconds from the files to
    the poses; failure: why there are none, or None; problems: what could not be measured.
    """

    name: str
    subset: str
    unseen: bool
    ranked: bool = False
    rmsd: tuple[float | None, ...] = ()
    centroid: tuple[float | None, ...] = ()
    protein_distance: tuple[float | None, ...] = ()
    self_distance: tuple[float | None, ...] = ()
    scores: tuple[float | None, ...] | None = None
    valid: bool | None = None
    wall: float | None = None
    cpu: float | None = None
    failure: str | None = None
    problems: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Raises DataError for a file that is no record."""
        try:
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in known.items()
            }
            return cls(**values)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{path}: is no record of a docked complex: {error}; delete it and run again") from error


def run(
    out: Path,
    about: dict[str, Any],
    cases: Sequence[Case],
    method: Method,
    mode: Mode,
    pose_checks: bool = True,
    retry: bool = False,
) -> None:
    """Dock every complex that has no record in OUT yet, and write OUT/ID.json.

    about: of the method, written to OUT/method.json; retry: also dock again what failed. Whatever one complex provokes
    is its failure and stops no other. Raises RequestError where OUT is of a method with other settings, StorageError
    where it cannot be written.
    """
    if pose_checks:
        _need_posebusters()
    _claim(out / ABOUT, {**about, "mode": mode})
    for number, case in enumerate(cases, start=1):
        path = out / f"{case.name}.json"
        if path.exists() and not (retry and Record.read(path).failure is not None):
            continue
        record = dock(case, method, mode, pose_checks)
        write_text(path, json.dumps(asdict(record), allow_nan=False) + "\n")
        best = f"top-1 {record.rmsd[0]:.2f} A" if record.rmsd and record.rmsd[0] is not None else record.failure
        logger.info("%s: %d of %d: %s: %s, %.0f CPU s", out.name, number, len(cases), case.name, best, record.cpu or 0)


def dock(case: Case, method: Method, mode: Mode, pose_checks: bool = True) -> Record:
    """One complex: docked, timed, judged."""
    wall, cpu = time.perf_counter(), _cpu()
    try:
        poses = method(case, mode)
        wall, cpu = time.perf_counter() - wall, _cpu() - cpu
    except Exception as error:  # whatever it is, the other complexes are to be docked
        wall, cpu = time.perf_counter() - wall, _cpu() - cpu
        failure = str(error) if isinstance(error, DataError | RequestError) else f"{type(error).__name__}: {error}"
        return Record(case.name, case.subset, case.unseen, wall=wall, cpu=cpu, failure=failure)
    try:
        return judged(case, case.ligand(), poses, wall, cpu, pose_checks)
    except Exception as error:  # as above
        reason = f"its poses could not be judged: {type(error).__name__}: {error}"
        return Record(case.name, case.subset, case.unseen, wall=wall, cpu=cpu, failure=reason)


def judged(case: Case, ligand: Ligand, poses: Poses, wall: float, cpu: float, pose_checks: bool) -> Record:
    """The record of some poses; PoseBusters sees the first only."""
    assert ligand.coordinates is not None  # Case.ligand sees to it
    positions, scores = poses.positions, poses.scores
    protein = read_protein(case.protein)
    found = judge_poses(ligand.mol, ligand.coordinates, positions, protein, name=case.name, time_limit=SYMMETRY_LIMIT)
    valid, problems = None, found.problems
    if pose_checks and found.failure is None:
        first = judge_poses(
            ligand.mol,
            ligand.coordinates,
            positions[:1],
            protein,
            name=case.name,
            time_limit=SYMMETRY_LIMIT,
            pose_checks=True,
        )
        valid = None if first.valid is None else bool(first.valid[0])
        problems = tuple(dict.fromkeys(problems + first.problems))
    return Record(
        case.name, case.subset, case.unseen, poses.ranked, _plain(found.rmsd), _plain(found.centroid),
        _plain(found.min_protein_distance), _plain(found.min_self_distance),
        None if scores is None else _plain(scores), valid, wall, cpu, found.failure, problems,
    )  # fmt: skip


def _claim(path: Path, about: dict[str, Any]) -> None:
    """Write what the folder is of, or see that it is of the same."""
    about = json.loads(json.dumps(about))
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(key for key in there.keys() | about.keys() if there.get(key) != about.get(key))
        if different:
            said = ", ".join(f"{key}: {there.get(key)!r}, now {about.get(key)!r}" for key in different)
            raise RequestError(f"{path.parent}: holds results under other settings ({said}); choose another --name")
        return
    write_text(path, json.dumps(about, indent=1) + "\n")


def _need_posebusters() -> None:
    try:
        import posebusters  # noqa: F401
    except ImportError as error:
        raise RequestError("validity needs PoseBusters: pip install 'disco-diff[docking]', or --no-checks") from error


def _cpu() -> float:
    """User and system seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _plain(values: np.ndarray) -> tuple[float | None, ...]:
    """For JSON: what is not finite as None."""
    return tuple(round(value, 4) if math.isfinite(value) else None for value in values.tolist())
