"""Folders of the authors' checkpoints (``disco convert``): which file holds what, and one model made of them."""

import logging
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from core.config_file import parse_config
from core.errors import CheckpointError, DataError
from core.interfaces import Converted
from domains.docking.config import BackboneConfig, ConfidenceConfig
from domains.docking.networks.backbone import BackboneOptions
from domains.docking.networks.confidence import ConfidenceNet, ConfidenceOptions
from domains.docking.networks.prior import DockingPrior
from domains.docking.noise import FIELDS, TABLE_SIZE, DockingNoise, TabledNoise, authors_noise
from domains.docking.state_dicts import (
    SIGMA_DIM,
    confidence_from,
    denoiser_from,
    encoder_from,
    latent_count,
    part_of,
    prior_from,
    recognise,
)
from domains.docking.temperatures import LATENT_TEMPERATURE

logger = logging.getLogger("disco")
State = dict[str, Tensor]
TABLE = "torus_score_norm"
PREFIXES = {"denoiser": "score_model.", "encoder": "encoder."}  # in the file of the wrapper of both
# What the networks here take for granted, by the names of the authors' model_parameters.yml.
EXPECTED: Mapping[str, Any] = {
    "sigma_embed_dim": SIGMA_DIM, "sh_lmax": 1, "embedding_type": "sinusoidal", "dynamic_max_cross": True,
    **{f"{part}_sigma_min": getattr(DockingNoise, part)[0] for part in FIELDS},
    **{f"{part}_sigma_max": getattr(DockingNoise, part)[1] for part in FIELDS},
}  # fmt: skip


@dataclass(frozen=True)
class _Candidate:
    """Weights of one kind in a file. alone: the file holds nothing else."""

    state: State
    path: Path
    alone: bool

    @property
    def rank(self) -> tuple[bool, bool]:
        """Averaged weights before raw ones: their file of averages holds the denoiser alone, the wrapper's is raw."""
        return "ema" in self.path.stem.lower(), self.alone


Found = dict[str, list[_Candidate]]  # by kind; "plain": denoisers without latents; "torsion table": torsion norms


def convert_files(source: Path) -> Converted | None:
    """The model in a file or anywhere below a folder; None where no file holds weights of their docking networks.

    Weights are read with ``weights_only``: nothing in them is executed. Where a folder has denoisers with and without
    latents, those with latents are taken; of several files of one kind, that with averaged weights. Files that cannot
    be read are left out and noted. Raises CheckpointError for files of the right names that do not fit, for several
    that could be meant, and for damaged ones where there are no others.
    """
    if source.suffix == ".pkl":  # no file of theirs; networks of EDM come so
        return None
    found, unread = _search(source)
    if not found.keys() - {"torsion table"}:
        if unread:
            raise CheckpointError("; ".join(unread))
        return None
    chosen, notes = _select(found, source)
    # The settings of the prior are of its heads only, and those of the confidence model of another program.
    for kind in chosen.keys() & {"denoiser", "encoder"}:
        _check_parameters(chosen[kind].path)
    noise, table = authors_noise(), chosen.pop("torsion table", None)
    networks: dict[str, nn.Module] = {"denoiser": denoiser_from(chosen["denoiser"].state, _tabled(noise, table))}
    if "encoder" in chosen:
        networks["encoder"] = encoder_from(chosen["encoder"].state)
    if "prior" in chosen:
        networks["prior"] = prior_from(chosen["prior"].state, noise)
    if "confidence" in chosen:
        networks["confidence"] = confidence_from(chosen["confidence"].state)
    if table is None:
        notes.append("torsion scores are scaled by exact norms: the authors' table is redrawn at every start of theirs")
    width = _options(networks["denoiser"]).language
    if width:
        notes.append(
            f"the networks read residue embeddings of width {width} (ESM-2 650M: 1280): wherever this model is used, "
            "set model.language=FOLDER, the folder of that language model"
        )
    notes += [f"left out: {problem}" for problem in unread]
    return Converted(_config(networks, table is not None, str(source)), networks, tuple(notes))


def _search(source: Path) -> tuple[Found, list[str]]:
    """All weights there are, and what could not be read."""
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*.pt") if p.is_file())
    found: Found = {}
    unread = []
    for path in paths:
        try:
            loaded = _load(path)
            for kind, state in _parts(loaded).items():
                found.setdefault(kind, []).append(_Candidate(state, path, len(state) == len(loaded)))
        except CheckpointError as error:
            logger.debug("%s", error)
            unread.append(str(error))
    return found, unread


def _parts(loaded: State) -> dict[str, State]:
    """What a file holds, by kind. Raises CheckpointError for a denoiser whose latents cannot be counted."""
    parts = {}
    if TABLE in loaded and loaded[TABLE].shape == (TABLE_SIZE,):
        parts["torsion table"] = {TABLE: loaded[TABLE]}
    for kind in recognise(loaded):
        state = part_of(loaded, PREFIXES[kind]) if kind in PREFIXES else loaded
        parts["plain" if kind == "denoiser" and not latent_count(state) else kind] = state
    return parts


