"""A network of EDM as a model of ours: to sample from, or to add latents to."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from core.config import RunConfig
from core.config_file import parse_config
from core.errors import CheckpointError, ConfigError
from core.interfaces import Converted
from core.precondition import PreconditionedDenoiser
from domains.images.config import GIVEN
from domains.images.data.augment import LABELS
from domains.images.networks.song import SongSettings
from domains.images.published.edm import EDMNetwork, read_edm

# Levels and losses that EDM trains each preconditioning with, and what its sampler does at best (EDM tables 1 and 5).
NOISE: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"precondition": "edm"},
    "VPPrecond": {"precondition": "vp", "distribution": "linear-beta", "weighting": "inverse-square"},
    "VEPrecond": {"precondition": "ve", "distribution": "loguniform", "weighting": "inverse-square"},
    "iDDPMPrecond": {
        "precondition": "iddpm",
        "distribution": "cosine",
        "weighting": "inverse-square",
        "grid": "cosine",
    },
}
AUGMENTED = 0.12  # a share that EDM trains with where the network hears of augmentation; sampling does not ask
LOWEST, HIGHEST = 0.002, 80.0  # noise levels of EDM's sampler, within what the network was trained for


def convert_edm(source: Path) -> Converted | None:
    """A published EDM pickle as networks and configuration; None for other files. Raises CheckpointError."""
    found = read_edm(source)
    if found is None:
        return None
    config = _config(found, source)
    from domains.images.domain import ImageDomain

    denoiser = ImageDomain(config).denoiser()
    assert isinstance(denoiser, PreconditionedDenoiser)
    denoiser.network.load_state_dict(dict(found.state))
    return Converted(config, {"denoiser": denoiser}, found.notes)


def _config(found: EDMNetwork, source: Path) -> RunConfig:
    settings = found.settings
    if settings.augment_dim not in (0, LABELS):
        raise CheckpointError(
            f"{source}: the network hears {settings.augment_dim} numbers of augmentation, and there are "
            f"{LABELS} or none"
        )
    denoiser = {
        f.name: getattr(settings, f.name)
        for f in fields(settings)
        if f.name not in GIVEN and (f.default is MISSING or getattr(settings, f.name) != f.default)
    }
    denoiser["network"] = "song" if isinstance(settings, SongSettings) else "adm"
    denoiser["variances"] = settings.out_channels > settings.in_channels
    noise = dict(NOISE[found.precondition])
    if "sigma_data" in found.arguments:
        noise["sigma_data"] = found.arguments["sigma_data"]
    if found.precondition != "iDDPMPrecond":
        noise["sigma_min"] = max(LOWEST, found.arguments.get("sigma_min", 0.0))
        noise["sigma_max"] = min(HIGHEST, found.arguments.get("sigma_max", HIGHEST))
    tree = {
        "domain": "images",
        "latents": {"kind": "none"},
        "model": {
            "resolution": settings.img_resolution,
            "image_channels": settings.in_channels,
            "classes": settings.label_dim,
            "class_drop": found.label_dropout if settings.label_dim else 0.0,
            "noise": noise,
            "denoiser": denoiser,
            "data": {"source": "data/images.zip", "augment": AUGMENTED if settings.augment_dim else 0.0},
            "vit": {"patch_size": 8},
        },
        "sampling": {"sampler": "heun", "steps": 18 if settings.img_resolution <= 32 else 40},
    }
    try:
        return parse_config(tree, str(source))
    except ConfigError as error:
        raise CheckpointError(f"{source}: its sizes make no network here ({error})") from error
