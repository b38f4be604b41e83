"""Training states on disk: everything that an exact resume needs."""

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError
from core.files import write_atomically

logger = logging.getLogger("disco")
SCHEMA = 1


def _path(folder: Path, step: int) -> Path:
    return folder / f"state-{step:08d}.pt"


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after ``step`` steps, then delete all but the newest ``keep``. Raises StorageError."""
    content = {"schema": SCHEMA, "step": step, **state}
    write_atomically(_path(folder, step), lambda temporary: torch.save(content, temporary))
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()


def goes_on(folder: Path, built_on: Mapping[str, str]) -> bool:
    """Whether there is a state to go on from, of a stage built on these networks. Errors as ``load_newest``."""
    state = load_newest(folder)
    return state is not None and state["built_on"] == dict(built_on)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest readable state, on the CPU (load_state_dict moves what must move), None where there is none.

    A damaged file is reported and passed over in favour of the one before it. Raises CheckpointError where every
    file is damaged, or for another schema.
    """
    paths = sorted(folder.glob("state-*.pt"), reverse=True)
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                # torch.load does not look at the archive's checksums.
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError, zipfile.BadZipFile):
            logger.warning("%s: damaged; trying the state before it", path)
            continue
        if not isinstance(state, dict) or state.get("schema") != SCHEMA:
            raise CheckpointError(f"{path}: written by another version; finish with that version or train again")
        return state
    if paths:
        raise CheckpointError(f"{folder}: every training state is damaged; delete the folder to start again")
    return None
