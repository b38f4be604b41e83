"""What ``disco dock`` does: settings and inputs together, progress, folder, report."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from core.checkpoint import find_model, read_manifest
from core.config_file import apply_overrides, parse_config
from core.console import say
from core.errors import CheckpointError, DataError, RequestError
from domains.docking.config import DockingConfig
from domains.docking.dock.folder import RunFolder
from domains.docking.dock.jobs import Failure, Job, jobs_of_ligands, jobs_of_table
from domains.docking.dock.record import FAILURES, REPORT
from domains.docking.dock.report import write_run_report
from domains.docking.dock.run import Model, Outcome, Summary, run
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Receptors, attempt
from domains.docking.request import overlaid
from domains.docking.shipped import CARD, NAMES, TRAINED_ON, name_of, shipped

logger = logging.getLogger("disco")
MODEL_VARIABLE = "DISCO_DOCKING_MODEL"
WORKER_BYTES = 1_500_000_000  # memory that a process should find
LANGUAGE_BYTES = 3_000_000_000  # with ESM-2 650M
PER_GPU = 2  # processes, so that one prepares complexes while the other's networks run
LINE_EVERY = 20  # outcomes per line of progress where there is no terminal


class Stopped(KeyboardInterrupt):
    """A run was interrupted; begun: after it had begun to write."""

    def __init__(self, *args: object, begun: bool) -> None:
        super().__init__(*args)
        self.begun = begun


@dataclass(frozen=True)
class Command:
    """One call of ``disco dock``."""

    settings: DockSettings
    out: Path
    protein: Path | None = None
    ligand: str | None = None
    csv: Path | None = None
    name: str | None = None
    template: str | None = None
    model: str | None = None
    overrides: tuple[str, ...] = ()

    @staticmethod
    def of(given: Mapping[str, Any], config: Path | None, **inputs: Any) -> "Command":
        """given: settings of the command line, which beat those of the file ``config``. Raises RequestError."""
        inputs = {key: value for key, value in inputs.items() if value is not None}
        if ("csv" in inputs) == ("protein" in inputs or "ligand" in inputs):
            raise RequestError("give either --protein and --ligand, or --csv with a table of them")
        if "csv" not in inputs and not {"protein", "ligand"} <= inputs.keys():
            raise RequestError(f"--{'ligand' if 'protein' in inputs else 'protein'} is missing")
        if "csv" in inputs and {"name", "template"} & inputs.keys():
            raise RequestError("--name and --template are for one complex: in a table they are columns")
        saved = {} if config is None else _read_settings(config)
        saved.pop("model_sha256", None)
        model, overrides = saved.pop("model", None), saved.pop("overrides", ())
        listed = isinstance(overrides, list | tuple) and all(isinstance(each, str) for each in overrides)
        if not isinstance(model, str | None) or not listed:
            raise RequestError(f"--config {config}: model must be a name or folder, overrides a list of KEY.SUB=VALUE")
        return Command(DockSettings.parse(overlaid(saved, given)), model=model, overrides=tuple(overrides), **inputs)

    def jobs(self, raw_chirality: bool = False) -> Iterator[Job | Failure]:
        """What is to be docked. Raises RequestError for a table that cannot be read."""
        if self.csv is not None:
            return jobs_of_table(self.csv, site=self.settings.site, raw_chirality=raw_chirality)
        assert self.protein is not None
        assert self.ligand is not None
        return jobs_of_ligands(
            self.protein, self.ligand, template=self.template, name=self.name, site=self.settings.site,
            raw_chirality=raw_chirality,
        )  # fmt: skip

    def dock(
        self, named: Path | str | None, overrides: tuple[str, ...], device: str, workers: int | None, overwrite: bool,
        report: bool, quiet: bool,
    ) -> Summary:  # fmt: skip
        """Dock, and say where the results are; named: as for ``docking_model``.

        Raises RequestError, CheckpointError, ConfigError, StorageError.
        """
        overrides = (*self.overrides, *overrides)
        where = docking_model(named or self.model)
        manifest = read_manifest(where)
        model = parse_config(apply_overrides(manifest.config.model_dump(mode="json"), overrides), str(where)).model
        if not isinstance(model, DockingConfig):
            raise CheckpointError(f"{where}: a model of '{manifest.config.domain}', not of docking")
        about = {"model": name_of(where), "model_sha256": manifest.digest, "overrides": list(overrides)}
        run_folder = RunFolder(self.out, about)
        jobs = self.jobs(model.quirks.raw_chirality)
        count = workers if workers is not None else _workers(device, model.language_dim > 0)
        try:
            with run_folder.opened(overwrite), _Told(quiet) as told:
                summary = run(jobs, Model(where, overrides, device), self.settings, run_folder, count, told.outcome)
                if report and not _report(self.out):
                    report = False
        except KeyboardInterrupt as stop:
            raise Stopped(*stop.args, begun=run_folder.begun) from stop
        if not quiet:
            _say(summary, self.out, report)
        return summary

    def check_inputs(self, quiet: bool) -> Summary:
        """Read every protein, ligand and pocket, and write nothing but words."""
        receptors, summary = Receptors(None), Summary()
        with _Told(quiet) as told:
            for job in self.jobs():
                outcome: Outcome
                if isinstance(job, Failure):
                    outcome = job
                else:
                    read = attempt(job, "protein", lambda job=job: receptors.get(job.protein, job.site))
                    seen = {"id": job.id, "row": job.row, "protein": str(job.protein), "ligand": job.source}
                    outcome = read if isinstance(read, Failure) else seen
                summary.add(outcome)
                told.outcome(outcome)
        if not quiet:
            say(f"{len(summary.rows)} can be docked, {len(summary.failures)} cannot")
        return summary


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"--config {path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RequestError(f"--config {path}: holds no settings: write lines such as 'poses: 10'")
    return {str(key): value for key, value in values.items() if value is not None}


def docking_model(named: Path | str | None) -> Path:
    """The model to dock with: the one asked for, else that of the environment, else the shipped ``disco``.

    A name of a shipped model always means that model, so that what a command does never depends on the folder it is
    given in; a folder here of such a name is written ./disco. Says which shipped model it is, and that it has a card.
    Raises CheckpointError.
    """
    asked = named or os.environ.get(MODEL_VARIABLE)
    wanted = str(asked or NAMES[0])
    if wanted not in NAMES:
        if Path(wanted).exists() or Path(wanted).name != wanted:
            return find_model(wanted)
        raise CheckpointError(f"{wanted}: no such folder, and no model of that name: the names are {', '.join(NAMES)}")
    folder = shipped(wanted)
    if asked and Path(wanted).is_dir() and not Path(wanted).samefile(folder):
        logger.warning("model %s is the shipped one; for the folder of that name here write ./%s", wanted, wanted)
    logger.info(
        "shipped model %s: trained on %s, so look at the poses; its card: %s", wanted, TRAINED_ON, folder / CARD
    )
    return folder


def _report(out: Path) -> bool:
    """Write the report; where that fails, the results are there all the same."""
    try:
        write_run_report(out)
    except DataError as error:
        logger.warning("no %s: %s", REPORT, error)
        return False
    return True


def _workers(device: str, language: bool) -> int:
    """Processes that this machine feeds: one per core, as far as memory goes, or some per GPU."""
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return PER_GPU * (torch.cuda.device_count() if device == "auto" else 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _free_bytes() // (WORKER_BYTES + language * LANGUAGE_BYTES)))


def _free_bytes() -> int:
    """Memory that can be had without swapping, caches included; without end where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return sys.maxsize


