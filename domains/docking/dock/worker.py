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


def stamp(path: Path) -> tuple[int, int] | None:
    """Time of the last change and size of a file, by which a change is noticed; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


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
        self._kept: OrderedDict[tuple[object, ...], Receptor | StageError] = OrderedDict()

    def get(self, path: Path, site: Site) -> Receptor:
        """The protein of a file, cut to the pocket of ``site`` where it has one. Raises StageError."""
        key = (path, site, stamp(path), None if site.pocket is None else stamp(site.pocket))
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
            ready = self.prepare(job)
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

    def prepare(self, job: Job) -> Complex | Failure:
        """The complex of a job."""
        receptor = attempt(job, "protein", lambda: self.receptors.get(job.protein, job.site))
        if isinstance(receptor, Failure):
            return receptor
        seed, turn_double = conformer_seed(self.settings.seed, job.id), self.quirks.turn_double_bonds
        made: Complex | Failure = attempt(
            job, "conformer", lambda: make_complex(job.id, receptor, job.ligand, seed, turn_double=turn_double)
        )
        return made

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings under which is docked, with the model's own where the user gave none."""
        own, pipeline = self.engine.pipeline.config.sampling, self.engine.pipeline
        return {
            **self.settings.model_dump(mode="json"),
            "steps": pipeline.steps_of(self.engine.request),
            "sampler": self.settings.sampler or own.sampler,
            "guidance": own.guidance if self.settings.guidance is None else self.settings.guidance,
        }

    def _finish(self, job: Job, docked: Docked | tuple[Complex, DiscoError]) -> DockingResult:
        if not isinstance(docked, Docked):
            raise docked[1]
        pipeline, resolved = self.engine.pipeline, self.resolved
        about = {
            **describe(docked.complex, str(job.protein), job.source),
            "model": {"name": pipeline.name, "sha256": pipeline.manifest.digest},
            "settings": {name: resolved[name] for name in ("poses", "steps", "seed", "sampler", "guidance")},
        }
        return assess(docked, self.settings, about, pipeline.config.latents.kind == "pointer")
