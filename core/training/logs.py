"""What training says: one JSONL row per logged step, TensorBoard where installed, progress on stderr."""

import contextlib
import importlib.util
import json
import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.files import storage_errors, write_text

logger = logging.getLogger("disco")


class JsonlLog:
    """Rows appended to a file; every row is flushed, so that a killed run has all rows up to its end."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Rows past ``resume_step`` (of a run that died after its last checkpoint) are cut off."""
        self.path = path
        rows = [row for row in read_jsonl(path) if row["step"] <= resume_step] if path.exists() else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8")
        self._board = _summary_writer(path.parent / "tensorboard" / path.stem, resume_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        # Every row was flushed when it was written; what is left is a row that failed, and was reported, then.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole rows of a JSONL file; what follows a damaged line (a crash cut it short) is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _summary_writer(path: Path, first_step: int) -> Any:
    """TensorBoard's writer where the package is installed, else None."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path), purge_step=first_step)


class ProgressBar:
    """A bar on a terminal, a line every tenth of the way elsewhere, nothing when quiet."""

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self._quiet = title, total, quiet
        self._next_tenth = done * 10 // total + 1
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(title, total=total, completed=done, note="")
            self._bar.start()

    def update(self, done: int, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif not self._quiet and done * 10 // self.total >= self._next_tenth:
            self._next_tenth = done * 10 // self.total + 1
            logger.info("%s: %d of %d  %s", self.title, done, self.total, note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
