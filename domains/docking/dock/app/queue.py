"""Dockings one after the other, in a thread of their own, each with a folder that nobody can guess."""

import logging
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from core.errors import DiscoError
from core.files import LOCK, write_atomically
from core.pipeline import Request
from core.samplers import Callback, Step
from core.types import Latents, Samples
from domains.docking.dock.app.labels import LabelledFolder
from domains.docking.dock.app.order import Order
from domains.docking.dock.report import write_run_report
from domains.docking.dock.run import Model, Summary, run
from domains.docking.pipeline import DockingPipeline

logger = logging.getLogger("disco")
WAITING = 5  # dockings in the queue behind the one that runs
PATIENCE = 10.0  # seconds for the thread to stop
ARCHIVE = "docked.zip"
UNEXPECTED = "something unexpected went wrong; the terminal of the server says what"
State = Literal["waiting", "running", "done", "failed", "stopped"]


class Stopped(Exception):
    """The docking that runs is not wanted any more."""


class Full(Exception):
    """No room in the queue."""


class WatchedPipeline(DockingPipeline):
    """A docking model that says how far it is. watch: told the number of poses of every network call and how much of
    their way they have gone (0 to 1)."""

    watch: Callable[[int, float], None] = staticmethod(lambda poses, share: None)

    def solve(
        self, batch: Samples, latents: Latents | None, request: Request = Request(), callback: Callback | None = None
    ) -> tuple[Any, int]:
        steps = self.steps_of(request)

        def told(step: Step) -> None:
            self.watch(batch.size, step.index / steps)
            if callback is not None:
                callback(step)

        solved = super().solve(batch, latents, request, told)
        self.watch(batch.size, 1.0)
        return solved


@dataclass(frozen=True)
class Loaded(Model):
    """A model that is in memory already."""

    folder: Path = Path()
    pipeline: Any = None

    def load(self) -> DockingPipeline:
        return self.pipeline


@dataclass(eq=False)
class Docking:
    """One order on its way; its jobs are dropped at the end. out: folder of the results; files: those that may be
    fetched, by address below it, all of which are in the archive."""

    id: str
    folder: Path
    order: Order
    state: State = "waiting"
    stage: str = "waiting"
    share: float = 0.0
    error: str = ""
    summary: Summary = field(default_factory=Summary)
    files: dict[str, Path] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    started: float = 0.0
    ended: float = 0.0
    poses_done: int = 0

    @property
    def out(self) -> Path:
        return self.folder / "docked"

    @property
    def seconds(self) -> float:
        """That it has run."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    def watch(self, poses: int, share: float) -> None:
        """Take note of progress. Raises Stopped."""
        if self.stop.is_set():
            raise Stopped
        total = self.order.ligands * self.order.settings.poses
        self.share = min(1.0, max(self.share, (self.poses_done + poses * share) / total))
        self.stage = "sampling poses" if share < 1 else "looking at the poses"
        self.poses_done += poses if share == 1 else 0


class Queue:
    """Takes orders, docks them in turn, keeps what came out until it is closed."""

    def __init__(self, pipeline: WatchedPipeline, folder: Path, waiting: int = WAITING) -> None:
        self.pipeline, self.folder, self.limit = pipeline, folder, waiting
        self._dockings: dict[str, Docking] = {}
        self._waiting: list[Docking] = []
        self._running: Docking | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="docking", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.limit

    def new_folder(self) -> tuple[str, Path]:
        """A fresh id and its folder, which only this user can read."""
        id_ = secrets.token_urlsafe(16)
        path = self.folder / id_
        path.mkdir(mode=0o700)
        return id_, path

    def submit(self, id_: str, folder: Path, order: Order) -> Docking:
        """Raises Full."""
        with self._changed:
            if self.full:
                raise Full
            docking = self._dockings[id_] = Docking(id_, folder, order)
            self._waiting.append(docking)
            self._changed.notify_all()
        return docking

    def get(self, id_: str) -> Docking | None:
        """A docking by its id."""
        return self._dockings.get(id_)

    def ahead(self, docking: Docking) -> int:
        """How many are docked before this one."""
        with self._changed:
            place = self._waiting.index(docking) if docking in self._waiting else 0
            return place + (docking.state == "waiting" and self._running is not None)

    def remove(self, docking: Docking) -> None:
        """Stop a docking, and forget it with all its files."""
        with self._changed:
            self._dockings.pop(docking.id, None)
            docking.stop.set()
            if docking in self._waiting:
                self._waiting.remove(docking)
            running = docking is self._running
        if not running:  # else the thread takes the files away when it has stopped
            shutil.rmtree(docking.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop everything; the files stay."""
        with self._changed:
            self._closed = True
            for docking in (*self._waiting, *([self._running] if self._running else [])):
                docking.stop.set()
            self._changed.notify_all()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (docking := self._next()) is not None:
            self._dock(docking)
            with self._changed:
                self._running = None
                forgotten = docking.id not in self._dockings
            if forgotten:
                shutil.rmtree(docking.folder, ignore_errors=True)

    def _next(self) -> Docking | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._running = self._waiting.pop(0)
            self._running.state = "running"
            return self._running

    def _dock(self, docking: Docking) -> None:
        docking.started, docking.stage = time.monotonic(), "preparing"
        docking.error = _error_of(self._fill, docking)
        if docking.id in self._dockings:  # also where it broke off: what was finished before can be used
            unoffered = _error_of(self._offer, docking)
            docking.error = docking.error or unoffered
        docking.order = replace(docking.order, jobs=())
        docking.ended = time.monotonic()
        failed = docking.error or not docking.summary.rows
        docking.state = "stopped" if docking.stop.is_set() else "failed" if failed else "done"

    def _fill(self, docking: Docking) -> None:
        """The folder of a docking, as ``disco dock`` would leave it."""
        order, pipeline = docking.order, self.pipeline
        about = {"model": pipeline.name, "model_sha256": pipeline.manifest.digest}
        folder = LabelledFolder(docking.out, about, order.labels)
        pipeline.watch = docking.watch
        with folder.opened(overwrite=False):
            run(order.jobs, Loaded(pipeline=pipeline), order.settings, folder, done=docking.summary.add)

    def _offer(self, docking: Docking) -> None:
        """The report of what is in the folder, and all of it as one archive."""
        if not docking.summary.rows and not docking.summary.failures:
            return
        docking.stage = "writing the report"
        try:
            write_run_report(docking.out)
        finally:
            paths = sorted(path for path in docking.out.rglob("*") if path.is_file() and path.name != LOCK)
            files = {path.relative_to(docking.out).as_posix(): path for path in paths}
            write_atomically(docking.folder / ARCHIVE, lambda temporary: _pack(files, temporary))
            docking.files = files


def _error_of(work: Callable[[Docking], None], docking: Docking) -> str:
    """What went wrong, in words for the page; empty where nothing did, or it was stopped."""
    try:
        work(docking)
    except Stopped:
        return ""
    except DiscoError as error:
        return str(docking.order.labels.hide(str(error)))
    except Exception:
        logger.exception("docking failed")
        return UNEXPECTED
    return ""


def _pack(files: dict[str, Path], archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, path in files.items():
            file.write(path, f"docked/{name}")
