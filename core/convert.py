"""Weights of other programs as model folders: every domain is asked whether it knows the files."""

from pathlib import Path

from core.checkpoint import MANIFEST, Manifest, update_model
from core.errors import CheckpointError, ConfigError
from core.registry import domain_names, get_domain


def convert(source: Path, out: Path) -> tuple[str, ...]:
    """Write the model folder ``out`` from the files at ``source``; returns what a user should know about the result.

    Raises CheckpointError where there is nothing, nothing known, or something damaged, and where ``out`` holds a model.
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
            update_model(out, Manifest(found.config, {}, licence="that of the source"), found.networks)
            return found.notes
    raise CheckpointError("; ".join([f"{source}: no weights that any installed domain knows", *missing]))
