"""A docking model, ready to dock: what notebooks call."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rdkit import Chem

from core.errors import RequestError
from core.pipeline import Pipeline
from domains.docking.chemistry.files import file_stem
from domains.docking.chemistry.ligand import ligand_from_mol
from domains.docking.config import DockingConfig
from domains.docking.dock.jobs import Failure, Job, jobs_of_ligands
from domains.docking.dock.result import DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Worker

AT_ONCE = 8  # ligands that share network calls


class DockingPipeline(Pipeline):
    """What ``Pipeline.from_pretrained`` gives for a docking model."""

    def dock(
        self, protein: Path | str, ligand: Path | str | Chem.Mol, poses: int = 10, seed: int = 0, **settings: Any
    ) -> DockingResult:
        """Dock one ligand: a file (its first record), a SMILES, or an RDKit molecule.

        settings: the other fields of ``DockSettings`` (steps, pocket, check, minimize, ...). The poses are those that
        ``disco dock`` gives for the same files and seed. Raises RequestError with the reason where nothing can be
        docked.
        """
        outcome = next(self.dock_each(protein, ligand, poses, seed, **settings))
        if isinstance(outcome, Failure):
            raise RequestError(f"{outcome.id}: {outcome.stage}: {outcome.reason}")
        return outcome

    def dock_each(
        self, protein: Path | str, ligands: Path | str | Chem.Mol, poses: int = 10, seed: int = 0, **settings: Any
    ) -> Iterator[DockingResult | Failure]:
        """Dock every record of a ligand file; a record that cannot be docked comes as a ``Failure``."""
        chosen = DockSettings.parse({"poses": poses, "seed": seed, **settings})
        worker = Worker(self, chosen)
        shard: list[Job] = []
        for job in self._jobs(Path(protein), ligands, chosen):
            if isinstance(job, Job):
                shard.append(job)
            if isinstance(job, Failure) or len(shard) == AT_ONCE:
                yield from (outcome for _, outcome in worker.dock(shard))
                shard = []
            if isinstance(job, Failure):
                yield job
        yield from (outcome for _, outcome in worker.dock(shard))

    def _jobs(self, protein: Path, ligands: Path | str | Chem.Mol, settings: DockSettings) -> Iterator[Job | Failure]:
        model = self.config.model
        assert isinstance(model, DockingConfig)
        raw = model.quirks.raw_chirality
        if not isinstance(ligands, Chem.Mol):
            return jobs_of_ligands(protein, str(ligands), site=settings.site, raw_chirality=raw)
        name = ligands.GetProp("_Name").strip() if ligands.HasProp("_Name") else ""
        ligand = ligand_from_mol(ligands, name or "ligand", raw_chirality=raw)
        job = Job(f"{file_stem(protein)}_{ligand.name}", 1, protein, ligand, "RDKit molecule", settings.site)
        return iter([job])
