"""Pockets to measure on, latents from every source, intervals over complexes, and tables."""

import math
from argparse import Namespace
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from core.errors import DataError, RequestError
from core.latents import LatentSpace, from_codes, keep_all
from core.pipeline import Pipeline, Request
from core.prior import PriorOptions
from core.rng import SampleStreams
from core.types import LatentLogits, Latents
from domains.docking.batch import DockingBatch
from domains.docking.chemistry.pocket import Around
from domains.docking.complex import Complex
from domains.docking.config import DockingConfig
from domains.docking.crops import cut
from domains.docking.data import DockingDataset
from domains.docking.metrics.table import Interval

RESAMPLES = 10_000
NEEDS = {"encoder": "encoder", "prior": "prior"}  # sources of latents that need a network


def pockets(pipeline: Pipeline, options: Namespace) -> list[Complex]:
    """The complexes of ``options.split``, at most ``options.complexes``, cut to ``options.margin`` Angstrom around
    their true poses. Raises DataError where the settings of the model name none."""
    model = pipeline.config.model
    assert isinstance(model, DockingConfig)
    language = pipeline.domain.language()  # type: ignore[attr-defined]
    data = DockingDataset(model.data, options.split, language, model.quirks, options.complexes)
    known = [(each, each.ligand.coordinates) for each in data.complexes]
    return [cut(each, Around(truth, options.margin)) for each, truth in known if truth is not None]


def latent_space(pipeline: Pipeline, *, pointers: bool = False) -> LatentSpace:
    """The latents of a model. Raises RequestError where it has none, or no pointers where these are needed."""
    if pipeline.space is None:
        raise RequestError(f"{pipeline.name}: has no latents to measure: give a model with latents.kind pointer")
    if pointers and pipeline.config.latents.kind != "pointer":
        raise RequestError(f"{pipeline.name}: its latents name no nodes: this needs latents.kind pointer")
    return pipeline.space


def need(pipeline: Pipeline, *parts: str) -> None:
    """Raises RequestError where a network is missing."""
    for part in parts:
        if part not in pipeline.networks:
            raise RequestError(f"{pipeline.name}: has no {part}: train it first (disco train --stage)")


def sources(pipeline: Pipeline) -> list[str]:
    """Where latents can come from: encoder, prior, dropped, and ``random`` codes; ``none`` in a model without."""
    if pipeline.space is None:
        return ["none"]
    return [name for name in ("encoder", "prior", "dropped", "random") if NEEDS.get(name, "denoiser") in
            pipeline.networks]  # fmt: skip


@torch.no_grad()
def encoding(pipeline: Pipeline, batch: DockingBatch) -> LatentLogits:
    """What the encoder says of the first sample of a batch, whose samples are all of one complex."""
    logits: LatentLogits = pipeline.networks["encoder"](batch.select(slice(0, 1)))
    return logits


def latents_of(
    pipeline: Pipeline, batch: DockingBatch, source: str, seed: int = 0, options: PriorOptions = PriorOptions()
) -> Latents | None:
    """Hard latents for samples of one complex, independent from sample to sample.

    source: of ``sources``; ``none``: None, which a model with latents takes for dropped ones.
    """
    space = pipeline.space
    if source == "none" or space is None:
        return None
    if source == "prior":
        return pipeline.latents_for(Request(seed=seed, prior=options), batch)
    streams, width = SampleStreams(seed, batch.ids, f"{source} latents", batch.ids.device), space.codebook(batch)
    if source == "encoder":
        first = encoding(pipeline, batch)
        mask = None if first.mask is None else first.mask.expand(batch.size, -1)
        return keep_all(space.extract(LatentLogits(first.values.expand(batch.size, -1, -1), mask), streams))
    codes = (streams.uniform(space.count, dtype=torch.float64) * width).long().clamp_max(width - 1)
    latents = from_codes(codes, width)
    return latents.dropped() if source == "dropped" else latents


@lru_cache(maxsize=4)
def _draws(count: int, resamples: int, seed: int) -> Float[np.ndarray, "r c"]:
    """How often each complex is in each resample: the same ones for every figure, so that figures can be compared."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def interval(
    values: Sequence[float] | np.ndarray, weights: Sequence[float] | np.ndarray | None = None, level: float = 0.95,
    resamples: int = RESAMPLES, seed: int = 0,
) -> Interval:  # fmt: skip
    """Weighted mean over complexes with its percentile-bootstrap interval.

    values: [C], NaN where a complex says nothing; weights: [C], 1 by default: the figure is sum(w v) / sum(w).
    """
    value = np.asarray(values, dtype=float)
    weight = np.where(np.isnan(value), 0.0, 1.0 if weights is None else np.asarray(weights, dtype=float))
    if not len(value):
        raise DataError("no complex to average over")
    if weight.sum() == 0:
        return Interval(math.nan, math.nan, math.nan)
    product, draws = np.nan_to_num(value) * weight, _draws(len(value), resamples, seed)
    below = draws @ weight
    resampled = (draws @ product)[below > 0] / below[below > 0]
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(product.sum() / weight.sum()), float(low), float(high))


def ratio(numerator: Sequence[float] | np.ndarray, denominator: Sequence[float] | np.ndarray) -> Interval:
    """Ratio of sums over complexes, with its interval."""
    below = np.asarray(denominator, dtype=float)
    values = np.divide(numerator, below, out=np.full(len(below), math.nan), where=below > 0)
    return interval(values, below)


def excludes_zero(found: Interval) -> bool:
    return found.low > 0 or found.high < 0


def shown(found: Interval, scale: float = 1.0, digits: int = 3) -> str:
    """``0.123 [0.100, 0.150]``."""
    if math.isnan(found.value):
        return "-"
    value, low, high = (f"{scale * number:.{digits}f}" for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def percent(found: Interval) -> str:
    return shown(found, 100, 1)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(value: object) -> object:
    """For JSON: intervals as [value, low, high], arrays as lists, what is not finite as null."""
    if isinstance(value, Interval):
        return [plain(number) for number in (value.value, value.low, value.high)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def folder(options: Namespace) -> Path:
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    return out
