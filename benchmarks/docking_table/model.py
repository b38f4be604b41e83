"""A docking model of ours as a method of the table, by the call that users have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from benchmarks.docking_table.complexes import MARGIN, Case, Mode, Poses
from core.errors import DataError, RequestError
from core.pipeline import Pipeline
from domains.docking.dock.result import DockingResult
from domains.docking.pipeline import DockingPipeline


class ModelDocking:
    """``DockingPipeline.dock`` on every complex. options: further settings of a docking run, by name.

    Blind, no pocket is given; else the crystal ligand's file is the pocket, and of it nothing else is told. The ligand
    goes in as a molecule without coordinates. Raises RequestError where the folder holds no docking model.
    """

    def __init__(
        self, folder: Path, poses: int = 40, seed: int = 0, device: str = "auto", options: Mapping[str, Any] = {}
    ) -> None:
        pipeline = Pipeline.from_pretrained(folder, device)
        if not isinstance(pipeline, DockingPipeline):
            raise RequestError(f"{folder}: holds no docking model")
        self.pipeline, self.poses, self.seed, self.options = pipeline, poses, seed, dict(options)

    @property
    def about(self) -> dict[str, Any]:
        """What the results depend on, and the device that the seconds do."""
        settings = {"poses": self.poses, "seed": self.seed, **{name: str(one) for name, one in self.options.items()}}
        return {**settings, "model": self.pipeline.manifest.digest, "device": self.pipeline.device.type}

    def __call__(self, case: Case, mode: Mode) -> Poses:
        ligand = Chem.Mol(case.ligand().mol)
        ligand.RemoveAllConformers()  # where RDKit finds no conformer, that of the input would be used
        site: dict[str, Any] = {} if mode == "blind" else {"pocket": case.crystal, "margin": MARGIN}
        found = self.pipeline.dock(
            case.protein, ligand, poses=self.poses, seed=self.seed, name=case.name, **site, **self.options
        )
        return ranked(found, ligand, self.poses)


def ranked(found: DockingResult, ligand: Chem.Mol, count: int) -> Poses:
    """The poses in the order of their ranks; those left out because they were not finite come last, as NaN.

    Raises DataError where the atoms of the result are not those of the ligand in their order.
    """
    docked = found.complex.ligand.mol
    if [atom.GetAtomicNum() for atom in docked.GetAtoms()] != [atom.GetAtomicNum() for atom in ligand.GetAtoms()]:
        raise DataError(f"{found.id}: the docked ligand has other atoms, or in another order, than the one given")
    poses = sorted(found.poses, key=lambda pose: pose.rank)
    positions = np.full((max(count, len(poses)), ligand.GetNumAtoms(), 3), np.nan)
    positions[: len(poses)] = [pose.positions for pose in poses]
    known = [pose.confidence for pose in poses if pose.confidence is not None]
    if len(known) < len(poses):
        return Poses(positions)
    scores = np.full(len(positions), np.nan)
    scores[: len(known)] = known
    return Poses(positions, scores)
