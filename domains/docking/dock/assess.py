"""From sampled poses to a result: what moved them, what is wrong with them, how they rank."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float64

from core.errors import DiscoError, RequestError
from domains.docking.complex import Complex
from domains.docking.dock.engine import Docked
from domains.docking.dock.flags import band, pose_flags
from domains.docking.dock.result import DockedPose, DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.graph import TORSION
from domains.docking.metrics.posechecks import check_poses
from domains.docking.metrics.poses import with_poses

Poses = Float64[np.ndarray, "p n 3"]
Extras = dict[str, Sequence[Any]]
logger = logging.getLogger("disco")


def assess(docked: Docked, settings: DockSettings, about: Mapping[str, Any], pointers: bool) -> DockingResult:
    """Rank the poses of a complex and say everything about them that was asked for.

    The confidence is that of the pose as sampled, also where it was minimised afterwards. about: the entries of
    result.json that speak of the run; pointers: the latents name atoms and residues. Poses that are not finite
    (networks can overflow) are left out and noted. Whatever an extra (minimisation, checks, rescoring) provokes is a
    note too, and the poses stay. Raises RequestError where no pose is finite.
    """
    order = _ranked(docked)
    each, lost = docked.complex, len(docked.positions) - len(order)
    if not order:
        raise RequestError("no pose is finite: the networks overflowed on this complex")
    notes = [f"{lost} of {len(docked.positions)} poses were not finite and are left out"] if lost else []
    places, extras = _extras(each, docked.positions[order], settings, notes)
    seen = pose_flags(each.ligand.mol, places, each.receptor.whole)
    if "rescores" in extras:  # gnina's networks praise a ligand in empty space
        pairs = zip(extras["rescores"], seen.words, strict=True)
        extras["rescores"] = [dict.fromkeys(scores) if "apart" in words else scores for scores, words in pairs]
    poses = []
    for place, number in enumerate(order):
        confidence = None if docked.confidence is None else _number(docked.confidence[number])
        codes = () if docked.codes is None else docked.codes[number]
        found = {name: values[place] for name, values in extras.items()}
        latents = (_latent(each, slot, int(code), places[place], pointers) for slot, code in enumerate(codes, 1))
        poses.append(
            DockedPose(
                rank=place + 1,
                sample=number + 1,
                positions=places[place],
                confidence=confidence,
                confidence_band=None if confidence is None else band(confidence),
                latents=tuple(latents),
                site=None if docked.sites is None else vars(docked.sites[number]),
                **seen.record(place),
                **found,
                frames=None if docked.frames is None else _film(docked.frames[number], places[place], found),
            )
        )
    return DockingResult(each.name, each, tuple(poses), about, docked.seconds, tuple(notes))


def _extras(each: Complex, places: Poses, settings: DockSettings, notes: list[str]) -> tuple[Poses, Extras]:
    """Poses [P, n, 3], minimised where that was asked for, and what else was asked for, one value per pose."""
    mol, whole = each.ligand.mol, each.receptor.whole
    extras: Extras = {}
    if settings.minimize:
        with _optional("minimisation", each, notes):
            from domains.docking.dock.minimize import minimize_poses

            relaxed = minimize_poses(mol, places, whole)
            places, extras["minimized"] = relaxed.positions, relaxed.records()
    if settings.check:
        with _optional("PoseBusters", each, notes):
            extras |= _checks(each, places, notes)
    scores: dict[str, np.ndarray] = {}
    for program in settings.rescore:
        with _optional(f"rescoring with {program}", each, notes):
            from domains.docking.dock.rescore import rescore

            scores |= rescore(program, mol, places, whole)
    if scores:
        rows = zip(*scores.values(), strict=True)
        extras["rescores"] = [{name: _number(value) for name, value in zip(scores, row, strict=True)} for row in rows]
    return places, extras


@contextmanager
def _optional(extra: str, each: Complex, notes: list[str]) -> Iterator[None]:
    """Poses cost more than what is said of them: whatever fails within is a note and a warning, and no more."""
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, DiscoError) else f"unexpected {type(error).__name__}: {error}"
        notes.append(f"{extra} failed, the poses are without it: {said}")
        logger.warning("%s: %s", each.name, notes[-1])


def _film(
    frames: Float64[np.ndarray, "s n 3"], place: Float64[np.ndarray, "n 3"], found: Mapping[str, Any]
) -> Float64[np.ndarray, "all n 3"]:
    """Frames [steps + 1, n, 3] of a pose, and one more, ``place``, where the minimiser moved it on."""
    moved = "minimized" in found and "reason" not in found["minimized"]
    return np.concatenate([frames, place[None]]) if moved else frames


def describe(each: Complex, protein: str, ligand: str) -> dict[str, Any]:
    """The entries of result.json about what was docked. protein, ligand: as the user gave them."""
    return {
        "protein": {
            "source": protein, "residues": each.receptor.protein.n_residues,
            "notes": list(each.receptor.protein.notes),
        },
        "ligand": {
            "source": ligand, "name": each.ligand.name, "smiles": each.ligand.smiles,
            "heavy_atoms": each.ligand.n_atoms, "rotatable_bonds": each.graph[TORSION].edge_index.shape[1],
            "notes": list(each.ligand.notes),
        },
        "pocket": each.receptor.protein.report.pocket or None,
    }  # fmt: skip


def _ranked(docked: Docked) -> list[int]:
    """Numbers of the finite poses, best confidence first; as sampled where there is no confidence."""
    finite = [i for i, pose in enumerate(docked.positions) if np.isfinite(pose).all()]
    if docked.confidence is None:
        return finite
    value = np.nan_to_num(docked.confidence, nan=-np.inf)
    return sorted(finite, key=lambda i: -value[i])


def _latent(each: Complex, slot: int, code: int, pose: np.ndarray, pointers: bool) -> Mapping[str, Any]:
    if not pointers:
        return {"slot": slot, "kind": "word", "name": f"word {code}"}
    named = {"slot": slot, "name": each.node_name(code)}
    atoms, protein = each.ligand.n_atoms, each.receptor.protein
    if code < atoms:
        return {**named, "kind": "atom", "atom": code, "point": _point(pose[code])}
    residue = code - atoms
    where = {"chain": protein.chains[residue], "number": protein.numbers[residue]}
    return {**named, "kind": "residue", **where, "point": _point(protein.ca[residue])}


def _point(place: np.ndarray) -> list[float]:
    return [round(float(x), 3) for x in place]


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _checks(each: Complex, positions: np.ndarray, notes: list[str]) -> Extras:
    """PoseBusters on every pose, and a note for each on which it fails."""
    found = check_poses(with_poses(each.ligand.mol, positions), each.receptor.whole)
    notes += [f"PoseBusters: pose of rank {rank}: {error}" for rank, error in enumerate(found.errors, 1) if error]
    rows = [dict(zip(found.names, (bool(x) for x in row), strict=True)) for row in found.passed]
    return {"checks": rows, "pb_valid": [bool(x) for x in found.valid]}