def _load(path: Path) -> State:
    """Tensors of a file, by name; empty where it holds something else. Raises CheckpointError for a damaged one."""
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        logger.info("%s: holds more than tensors, or is no PyTorch file: it is not read", path)
        return {}
    except Exception as error:  # on other bytes than it expects, torch.load raises whatever they lead it to
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: damaged, or no PyTorch file: {reason}") from error
    if not isinstance(loaded, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in loaded.items() if isinstance(value, Tensor)}


def _select(found: Found, source: Path) -> tuple[dict[str, _Candidate], list[str]]:
    """One candidate of each kind that goes into the model, the denoiser as "denoiser", and notes that say so."""
    if "denoiser" in found:
        kinds = {kind: kind for kind in ("denoiser", "encoder", "prior", "confidence", "torsion table")}
    elif "plain" in found:
        kinds = {"denoiser": "plain", "confidence": "confidence", "torsion table": "torsion table"}
    else:
        raise CheckpointError(f"{source}: has {', '.join(found)} of a docking model, but no denoiser to go with it")
    chosen = {role: _best(kind, found[kind]) for role, kind in kinds.items() if kind in found}
    notes = [f"{role}: from {one.path}" for role, one in chosen.items()]
    for kind in sorted(found.keys() - set(kinds.values())):
        what = "denoiser without latents: convert it alone" if kind == "plain" else f"{kind}: not of this model"
        notes += [f"left out: {one.path} ({what})" for one in found[kind]]
    for role, one in chosen.items():
        others = [other.path for other in found[kinds[role]] if other is not one]
        notes += [f"left out: {path} ({role}: the weights in {one.path} are preferred)" for path in others]
    return chosen, notes


def _best(kind: str, candidates: list[_Candidate]) -> _Candidate:
    """That with averaged weights. Raises CheckpointError where several could be meant."""
    rank = max(one.rank for one in candidates)
    best = [one for one in candidates if one.rank == rank]
    if len(best) > 1:
        name = "denoiser without latents" if kind == "plain" else kind
        paths = ", ".join(str(one.path) for one in best)
        raise CheckpointError(f"several files could be the {name}: {paths}; keep one of them in the folder")
    return best[0]


def _tabled(noise: DockingNoise, table: _Candidate | None) -> DockingNoise | TabledNoise:
    """The noise with the torsion norms of a file. Raises CheckpointError."""
    if table is None:
        return noise
    try:
        return TabledNoise(noise, table.state[TABLE])
    except DataError as error:
        raise CheckpointError(f"{table.path}: {error}") from error


def _check_parameters(weights: Path) -> None:
    """Compare the authors' settings beside the weights with what the networks here are. Raises CheckpointError."""
    path = weights.parent / "model_parameters.yml"
    if not path.is_file():
        return
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as YAML") from error
    if not isinstance(settings, Mapping):
        return
    expected_here = {**EXPECTED, "latent_vocab": 1} if settings.get("latent_dim") else EXPECTED
    for name, expected in expected_here.items():
        if name in settings and settings[name] != expected:
            raise CheckpointError(f"{path}: {name} is {settings[name]!r}, and only {expected!r} can be converted")


def _config(networks: Mapping[str, nn.Module], table: bool, where: str) -> Any:
    """The configuration under which our networks have these sizes and peculiarities."""
    denoiser = _options(networks["denoiser"])
    count = denoiser.latent_width
    # Of data: what the networks were trained on has all double bonds turned, and chirality tags as RDKit reads them.
    quirks = {**asdict(denoiser.quirks), "turn_double_bonds": True, "raw_chirality": True}
    model: dict[str, Any] = {
        "noise": {"igso3": "authors", "torsion_norms": "table" if table else "exact"},
        "denoiser": _sizes(denoiser),
        "language_dim": denoiser.language,
        "time_dim": denoiser.sigma_dim,
        "time_scale": denoiser.time_scale,
        "quirks": quirks,
        "evaluation": {"split": "all"},
    }
    if "encoder" in networks:
        model["encoder"] = _sizes(_options(networks["encoder"]))
    prior, confidence = networks.get("prior"), networks.get("confidence")
    if isinstance(prior, DockingPrior):
        quirks |= {"prior_channels": prior.quirks.channels, "prior_shared_head": prior.quirks.shared_head}
    if isinstance(confidence, ConfidenceNet):
        names = ConfidenceConfig.model_fields.keys() & ConfidenceOptions.__dataclass_fields__.keys()
        model["confidence"] = {name: getattr(confidence.options, name) for name in sorted(names)}
        quirks |= asdict(confidence.options.quirks)
    latents: dict[str, Any] = {"kind": "pointer", "count": count} if count else {"kind": "none"}
    if count and not denoiser.dropped:
        latents["drop"] = 0.0
    low_temperature = "low-temperature-disco" if count else "low-temperature-diffdock-s"
    raw = {
        "domain": "docking",
        "latents": latents,
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
