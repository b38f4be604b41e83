"""Weights of other programs as model folders: every domain is asked whether it knows the files."""

from pathlib import Path

from core.checkpoint import MANIFEST, Manifest, update_model
from core.errors import CheckpointError, ConfigError
from core.interfaces import Converted
from core.pipeline import Pipeline
from core.registry import domain_names, get_domain


def convert(source: Path, out: Path) -> tuple[str, ...]:
    """Write the model folder ``out`` from the files at ``source``; returns what a user should know about the result.

    Raises CheckpointError where there is nothing, nothing known, or something damaged, where ``out`` holds a model, and
    where what was written cannot be loaded again; ``out`` is then as it was.
    """
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    if (out / MANIFEST).exists():
        raise CheckpointError(f"{out} holds a model already: choose another folder, or remove it first")
    missing = []
    for name in domain_names():
        try:
            domain = get_domain(name)
        except ConfigError as error:  # an extra that is not installed
            missing.append(str(error))
            continue
        found = domain.convert(source)
        if found is not None:
            _write(found, source, out)
            return found.notes
    raise CheckpointError("; ".join([f"{source}: no weights that any installed domain knows", *missing]))


def _write(found: Converted, source: Path, out: Path) -> None:
    """Write the model and load it again; without success, remove what was written."""
    before = set(out.iterdir()) if out.is_dir() else None
    done = False
    try:
        update_model(out, Manifest(found.config, {}, licence="that of the source"), found.networks)
        Pipeline.from_pretrained(out, "cpu")
        done = True
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{source}: the model made of it cannot be loaded ({error}); nothing was kept") from error
    finally:
        if not done:
            for path in set(out.iterdir() if out.is_dir() else ()) - (before or set()):
                path.unlink()
            if before is None and out.is_dir():
                out.rmdir()
