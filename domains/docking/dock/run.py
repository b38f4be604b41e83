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

from core.errors import DiscoError, RequestError
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
        """0: every job has poses; 3: some have; 1: none has, or there was none."""
        if not self.rows:
            return 1
        return 3 if self.failures else 0


def run(
    jobs: Iterable[Job | Failure], model: Model, settings: DockSettings, folder: RunFolder, workers: int = 0,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:  # fmt: skip
    """Dock what is not finished in ``folder``, which must be opened; ``done`` is told of every outcome.

    workers: processes, 0 for this one. The tables of the folder are brought up to date whatever happens. Raises
    RequestError or ConfigError, before anything in the folder is touched, for what the model cannot do or the folder
    does not fit; RequestError where processes cannot start; StorageError.
    """
    summary = Summary()

    def took(outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            folder.drop(outcome.id)  # poses of other inputs
        summary.add(outcome)
        done(outcome)

    def waiting() -> Iterator[Job]:
        for job in jobs:
            if isinstance(job, Failure):
                took(job)
                continue
            # Before its files are read: if they change on the way, the result is not taken for that of the new ones.
            marked = replace(job, fingerprint=folder.fingerprint(job))
            if (row := folder.finished(marked)) is not None:
                summary.resumed += 1
                took(row)
            else:
                if folder.has(job.id):
                    logger.warning("%s: was docked from other inputs before, and is docked again", job.id)
                yield marked

    worker = Worker(model.load(), settings)
    folder.begin(worker.resolved)
    outcomes = _execute(worker, waiting(), model, folder, workers, summary)
    try:
        with closing(outcomes):
            for outcome in outcomes:
                took(outcome)
    finally:
        folder.write_tables(summary.rows, summary.failures)
    return summary


def _execute(
    worker: Worker, jobs: Iterator[Job], model: Model, folder: RunFolder, workers: int, summary: Summary
) -> Generator[Outcome, None, None]:
    settings = worker.settings
    size = max(1, SHARD[worker.engine.pipeline.device.type] // settings.poses)
    first = list(islice(jobs, max(2, workers * size)))
    everything = chain(first, jobs)
    # A process of its own for what may die, unless there is nothing else that would be lost with it.
    if workers == 0 or (len(first) == 1 and not summary.rows and not summary.failures):
        for shard in _shards(everything, size):
            yield from _dock(worker, folder, shard)
        return
    del worker  # its memory is for the processes
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if first:
        workers = min(workers, len(first))
        shards = _shards(everything, min(size, -(-len(first) // workers)))
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
        self.arguments, self.workers = (model, settings, folder), workers

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
            yield from self._round(shards, died, 1, 1, check=True)
            if not died:
                return
            (job,) = died[0]
            if suspect == [job]:
                yield job.failed("docking", "the process died on this input: out of memory, or a crash of a library")
            suspect = [] if suspect == [job] else [job]

    def _round(
        self, shards: Iterator[list[Job]], lost: list[list[Job]], workers: int, ahead: int, check: bool = False
    ) -> Iterator[Outcome]:
        """Outcomes until the shards are used up or a process dies; ``lost`` gets the shards under way then.

        check: see first that a process can start at all; RequestError where it dies at that.
        """
        context = get_context("spawn")
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start,
            initargs=(*self.arguments, workers, context.Value("i", 0)),
        )  # fmt: skip
        running: dict[Future[list[Outcome]], list[Job]] = {}
        try:
            if check:
                _see_it_start(pool)
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


def _see_it_start(pool: ProcessPoolExecutor) -> None:
    try:
        with _without_interrupts():
            started = pool.submit(_work, [])
        started.result()
    except BrokenProcessPool as error:
        raise RequestError(
            "a process for docking dies as it starts, whatever it is given: too little memory? Try --workers 1, and "
            "go on with the same command"
        ) from error


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


_worker: tuple[Worker, RunFolder] | DiscoError | None = None  # or why there is none


def _start(model: Model, settings: DockSettings, folder: RunFolder, workers: int, started: Any) -> None:
    """Make this process a worker: it leaves Ctrl-C to its parent, and ends with it even where that is killed.
    started: how many processes of the pool were before this one."""
    global _worker  # noqa: PLW0603 - a process of a pool has no other place for what it keeps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    try:
        _worker = Worker(replace(model, device=_device(model.device, number)).load(), settings), folder
    except Exception as error:  # said with the first jobs: what an initializer raises, a pool takes for a crash
        _worker = (
            error if isinstance(error, DiscoError) else RequestError(f"a process for docking cannot start: {error}")
        )


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
    if isinstance(_worker, DiscoError):
        raise _worker
    assert _worker is not None
    worker, folder = _worker
    return list(_dock(worker, folder, shard))
