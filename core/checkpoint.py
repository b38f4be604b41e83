"""Model folders: safetensors weights and a manifest. Nothing in them is ever unpickled.

DIR/manifest.json            schema, configuration, checksums, provenance, metrics
DIR/denoiser.safetensors     and encoder.safetensors, prior.safetensors, ... as the manifest says
"""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import core
from core.config import RunConfig
from core.config_file import parse_config
from core.errors import CheckpointError
from core.files import sha256, write_atomically, write_text

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a model folder says about itself.

    weights: part name -> SHA-256 of its file; data_hash: of the training data; metrics: what was measured.
    """

    config: RunConfig
    weights: Mapping[str, str]
    data_hash: str = ""
    git_commit: str = ""
    licence: str = "MIT"
    metrics: Mapping[str, float] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all weights; '' where there are none."""
        parts = "".join(f"{name}:{checksum}\n" for name, checksum in sorted(self.weights.items()))
        return hashlib.sha256(parts.encode()).hexdigest() if parts else ""

    def to_json(self) -> str:
        """The text of manifest.json, with the versions that wrote it."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "disco_version": core.__version__,
                "torch_version": torch.__version__,
                "git_commit": self.git_commit,
                "licence": self.licence,
                "data_hash": self.data_hash,
                "config": self.config.model_dump(mode="json"),
                "weights": dict(self.weights),
                "metrics": dict(self.metrics or {}),
            },
            indent=2,
        )


def save_part(folder: Path, name: str, module: nn.Module) -> str:
    """Write one network's weights; returns their SHA-256."""
    path = folder / f"{name}.safetensors"
    weights = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(weights, temporary))
    return sha256(path)


def update_model(folder: Path, manifest: Manifest, parts: Mapping[str, nn.Module]) -> Manifest:
    """Write networks into a model folder and bring its manifest up to date; other parts stay as they are.

    ``manifest`` says all but the weights and the commit, which are filled in; metrics of earlier weights go. Where the
    weights are those that lie there already, their commit and metrics stay.
    """
    before = read_manifest(folder) if (folder / MANIFEST).exists() else None
    known = dict(before.weights) if before else {}
    weights = known | {name: save_part(folder, name, module) for name, module in parts.items()}
    if before is not None and weights == known:
        manifest = replace(before, config=manifest.config)
    else:
        manifest = replace(manifest, weights=weights, git_commit=git_commit())
    write_text(folder / MANIFEST, manifest.to_json())
    return manifest


def add_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Record measured figures in the manifest."""
    manifest = read_manifest(folder)
    merged = {**(manifest.metrics or {}), **metrics}
    write_text(folder / MANIFEST, replace(manifest, metrics=merged).to_json())


def find_model(folder: Path | str) -> Path:
    """The model folder itself, or the one inside a run folder. Raises CheckpointError where there is none."""
    folder = Path(folder)
    for candidate in (folder, folder / "model"):
        if (candidate / MANIFEST).is_file():
            return candidate
    what = "no such folder" if not folder.exists() else f"no {MANIFEST} in it"
    raise CheckpointError(f"{folder}: {what}; give the folder that 'disco train -o' or 'disco convert' wrote")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest. Raises CheckpointError for a damaged one or another schema."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        schema = raw["schema"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged, not a model manifest; copy the model folder again") from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path}: schema {schema}, and this is disco-diff {core.__version__}, which reads schema {SCHEMA}; "
            "install the version that wrote it, or train again"
        )
    try:
        config = parse_config(raw["config"], str(path))
        return Manifest(config, raw["weights"], raw["data_hash"], raw["git_commit"], raw["licence"], raw["metrics"])
    except KeyError as error:
        raise CheckpointError(f"{path}: damaged, {error} is missing; copy the model folder again") from error


def load_part(folder: Path, name: str, module: nn.Module, manifest: Manifest) -> nn.Module:
    """Load one network in place. Raises CheckpointError where the file is missing, damaged or does not fit."""
    try:
        module.load_state_dict(_weights(folder, name, manifest))
    except RuntimeError as error:
        raise _misfit(folder, name, error) from error
    return module


def start_part(folder: Path, name: str, module: nn.Module, manifest: Manifest) -> list[str]:
    """Start a network from one that may lack some of its layers; returns the names of the tensors that it lacks.

    Raises CheckpointError as ``load_part`` does: all that is in the file must have its place in the network.
    """
    try:
        missing, unexpected = module.load_state_dict(_weights(folder, name, manifest), strict=False)
    except RuntimeError as error:
        raise _misfit(folder, name, error) from error
    if unexpected:
        raise _misfit(folder, name, f"the network has no {unexpected[0]}")
    return list(missing)


def _weights(folder: Path, name: str, manifest: Manifest) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: missing, though the manifest lists it; copy the model folder again")
    if sha256(path) != manifest.weights[name]:
        raise CheckpointError(
            f"{path}: damaged (its checksum is not the manifest's); copy the model folder again, or, "
            "where training was killed, run the same training command again"
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except safetensors.SafetensorError as error:
        raise _misfit(folder, name, error) from error
    return weights


def _misfit(folder: Path, name: str, reason: object) -> CheckpointError:
    first = str(reason).splitlines()[0]
    return CheckpointError(f"{folder / name}.safetensors: does not fit the network of its manifest ({first})")


def git_commit() -> str:
    """Commit of the working tree that this package runs from, '' outside a repository."""
    here = Path(core.__file__).parent
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
