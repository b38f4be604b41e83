"""A whole training run: all stages of a configuration, in a folder that can be resumed."""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoint import MANIFEST, Manifest, find_model, load_part, read_manifest, start_part, update_model
from core.config import RunConfig
from core.config_file import dump_config, load_config
from core.errors import CheckpointError, ConfigError
from core.files import write_text
from core.interfaces import Domain, Stage
from core.registry import get_domain
from core.rng import derive_key
from core.training.distributed import World, start_world, stop_world
from core.training.loop import Trainer, TrainingJob
from core.training.stage import build_stage, stage_names
from core.training.state import goes_on

logger = logging.getLogger("disco")
CONFIG = "config.yaml"
# Settings that may change when a run is resumed: they do not touch what has been trained so far.
RESUMABLE = re.compile(r"train\.[^.]+\.(steps|log_every|checkpoint_every|keep|workers|compile)")


def train(
    config: RunConfig, folder: Path | str, stage: str = "all", device: str = "auto", overwrite: bool = False,
    quiet: bool = False,
) -> Path:  # fmt: skip
    """Train the stages of a run, or go on where it stopped. Returns the model folder.

    folder: holds config.yaml, log-STAGE.jsonl, state/ and model/; stage: one stage's name, or ``all``; overwrite:
    delete what the folder holds first. Raises ConfigError where the folder holds another configuration, DataError,
    TrainingError, StorageError, and Interrupted on SIGTERM or SIGINT.
    """
    folder = Path(folder)
    domain = get_domain(config.domain)(config)
    names = stage_names(domain)
    if stage != "all" and stage not in names:
        raise ConfigError(f"this run has no stage '{stage}'; it has: {', '.join(names)}")
    world = start_world(device)
    try:
        if world.is_main:
            _claim(folder, config, overwrite)
        world.barrier()
        for name in names if stage == "all" else [stage]:
            _train_stage(name, domain, folder, world, quiet)
    finally:
        stop_world(world)
    return folder / "model"


def _train_stage(name: str, domain: Domain, folder: Path, world: World, quiet: bool) -> None:
    config, model = domain.config, folder / "model"
    dataset = domain.dataset("train")
    trained, built_on = ({}, {}) if name == "denoiser" else _trained_parts(name, domain, model)
    # Initial weights follow from the run's seed and the stage alone.
    torch.default_generator.manual_seed(derive_key(config.seed, f"init/{name}")[0])
    stage = build_stage(name, domain, trained)
    initial = config.stage(name).initial
    if initial and not goes_on(folder / "state" / name, built_on):
        _start_from(find_model(initial), stage)
    samples = stage.prepare(dataset, folder, world)
    trainer = Trainer(TrainingJob(stage, samples, config.stage(name), folder, config.seed, world, quiet, built_on))
    if trainer.finished:
        logger.info("stage '%s' is finished (%d steps)", name, trainer.step)
    trainer.run()
    if world.is_main:
        averaged = trainer.ema.average
        assert isinstance(averaged, Stage)
        averaged.conclude()
        update_model(model, Manifest(config, {}, dataset.content_hash), averaged.parts())
    world.barrier()


def _start_from(folder: Path, stage: Stage) -> None:
    """Start a stage from the networks of another model. Raises CheckpointError where that has none of them."""
    manifest, parts = read_manifest(folder), stage.parts()
    shared = [name for name in parts if name in manifest.weights]
    if not shared:
        raise CheckpointError(f"{folder}: stage '{stage.name}' cannot start from it: it has no {' or '.join(parts)}")
    for name in shared:
        new = start_part(folder, name, parts[name], manifest)
        logger.info("stage '%s': %s starts from %s; %d of its tensors are new", stage.name, name, folder, len(new))


def _trained_parts(stage: str, domain: Domain, model: Path) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The networks that earlier stages trained, and their checksums: what a stage learns belongs to them."""
    if not (model / MANIFEST).exists():
        raise ConfigError(
            f"stage '{stage}' needs the stage before it: train with --stage all, or --stage denoiser first"
        )
    manifest, builders, names = read_manifest(model), domain.parts(), stage_names(domain)
    later = names[names.index(stage) :]  # a stage after the denoiser's trains the part of its own name
    built_on = {name: checksum for name, checksum in manifest.weights.items() if name in builders and name not in later}
    return {name: load_part(model, name, builders[name](), manifest) for name in built_on}, built_on


def _claim(folder: Path, config: RunConfig, overwrite: bool) -> None:
    """Make the folder this run's. Raises ConfigError where it is another run's, unless that never began."""
    path = folder / CONFIG
    made = [e for e in folder.glob("*") if e.name in ("state", "model", "tensorboard") or e.name.startswith("log-")]
    if overwrite and path.exists():
        for entry in made:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    elif path.exists() and made:
        earlier = load_config(path)
        differing = _differences(earlier.model_dump(mode="json"), config.model_dump(mode="json"))
        blocking = [key for key in differing if not RESUMABLE.fullmatch(key)]
        if blocking:
            raise ConfigError(
                f"{folder} holds a run with another configuration (it differs in {', '.join(blocking[:3])}): "
                "choose another folder with -o, or start over with --overwrite"
            )
    for left_over in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
        left_over.unlink(missing_ok=True)
    write_text(path, dump_config(config))


def _differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two trees differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if a == b else [prefix]