class _Told:
    """Progress: a live line in a terminal, a line now and then elsewhere, and every failure in any case."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.docked, self.failed = quiet, 0, 0
        self.live: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal and not quiet:
            self.live = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
            )
            self.task = self.live.add_task("starting")

    def __enter__(self) -> "_Told":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def outcome(self, outcome: Outcome) -> None:
        """Count one more, and name it where it failed."""
        if isinstance(outcome, Failure):
            self.failed += 1
            logger.warning("failed: %s (row %d, %s): %s", outcome.id, outcome.row, outcome.stage, outcome.reason)
        else:
            self.docked += 1
        words = f"{self.docked} done, {self.failed} failed"
        if self.live:
            self.live.update(self.task, description=f"{words}, last: {_id(outcome)}")
        elif not self.quiet and (self.docked + self.failed) % LINE_EVERY == 0:
            logger.info("%s", words)


def _id(outcome: Outcome) -> str:
    return outcome.id if isinstance(outcome, Failure) else str(outcome["id"])


def _say(summary: Summary, out: Path, report: bool) -> None:
    if not summary.rows and not summary.failures:
        say("there was nothing to dock: the table has no rows")
        return
    before = f" ({summary.resumed} of them before)" if summary.resumed else ""
    failed = f"; {len(summary.failures)} failed, see {out / FAILURES}" if summary.failures else ""
    say(f"{len(summary.rows)} docked{before}{failed}")
    if summary.rows and all(row["confidence"] is None for row in summary.rows):
        say("this model has no confidence: poses are in the order sampled, and rank 1 is only the first")
    if flagged := sum(bool(row["flags"]) for row in summary.rows):
        say(f"the pose of rank 1 looks wrong in {flagged}: see the column flags")
    say(f"look at {out / REPORT}" if report else f"results in {out}")
