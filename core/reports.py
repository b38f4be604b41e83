"""What ``disco evaluate`` and ``disco diagnose`` write."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from core.diagnostics import (
    Curve,
    curvature_curve,
    jacobian_curve,
    latent_switching,
    loss_by_level,
    oracle_and_sampled,
    record_states,
)
from core.files import write_text
from core.guidance import ScoreField
from core.latents import code_usage
from core.pipeline import Pipeline, Request
from core.plots import plot_curves, plot_usage
from core.rng import SampleStreams
from core.samplers import Step
from core.types import Latents, Samples

logger = logging.getLogger("disco")
DEFAULT_COUNT = 2000
EXACT_JACOBIAN_LIMIT = 8  # numbers per sample up to which the Jacobian is taken exactly
HUTCHINSON_PROBES = 4
SWITCH_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def real_batch(pipeline: Pipeline, count: int | None = None, split: str = "train") -> Any:
    """``count`` samples spread evenly over a data set (all of them where it is smaller), numbered from 0."""
    dataset = pipeline.domain.dataset(split)
    # A fixed stride instead of the first rows: data sets are often sorted by class.
    size = len(dataset) if count is None else min(count, len(dataset))
    indices = [i * len(dataset) // size for i in range(size)]
    return dataset.load(indices, range(size))


def evaluate_model(
    pipeline: Pipeline, request: Request, out: Path, count: int | None = None
) -> dict[str, dict[str, float]]:
    """The domain's figures of merit per source of latents; also written to out/evaluation.json.

    count: samples to generate, None: the domain's own number, or 2000. ``generated``: samples as users get them. The
    other rows, in a model with latents, compare like with like on the conditions of real samples: latents from the
    prior, from the encoder, and dropped. A domain with a protocol of its own writes and returns what that says.
    """
    own = pipeline.domain.evaluation(pipeline, request, out, count)
    if own is not None:
        return own
    request = replace(request, count=count or DEFAULT_COUNT)
    logger.info("generating %d samples", request.count)
    result = pipeline.generate(request)
    rows = {"generated": pipeline.domain.evaluate(result.state, result.batch)}
    if pipeline.space is not None:
        logger.info("comparing sources of latents on the conditions of real samples")
        rows |= oracle_and_sampled(pipeline, real_batch(pipeline, request.count), request)
    for row in rows.values():
        row["nfe"] = float(result.nfe)
    record = {"request": {name: repr(value) for name, value in vars(request).items()}, "rows": rows}
    write_text(out / "evaluation.json", json.dumps(record, indent=2))
    return rows


def diagnose_model(pipeline: Pipeline, out: Path, count: int, seed: int = 0) -> list[Path]:
    """All diagnostics of one model: PNG pictures and diagnosis.json in ``out``. Returns the files."""
    batch = pipeline.domain.request(range(count)).to(pipeline.device)
    real, held_out = real_batch(pipeline, count), real_batch(pipeline, count, "val")
    latents = pipeline.latents_for(Request(count=count, seed=seed), batch)
    logger.info("trajectories and curvature")
    states = record_states(pipeline, batch, latents, pipeline.config.sampling.steps, seed)
    field = pipeline.field(batch, latents)
    streams = SampleStreams(seed, batch.ids, "probes", pipeline.device)
    levels = _levels(pipeline)
    logger.info("loss against noise level, on held-out data")
    curves = {
        "curvature": {"ODE": curvature_curve(field, states)},
        "loss": {"without latents": loss_by_level(pipeline, held_out, levels, with_latents=False, seed=seed)},
    }
    if pipeline.geometry.flat and len(states[0].state) == 1:
        logger.info("Jacobian norm")
        curves["jacobian"] = _jacobian_curves(field, states, streams)
    files: list[Path] = []
    extra: dict[str, Any] = {}
    if pipeline.space is not None:
        curves["loss"]["with latents"] = loss_by_level(pipeline, held_out, levels, with_latents=True, seed=seed)
        extra, files = _latent_report(pipeline, batch, latents, real, out, seed)
    titles = {"curvature": "curvature", "jacobian": "Frobenius norm of the Jacobian", "loss": "squared error of D"}
    for name, group in curves.items():
        log = "x" if name == "curvature" else "xy"
        files.append(plot_curves(group, titles[name], out / f"{name}.png", log=log))
    logger.info("pictures of the domain")
    files += pipeline.domain.figures(pipeline, out)
    record = {name: {k: asdict(c) for k, c in group.items()} for name, group in curves.items()} | extra
    write_text(out / "diagnosis.json", json.dumps(record, indent=2))
    return [*files, out / "diagnosis.json"]


def _jacobian_curves(field: ScoreField, states: list[Step], streams: SampleStreams) -> dict[str, Curve]:
    """Exact for few numbers per sample, estimated for many; defined for one field in flat space."""
    (x,) = states[0].state.values()
    probes = 0 if x[0].numel() <= EXACT_JACOBIAN_LIMIT else HUTCHINSON_PROBES
    return {kind: jacobian_curve(field, states, kind, probes, streams) for kind in ("score", "denoiser")}


def _levels(pipeline: Pipeline) -> list[float]:
    """Noise levels to measure the loss at: those of the sampler's grid, the noise-free end left out."""
    times = pipeline.domain.sampling_times(pipeline.config.sampling.steps)[:-1]
    return [float(level) for level in pipeline.geometry.noise_level(times)]


def _latent_report(
    pipeline: Pipeline, batch: Samples, latents: Latents | None, real: Samples, out: Path, seed: int
) -> tuple[dict[str, Any], list[Path]]:
    """Code usage on real data, and what switching the latents on the way changes."""
    logger.info("code usage and latent switching")
    extra: dict[str, Any] = {}
    files: list[Path] = []
    oracle = pipeline.encode(real, seed)
    if pipeline.config.latents.kind == "discrete":
        usage = code_usage(oracle.codes, oracle.values.shape[-1])
        extra["usage"] = {"perplexity": usage.perplexity.tolist(), "frequency": usage.frequency.tolist()}
        files.append(plot_usage(usage, out / "usage.png"))
    second = pipeline.latents_for(Request(count=batch.size, seed=seed + 1), batch)
    if latents is not None and second is not None and not torch.equal(latents.values, second.values):
        switched = latent_switching(pipeline, batch, latents, second, SWITCH_SHARES, seed)
        extra["switching"] = {"shares": switched.shares, "distances": switched.distances}
    return extra, files
