"""Words for files of this machine, in everything that leaves it."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from domains.docking.dock.folder import RunFolder
from domains.docking.dock.jobs import Failure, Job
from domains.docking.dock.result import DockingResult


class Labels:
    """Takes paths of this machine out of texts."""

    def __init__(self, files: Mapping[Path, str], folders: Iterable[Path]) -> None:
        """files: the name that the user knows each by; folders: also hidden, with all that is in them."""
        self.files = {str(path): label for path, label in files.items()}
        every = {*map(str, folders), str(Path.home()), str(Path.cwd()), sys.prefix} - {"/"}
        longest_first = sorted(every, key=len, reverse=True)
        self._pattern = re.compile(rf"(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])[^\s'\",;:)]*")

    def hide(self, value: Any) -> Any:
        """The same text, or structure of texts, without the paths."""
        if isinstance(value, str):
            for path, label in self.files.items():
                value = value.replace(path, label)
            return self._pattern.sub("...", value)
        if isinstance(value, Mapping):
            return {key: self.hide(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.hide(each) for each in value)
        return value


class LabelledFolder(RunFolder):
    """Results that name the user's files as the user does."""

    def __init__(self, path: Path, settings: Mapping[str, Any], labels: Labels) -> None:
        super().__init__(path, labels.hide(settings))
        self.labels = labels

    def begin(self, settings: Mapping[str, Any]) -> None:
        super().begin(self.labels.hide(settings))

    def write(self, job: Job, result: DockingResult) -> dict[str, Any]:
        about, notes = self.labels.hide(dict(result.about)), self.labels.hide(result.notes)
        return super().write(job, replace(result, about=about, notes=notes))

    def write_tables(self, rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> None:
        super().write_tables(rows, [Failure(**self.labels.hide(asdict(failure))) for failure in failures])
