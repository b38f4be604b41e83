"""A docking model, ready to dock: what notebooks call."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rdkit import Chem

from core.errors import RequestError
from core.pipeline import Pipeline
from domains.docking.config import DockingConfig
from domains.docking.dock.jobs import Failure, Job, jobs_of_ligands
from domains.docking.dock.result import DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Worker

AT_ONCE = 8  # ligands that share network calls


class DockingPipeline(Pipeline):
    """What ``Pipeline.from_pretrained`` gives for a docking model."""

    def dock(
        self, protein: Path | str, ligand: Path | str | Chem.Mol, poses: int = 40, seed: int = 0, *,
        name: str | None = None, template: str | None = None, **settings: Any,
    ) -> DockingResult:  # fmt: skip
        """Dock one ligand: a file (its first record), a SMILES, or an RDKit molecule.

        name: of the complex, from which its random numbers follow, None: from the files; template: SMILES with the bond
        orders of a PDB ligand; settings: the other fields of ``DockSettings`` (steps, pocket, check, minimize, ...).
        The poses are those that ``disco dock`` gives for the same files, name and seed. Raises RequestError with the
        reason where nothing can be docked.
        """
        chosen = DockSettings.parse({"poses": poses, "seed": seed, **settings})
        outcome = next(self._dock(islice(self._jobs(protein, ligand, chosen, name, template), 1), chosen))
        if isinstance(outcome, Failure):
            raise RequestError(f"{outcome.id}: {outcome.stage}: {outcome.reason}")
        return outcome

    def dock_each(
        self, protein: Path | str, ligands: Path | str | Chem.Mol, poses: int = 40, seed: int = 0, **settings: Any
    ) -> Iterator[DockingResult | Failure]:
        """Dock every record of a ligand file; a record that cannot be docked comes as a ``Failure``."""
        chosen = DockSettings.parse({"poses": poses, "seed": seed, **settings})
        return self._dock(self._jobs(protein, ligands, chosen), chosen)

    def _dock(self, jobs: Iterator[Job | Failure], settings: DockSettings) -> Iterator[DockingResult | Failure]:
        worker = Worker(self, settings)
        while shard := list(islice(jobs, AT_ONCE)):
            docked = worker.dock([job for job in shard if isinstance(job, Job)])
            for job in shard:
                yield job if isinstance(job, Failure) else next(docked)[1]

    def _jobs(
        self, protein: Path | str, ligands: Path | str | Chem.Mol, settings: DockSettings, name: str | None = None,
        template: str | None = None,
    ) -> Iterator[Job | Failure]:  # fmt: skip
        model = self.config.model
        assert isinstance(model, DockingConfig)
        given = ligands if isinstance(ligands, Chem.Mol) else str(ligands)
        return jobs_of_ligands(
            Path(protein),
            given,
            template=template,
            name=name,
            site=settings.site,
            raw_chirality=model.quirks.raw_chirality,
        )
