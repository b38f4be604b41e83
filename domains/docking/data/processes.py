"""Work on complexes in processes of their own; one complex that kills its process costs one complex."""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Protocol, TypeVar, runtime_checkable

import torch

logger = logging.getLogger("disco")
WORTH = 16  # tasks per process below which starting it takes longer than it saves
AHEAD = 3  # tasks per process that are handed over before they are needed
DIED = "its process died: out of memory, or a crash of a library"
Outcome = tuple[bytes | str, str]


@runtime_checkable
class Runs(Protocol):
    """A task: ``run`` gives bytes, or a reason for there being none, and a warning."""

    def run(self) -> Outcome: ...


TaskType = TypeVar("TaskType", bound=Runs)


def default_workers() -> int:
    """Processors that this process may use, shared among the processes that ``torchrun`` started here."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def in_processes(tasks: Sequence[TaskType], workers: int) -> Iterator[tuple[TaskType, Outcome]]:
    """Every task with its outcome, in the order in which they are done.

    workers: processes, 0 for this one; fewer are started where there is little to do. Where none can be started, this
    process does the work and says so.
    """
    waiting = deque(tasks)
    count = min(workers, len(tasks) // WORTH)
    while waiting and count:
        suspects = yield from _round(waiting, count)
        if suspects is None:
            logger.warning(
                "no process can be started (too little memory, or a script that does not begin with "
                "'if __name__ == \"__main__\":'); preparing in this one"
            )
            break
        for task in suspects:  # one of them killed a process
            again = yield from _round(deque([task]), 1)
            if again != []:
                yield task, (DIED, "")
    while waiting:
        task = waiting.popleft()
        yield task, task.run()


def _round(
    waiting: deque[TaskType], workers: int
) -> Generator[tuple[TaskType, Outcome], None, list[TaskType] | None]:  # fmt: skip
    """Outcomes until nothing waits or a process dies; returns the tasks that were under way then, None where no
    process could be started."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start)
    running: dict[Future[Outcome], TaskType] = {}
    started = False
    try:
        pool.submit(os.getpid).result()
        started = True
        while waiting or running:
            while waiting and len(running) < AHEAD * workers:
                running[pool.submit(waiting[0].run)] = waiting[0]
                waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield running.pop(future), outcome
        return []
    except BrokenProcessPool:
        return list(running.values()) if started else None
    finally:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """This process leaves Ctrl-C to its parent, ends with it even where that is killed, and takes one processor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
