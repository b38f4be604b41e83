"""Docking a stream of jobs into a folder: resumable at any moment, on several processes, with every failure named."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch

from core.pipeline import Pipeline
from domains.docking.dock.folder import RunFolder
from domains.docking.dock.jobs import Failure, Job
from domains.docking.dock.settings import DockSettings
from domains.docking.dock.worker import Worker, attempt

logger = logging.getLogger("disco")
SHARD = {"cpu": 10, "cuda": 320}  # poses of jobs that share network calls, and are handed to a process together
AHEAD = 2  # shards per process that are read before they are needed
Row = dict[str, Any]
Outcome = Row | Failure


@dataclass(frozen=True)
class Model:
    """What a process needs to load the model."""

    folder: Path
    overrides: tuple[str, ...] = ()
    device: str = "auto"

    def load(self) -> Pipeline:
        return Pipeline.from_pretrained(self.folder, self.device, self.overrides)


@dataclass
class Summary:
    """What a run did. rows: of summary.csv, one per docked complex; resumed: how many of them were done before."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    resumed: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one more."""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
        else:
            self.rows.append(outcome)

    def as_dict(self, out: Path) -> dict[str, Any]:
        """Plain values, for JSON."""
        failures = [asdict(failure) for failure in self.failures]
        counts = {"docked": len(self.rows), "failed": len(failures), "resumed": self.resumed}
        return {"out": str(out), **counts, "exit_code": self.exit_code, "complexes": self.rows, "failures": failures}

    @property
    def exit_code(self) -> int:
        """0: every job has poses; 3: some have; 1: none has."""
        if not self.failures:
            return 0
        return 3 if self.rows else 1


def run(
    jobs: Iterable[Job | Failure], model: Model, settings: DockSettings, folder: RunFolder, workers: int = 1,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:  # fmt: skip
    """Dock what is not finished in ``folder``, which must be opened; ``done`` is told of every outcome.

    The tables of the folder are brought up to date whatever happens. Raises RequestError or ConfigError, before
    anything is docked, for what the model cannot do; StorageError ends the run.
    """
    summary = Summary()

    def took(outcome: Outcome) -> None:
        summary.add(outcome)
        done(outcome)

    def waiting() -> Iterator[Job]:
        for job in jobs:
            if isinstance(job, Failure):
                took(job)
            elif (row := folder.finished(job)) is not None:
                summary.resumed += 1
                took(row)
            else:
                yield job

    # What cannot be done is said here, before a table is touched.
    outcomes = _execute(Worker(model.load(), settings), waiting(), model, folder, workers)
    try:
        with closing(outcomes):
            for outcome in outcomes:
                took(outcome)
    finally:
        folder.write_tables(summary.rows, summary.failures)
    return summary


def _execute(
    worker: Worker, jobs: Iterator[Job], model: Model, folder: RunFolder, workers: int
) -> Generator[Outcome, None, None]:
    settings = worker.settings
    size = max(1, SHARD[worker.engine.pipeline.device.type] // settings.poses)
    first = list(islice(jobs, workers * size))
    workers = min(workers, len(first))
    shards = _shards(chain(first, jobs), size if workers < 2 else min(size, -(-len(first) // workers)))
    if workers < 2:
        for shard in shards:
            yield from _dock(worker, folder, shard)
        return
    del worker  # its memory is for the processes
    yield from _Pool(model, settings, folder, workers).run(shards)


def _shards(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    while shard := list(islice(jobs, size)):
        yield shard


def _dock(worker: Worker, folder: RunFolder, shard: Sequence[Job]) -> Iterator[Outcome]:
    for job, outcome in worker.dock(shard):
        if isinstance(outcome, Failure):
            yield outcome
        else:
            yield attempt(job, "output", lambda job=job, result=outcome: folder.write(job, result))


class _Pool:
    """Processes that dock shards. Where one of them dies, the jobs that were under way are docked again, alone; one
    that kills a fresh process too is the culprit, and fails."""

    def __init__(self, model: Model, settings: DockSettings, folder: RunFolder, workers: int) -> None:
        self.arguments, self.folder, self.workers = (model, settings, folder), folder, workers

    def run(self, shards: Iterator[list[Job]]) -> Iterator[Outcome]:
        while True:
            lost: list[list[Job]] = []
            yield from self._round(shards, lost, self.workers, AHEAD)
            if not lost:
                return
            logger.warning("a process died with %d jobs under way: docking them one by one", sum(map(len, lost)))
            yield from self._alone(job for shard in lost for job in shard)

    def _alone(self, jobs: Iterator[Job]) -> Iterator[Outcome]:
        suspect: list[Job] = []  # the job that the last process died on
        while True:
            died: list[list[Job]] = []
            shards = ([job] for job in chain(suspect, jobs))
            yield from self._round(shards, died, 1, 1)
            if not died:
                return
            (job,) = died[0]
            if suspect == [job]:
                yield job.failed("docking", "the process died on this input: out of memory, or a crash of a library")
            suspect = [] if suspect == [job] else [job]

    def _round(self, shards: Iterator[list[Job]], lost: list[list[Job]], workers: int, ahead: int) -> Iterator[Outcome]:
        """Outcomes until the shards are used up or a process dies; ``lost`` gets the shards under way then."""
        context = get_context("spawn")
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start,
            initargs=(*self.arguments, workers, context.Value("i", 0)),
        )  # fmt: skip
        running: dict[Future[list[Outcome]], list[Job]] = {}
        try:
            while not lost:
                for shard in islice(shards, workers * ahead - len(running)):
                    try:
                        with _without_interrupts():
                            running[pool.submit(_work, shard)] = shard
                    except BrokenProcessPool:
                        lost.append(shard)
                        break
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    shard = running.pop(future)
                    try:
                        outcomes = future.result()
                    except BrokenProcessPool:
                        lost.append(shard)
                        continue
                    yield from outcomes
            lost += running.values()
        finally:
            _stop(pool)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started here leave Ctrl-C to this one from their first moment."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(pool: ProcessPoolExecutor) -> None:
    """At once: whatever a process is at, it is either written whole or not at all."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.terminate()
    pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Worker, RunFolder] | None = None


def _start(model: Model, settings: DockSettings, folder: RunFolder, workers: int, started: Any) -> None:
    """Make this process a worker: it leaves Ctrl-C to its parent, and ends with it even where that is killed.
    started: how many processes of the pool were before this one."""
    global _worker  # noqa: PLW0603 - a process of a pool has no other place for what it keeps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _worker = Worker(replace(model, device=_device(model.device, number)).load(), settings), folder


def _device(name: str, number: int) -> str:
    """Of the process of this number: of several GPUs, with ``auto``, each in turn."""
    count = torch.cuda.device_count() if name == "auto" and torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count else name


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(shard: list[Job]) -> list[Outcome]:
    assert _worker is not None
    worker, folder = _worker
    return list(_dock(worker, folder, shard))
