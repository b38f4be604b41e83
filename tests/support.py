"""What several tests need: small configurations, exact scores, a way to run the command line."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from core.config import RunConfig
from core.config_file import apply_overrides, parse_config
from core.geometry import Euclidean
from core.guidance import ScoreField
from core.rng import SampleStreams
from core.schedules import EDMPath
from core.schedules import Path as NoisePath
from core.types import Batch
from domains.toy.mixture import Mixture

ROOT = Path(__file__).parent.parent
SHARED_DATA = Path(os.environ.get("DISCO_SHARED_DATA", ROOT.parent / "shared" / "data"))

TINY: dict[str, Mapping[str, Any]] = {
    "toy": {
        "domain": "toy",
        "latents": {"count": 1, "codes": 8},
        "model": {"width": 16, "encoder_width": 16, "per_mode": 32, "noise": {"sigma_data": 0.2, "sigma_max": 10.0}},
        "prior": {"width": 16, "depth": 1, "heads": 2},
        "sampling": {"steps": 8},
    },
    "images": {
        "domain": "images",
        "latents": {"count": 3, "codes": 4},
        "model": {
            "noise": {"sigma_data": 0.75, "sigma_max": 20.0},
            "class_drop": 0.1,
            "denoiser": {
                "network": "adm",
                "model_channels": 8,
                "channel_mult": [1, 2],
                "num_blocks": 1,
                "attn_resolutions": [4],
                "channels_per_head": 8,
            },
            "latent_tokens": {"width": 16, "depth": 1, "heads": 2, "zero_init": False},
            "vit": {"embed_dim": 16, "depth": 1, "num_heads": 2},
        },
        "prior": {"width": 16, "depth": 1, "heads": 2},
        "sampling": {"steps": 4},
    },
}
DOCKING_DATA = ROOT / "tests" / "data" / "docking"
TINY["docking"] = {
    "domain": "docking",
    "latents": {"kind": "pointer", "count": 2},
    "model": {
        "data": {"folder": str(DOCKING_DATA / "complexes"), "table": str(DOCKING_DATA / "complexes.csv")},
        "denoiser": {"layers": 2, "scalars": 4, "vectors": 2, "distance_dim": 8},
        "encoder": {"layers": 1, "scalars": 4, "vectors": 2, "distance_dim": 8, "cross_cutoff": 12.0},
        "confidence": {"layers": 2, "scalars": 4, "vectors": 2, "distance_dim": 8},
        "time_dim": 8,
        "evaluation": {"poses": 2},
    },
    "sampling": {"steps": 3, "sampler": "low-temperature-disco"},
}
VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "toy": ("toy", {}),
    "toy-plain": ("toy", {"latents": {"kind": "none"}}),
    "toy-pfgmpp": (
        "toy",
        {"model": {**TINY["toy"]["model"], "noise": {**TINY["toy"]["model"]["noise"], "dimensions": 4}}},
    ),
    "toy-gaussian": ("toy", {"latents": {"kind": "gaussian", "count": 1, "codes": 8}}),
    "images": ("images", {}),
    "images-plain": ("images", {"latents": {"kind": "none"}}),
    "docking": ("docking", {}),
    "docking-plain": ("docking", {"latents": {"kind": "none"}}),
    "docking-vocabulary": ("docking", {"latents": {"kind": "discrete", "count": 2, "codes": 3}}),
    "images-gaussian": ("images", {"latents": {"kind": "gaussian", "count": 3, "codes": 4}}),
}
STAGE = {"steps": 12, "batch": 16, "log_every": 1, "checkpoint_every": 4, "lr": 1e-3}


def tiny_tree(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Raw configuration of a model that trains in a second: a key of VARIANTS, with ``a.b=value`` overrides."""
    base, changes = VARIANTS[name]
    tree = {**TINY[base], **changes, "train": {"denoiser": STAGE, "prior": STAGE}}
    return apply_overrides(tree, overrides)


def tiny_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    return parse_config(tiny_tree(name, overrides), "test")


def write_config(path: Path, name: str, overrides: Sequence[str] = ()) -> Path:
    """The same as a YAML file."""
    path.write_text(yaml.safe_dump(tiny_tree(name, overrides)))
    return path


def disco(*arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "core.cli", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env, cwd=ROOT)


def streams(size: int, seed: int = 0, purpose: str = "test") -> SampleStreams:
    return SampleStreams(seed, range(size), purpose)


def exact_field(size: int, path: NoisePath | None = None, mixture: Mixture | None = None) -> ScoreField:
    """Score field of ``size`` samples with the closed-form score of the eight-mode mixture."""
    mixture = mixture or Mixture.eight()

    def score(state: Mapping[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        return {"x": mixture.score(state["x"], level)}

    return ScoreField(score, Euclidean({"x": (2,)}, path or EDMPath()), Batch(torch.arange(size)))
