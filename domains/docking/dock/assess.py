"""From sampled poses to a result: what moved them, what is wrong with them, how they rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from core.errors import DataError, RequestError
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


def assess(docked: Docked, settings: DockSettings, about: Mapping[str, Any], pointers: bool) -> DockingResult:
    """Rank the poses of a complex and say everything about them that was asked for.

    The confidence is that of the pose as sampled, also where it was minimised afterwards. about: the entries of
    result.json that speak of the run; pointers: the latents name atoms and residues. Poses that are not finite
    (networks can overflow) are left out and noted. Raises RequestError where none is left.
    """
    order = _ranked(docked)
    each, lost = docked.complex, len(docked.positions) - len(order)
    if not order:
        raise RequestError("no pose is finite: the networks overflowed on this complex")
    notes = [f"{lost} of {len(docked.positions)} poses were not finite and are left out"] if lost else []
    places, extras = _extras(each, docked.positions[order], settings, notes)
    seen = pose_flags(each.ligand.mol, places, each.receptor.whole)
    poses = []
    for place, number in enumerate(order):
        confidence = None if docked.confidence is None else _number(docked.confidence[number])
        codes = () if docked.codes is None else docked.codes[number]
        latents = (_latent(each, slot, int(code), places[place], pointers) for slot, code in enumerate(codes, 1))
        poses.append(
            DockedPose(
                rank=place + 1,
                sample=number + 1,
                positions=places[place],
                confidence=confidence,
                band=None if confidence is None else band(confidence),
                latents=tuple(latents),
                **seen.record(place),
                **{name: values[place] for name, values in extras.items()},
                frames=None if docked.frames is None else docked.frames[number],
            )
        )
    return DockingResult(each.name, each, tuple(poses), about, docked.seconds, tuple(notes))


def _extras(each: Complex, places: Poses, settings: DockSettings, notes: list[str]) -> tuple[Poses, Extras]:
    """Poses [P, n, 3], minimised where that was asked for, and what else was asked for, one value per pose."""
    mol, whole = each.ligand.mol, each.receptor.whole
    extras: Extras = {}
    if settings.minimize:
        from domains.docking.dock.minimize import minimize_poses

        relaxed = minimize_poses(mol, places, whole)
        places, extras["minimized"] = relaxed.positions, relaxed.records()
    if settings.check:
        extras |= _checks(each, places, notes)
    if settings.rescore:
        from domains.docking.dock.rescore import rescore

        scores = rescore(settings.rescore, mol, places, whole)
        rows = zip(*scores.values(), strict=True)
        extras["rescores"] = [{name: _number(value) for name, value in zip(scores, row, strict=True)} for row in rows]
    return places, extras


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
    """PoseBusters on every pose; where it cannot take the complex at all, a note instead."""
    try:
        found = check_poses(with_poses(each.ligand.mol, positions), each.receptor.whole)
    except DataError as error:
        notes.append(f"PoseBusters: {error}")
        return {}
    notes += [f"PoseBusters: pose of rank {rank}: {error}" for rank, error in enumerate(found.errors, 1) if error]
    rows = [dict(zip(found.names, (bool(x) for x in row), strict=True)) for row in found.passed]
    return {"checks": rows, "pb_valid": [bool(x) for x in found.valid]}
