"""Folders of the authors' checkpoints (``disco convert``): which file holds what, and one model made of them."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from core.config_file import parse_config
from core.errors import CheckpointError
from core.interfaces import Converted
from domains.docking.config import BackboneConfig, ConfidenceConfig
from domains.docking.convert import (
    confidence_from,
    denoiser_from,
    encoder_from,
    latent_count,
    part_of,
    prior_from,
    recognise,
)
from domains.docking.networks.backbone import BackboneOptions
from domains.docking.noise import TABLE_SIZE, TabledNoise, authors_noise
from domains.docking.temperatures import LATENT_TEMPERATURE

logger = logging.getLogger("disco")
State = dict[str, Tensor]
TABLE = "torus_score_norm"
# What the networks here take for granted, by the names of the authors' model_parameters.yml.
EXPECTED = {
    "sigma_embed_dim": 32, "sh_lmax": 1, "embedding_type": "sinusoidal", "tr_sigma_min": 0.1, "tr_sigma_max": 19.0,
    "rot_sigma_min": 0.03, "rot_sigma_max": 1.55, "tor_sigma_min": 0.03, "tor_sigma_max": 3.14, "latent_vocab": 1,
}  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """State dicts by kind with the files that they came from; ``plain`` is a denoiser without latents."""

    states: Mapping[str, tuple[State, Path]]
    table: Tensor | None


def convert_files(source: Path) -> Converted | None:
    """The model in a file or anywhere below a folder; None where no file holds weights of their docking networks.

    Weights are read with ``weights_only``: nothing in them is executed. Where a folder has denoisers with and without
    latents, the one with latents is taken. Raises CheckpointError for files of the right names that do not fit.
    """
    found = _search(source)
    if not found.states:
        return None
    kinds = dict(found.states)
    plain = kinds.pop("plain", None)
    notes = [f"{kind}: from {path}" for kind, (_, path) in kinds.items()]
    if "denoiser" not in kinds:
        if plain is None:
            raise CheckpointError(f"{source}: has {', '.join(kinds)} of a docking model, but no denoiser to go with it")
        kinds, notes = {"denoiser": plain, **{k: v for k, v in kinds.items() if k == "confidence"}}, []
        notes = [f"{kind}: from {path}" for kind, (_, path) in kinds.items()]
    elif plain is not None:
        notes.append(f"{plain[1]} (a denoiser without latents) was left out: convert that file alone")
    for _, path in kinds.values():
        _check_parameters(path)
    noise = authors_noise()
    scale = noise if found.table is None else TabledNoise(noise, found.table)
    if found.table is None:
        notes.append("torsion scores are scaled by exact norms: the authors' table is redrawn at every start of theirs")
    networks: dict[str, nn.Module] = {"denoiser": denoiser_from(kinds["denoiser"][0], scale)}
    if "encoder" in kinds:
        networks["encoder"] = encoder_from(kinds["encoder"][0])
    if "prior" in kinds:
        networks["prior"] = prior_from(kinds["prior"][0], noise)
    if "confidence" in kinds:
        networks["confidence"] = confidence_from(kinds["confidence"][0])
    return Converted(_config(kinds, networks, found.table is not None, str(source)), networks, tuple(notes))


def _search(source: Path) -> _Found:
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*.pt") if p.is_file())
    states: dict[str, tuple[State, Path]] = {}
    table = None
    for path in paths:
        loaded = _load(path)
        if TABLE in loaded and len(loaded[TABLE]) == TABLE_SIZE:
            table = loaded[TABLE]
        for kind in sorted(recognise(loaded)):
            state = part_of(loaded, {"denoiser": "score_model.", "encoder": "encoder."}.get(kind, "\0"))
            name = "plain" if kind == "denoiser" and not latent_count(state) else kind
            # A file of the denoiser alone holds averaged weights; that of the whole wrapper the last raw ones.
            if name not in states or len(state) == len(loaded):
                states[name] = (state, path)
    return _Found(states, table)


def _load(path: Path) -> State:
    """Tensors of a file, by name; empty where it holds something else."""
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        logger.info("%s: holds more than tensors, which is not read", path)
        return {}
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged, or no PyTorch file: {str(error).splitlines()[0]}") from error
    if not isinstance(loaded, Mapping):
        return {}
    flat = {str(name).removeprefix("module."): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return flat


def _check_parameters(weights: Path) -> None:
    """Compare the authors' settings beside the weights with what the networks here are. Raises CheckpointError."""
    path = weights.parent / "model_parameters.yml"
    if not path.is_file():
        return
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as YAML") from error
    if not isinstance(settings, Mapping) or settings.get("all_atoms"):  # the confidence model has settings of its own
        return
    for name, expected in EXPECTED.items():
        if name in settings and settings[name] != expected:
            raise CheckpointError(f"{path}: {name} is {settings[name]!r}, and only {expected!r} can be converted")


def _config(kinds: Mapping[str, Any], networks: Mapping[str, nn.Module], table: bool, where: str) -> Any:
    """The configuration under which our networks have these sizes and peculiarities."""
    denoiser = _options(networks["denoiser"])
    count = denoiser.latent_width
    model: dict[str, Any] = {
        "noise": {"igso3": "authors", "torsion_norms": "table" if table else "exact"},
        "denoiser": _sizes(denoiser),
        "language_dim": denoiser.language,
        "time_dim": denoiser.sigma_dim,
        "time_scale": denoiser.time_scale,
        "quirks": {
            "zero_cross_latents": True, "unsigned_reverse": True, "prior_channels": 16, "prior_shared_head": True,
            "shifted_language": True,
        },
    }  # fmt: skip
    if "encoder" in networks:
        model["encoder"] = _sizes(_options(networks["encoder"]))
    if "confidence" in networks:
        options: Any = networks["confidence"].options
        model["confidence"] = {name: getattr(options, name) for name in ConfidenceConfig.model_fields}
    low_temperature = "low-temperature-disco" if count else "low-temperature-diffdock-s"
    raw = {
        "domain": "docking",
        "latents": {"kind": "pointer", "count": count} if count else {"kind": "none"},
        "model": model,
        "sampling": {"sampler": low_temperature, "steps": 20, "prior_temperature": LATENT_TEMPERATURE},
    }
    return parse_config(raw, where)


def _options(network: nn.Module) -> BackboneOptions:
    options = network.get_submodule("backbone").options
    assert isinstance(options, BackboneOptions)
    return options


def _sizes(options: BackboneOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in BackboneConfig.model_fields}
