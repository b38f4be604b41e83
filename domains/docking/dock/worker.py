"""One process's share of a docking run: jobs in, results or named failures out."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import DiscoError, RequestError, StorageError
from core.pipeline import Pipeline
from domains.docking.chemistry.protein import read_protein
from domains.docking.complex import Complex, Receptor, make_complex
from domains.docking.config import DockingConfig
from domains.docking.dock.assess import assess, describe
from domains.docking.dock.engine import Docked, Engine, conformer_seed
from domains.docking.dock.jobs import Failure, Job
from domains.docking.dock.rescore import require
from domains.docking.dock.result import DockingResult
from domains.docking.dock.settings import DockSettings
from domains.docking.language import LanguageModel
from domains.docking.request import Site

RECEPTORS = 8  # prepared ones that are kept: a library against one protein prepares it once


class StageError(DiscoError):
    """What failed, and at which stage of a job."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


def attempt(job: Job, stage: str, work: Any) -> Any:
    """What ``work`` gives, or the failure that it is. Raises StorageError, which is nobody's own."""
    try:
        return work()
    except StorageError:
        raise
    except DiscoError as error:
        return job.failed(error.stage if isinstance(error, StageError) else stage, str(error))
    except Exception as error:  # one job's surprise must not end a run of a hundred thousand
        return job.failed(stage, f"unexpected {type(error).__name__}: {error}; please report this input")


class Receptors:
    """Proteins, prepared once and kept for the jobs that follow; of one that cannot be used, the reason is kept."""

    def __init__(self, language: LanguageModel | None) -> None:
        self.language = language
        self._kept: OrderedDict[tuple[Path, Site], Receptor | StageError] = OrderedDict()

    def get(self, path: Path, site: Site) -> Receptor:
        """The protein of a file, cut to the pocket of ``site`` where it has one. Raises StageError."""
        key = (path, site)
        if key not in self._kept:
            try:
                self._kept[key] = self._read(path, site)
            except StageError as error:
                self._kept[key] = error
            while len(self._kept) > RECEPTORS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        found = self._kept[key]
        if isinstance(found, StageError):
            raise found
        return found

    def _read(self, path: Path, site: Site) -> Receptor:
        stage = "protein"
        try:
            whole = read_protein(path)
            stage = "pocket"
            pocket = site.region()
            protein = whole if pocket is None else whole.crop(pocket)
            stage = "protein"
            return Receptor.of(protein, self.language, whole)
        except RequestError as error:
            raise StageError(stage, str(error)) from error


class Worker:
    """Docks jobs with one model under one set of settings.

    ``dock`` gives one result or failure per job, in order. Whatever a job provokes, wherever, is that job's failure;
    only a StorageError, which would hit every other job as well, comes through.
    """

    def __init__(self, pipeline: Pipeline, settings: DockSettings) -> None:
        """Raises RequestError or ConfigError for what the model cannot do, or does not have."""
        require(settings.rescore)
        self.engine, self.settings = Engine(pipeline, settings), settings
        model = pipeline.config.model
        assert isinstance(model, DockingConfig)
        self.quirks = model.quirks
        self.receptors = Receptors(pipeline.domain.language())  # type: ignore[attr-defined]

    def dock(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, DockingResult | Failure]]:
        """Results of some jobs, which share network calls."""
        prepared: list[Complex] = []
        outcomes: dict[int, DockingResult | Failure] = {}
        for number, job in enumerate(jobs):
            ready = attempt(job, "protein", lambda job=job: self.prepare(job))
            if isinstance(ready, Failure):
                outcomes[number] = ready
            else:
                prepared.append(ready)
        found = iter(self.engine.dock(prepared))
        for number, job in enumerate(jobs):
            if number in outcomes:
                yield job, outcomes[number]
            else:
                docked = next(found)
                yield job, attempt(job, "docking", lambda job=job, docked=docked: self._finish(job, docked))

    def prepare(self, job: Job) -> Complex:
        """The complex of a job. Raises StageError."""
        receptor = self.receptors.get(job.protein, job.site)
        try:
            return make_complex(
                job.id, receptor, job.ligand, conformer_seed(self.settings.seed, job.id),
                turn_double=self.quirks.turn_double_bonds,
            )  # fmt: skip
        except DiscoError as error:
            raise StageError("conformer", str(error)) from error

    def _finish(self, job: Job, docked: Docked | tuple[Complex, DiscoError]) -> DockingResult:
        if not isinstance(docked, Docked):
            raise docked[1]
        pipeline, request = self.engine.pipeline, self.engine.request
        own = pipeline.config.sampling
        about = {
            **describe(docked.complex, str(job.protein), job.source),
            "model": {"name": pipeline.name, "sha256": pipeline.manifest.digest},
            "settings": {
                "poses": self.settings.poses, "steps": pipeline.steps_of(request), "seed": self.settings.seed,
                "sampler": self.settings.sampler or own.sampler,
                "guidance": own.guidance if self.settings.guidance is None else self.settings.guidance,
            },
        }  # fmt: skip
        return assess(docked, self.settings, about, pipeline.config.latents.kind == "pointer")
