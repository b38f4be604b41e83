"""What ``disco evaluate`` and ``disco diagnose`` write."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.diagnostics import (
    curvature_curve,
    jacobian_curve,
    latent_switching,
    loss_by_level,
    oracle_and_sampled,
    record_states,
)
from core.files import write_text
from core.latents import code_usage
from core.pipeline import Pipeline, Request
from core.plots import plot_curves, plot_usage
from core.rng import SampleStreams
from core.types import Batch

EXACT_JACOBIAN_LIMIT = 8  # numbers per sample up to which the Jacobian is taken exactly
HUTCHINSON_PROBES = 4
SWITCH_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def real_batch(pipeline: Pipeline, count: int) -> Batch:
    """The first ``count`` samples of the training set (all of them where it is smaller), numbered from 0."""
    dataset = pipeline.domain.dataset("train")
    # A fixed stride instead of the first rows: data sets are often sorted by class.
    size = min(count, len(dataset))
    indices = [i * len(dataset) // size for i in range(size)]
    batch: Batch = dataset.load(indices, range(size))
    return batch


def evaluate_model(pipeline: Pipeline, request: Request, out: Path) -> dict[str, dict[str, float]]:
    """The domain's figures of merit per source of latents; also written to out/evaluation.json.

    ``sampled`` uses ``request.count`` fresh samples. ``oracle`` and ``none`` use the latents and conditions of real
    samples; a model without latents has one row.
    """
    result = pipeline.generate(request)
    rows = {"sampled": pipeline.domain.evaluate(result.state, result.batch)}
    if pipeline.space is not None:
        compared = oracle_and_sampled(pipeline, real_batch(pipeline, request.count), request)
        rows |= {name: compared[name] for name in ("oracle", "none")}
    for row in rows.values():
        row["nfe"] = float(result.nfe)
    record = {"request": {k: repr(v) for k, v in asdict_shallow(request).items()}, "rows": rows}
    write_text(out / "evaluation.json", json.dumps(record, indent=2))
    return rows


def asdict_shallow(value: Any) -> dict[str, Any]:
    """Fields of a dataclass, not descending into them."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def diagnose_model(pipeline: Pipeline, out: Path, count: int, seed: int = 0) -> list[Path]:
    """All diagnostics of one model: PNG pictures and diagnosis.json in ``out``. Returns the files."""
    batch = pipeline.domain.request(range(count)).to(pipeline.device)
    real = real_batch(pipeline, count)
    latents = pipeline.latents_for(Request(count=count, seed=seed), batch)
    states = record_states(pipeline, batch, latents, pipeline.config.sampling.steps, seed)
    field = pipeline.field(batch, latents)
    dims = sum(x[0].numel() for x in states[0].state.values())
    probes = 0 if dims <= EXACT_JACOBIAN_LIMIT else HUTCHINSON_PROBES
    streams = SampleStreams(seed, batch.ids, "probes", pipeline.device)
    curves = {
        "curvature": {"ODE": curvature_curve(field, states)},
        "jacobian": {kind: jacobian_curve(field, states, kind, probes, streams) for kind in ("score", "denoiser")},
        "loss": {"without latents": loss_by_level(pipeline, real, _levels(pipeline), with_latents=False, seed=seed)},
    }
    files: list[Path] = []
    extra: dict[str, Any] = {}
    if pipeline.space is not None:
        curves["loss"]["with latents"] = loss_by_level(pipeline, real, _levels(pipeline), with_latents=True, seed=seed)
        extra, files = _latent_report(pipeline, batch, real, out, seed)
    titles = {"curvature": "curvature", "jacobian": "Frobenius norm of the Jacobian", "loss": "squared error of D"}
    for name, group in curves.items():
        log = "x" if name == "curvature" else "xy"
        files.append(plot_curves(group, titles[name], out / f"{name}.png", log=log))
    files += pipeline.domain.figures(pipeline, out)
    record = {name: {k: asdict(c) for k, c in group.items()} for name, group in curves.items()} | extra
    write_text(out / "diagnosis.json", json.dumps(record, indent=2))
    return [*files, out / "diagnosis.json"]


def _levels(pipeline: Pipeline) -> list[float]:
    """Noise levels to measure the loss at: those of the sampler's grid, the noise-free end left out."""
    times = pipeline.domain.sampling_times(pipeline.config.sampling.steps)[:-1]
    return [float(level) for level in pipeline.geometry.noise_level(times)]


def _latent_report(
    pipeline: Pipeline, batch: Batch, real: Batch, out: Path, seed: int
) -> tuple[dict[str, Any], list[Path]]:
    """Code usage on real data, and what switching the latents on the way changes."""
    extra: dict[str, Any] = {}
    files: list[Path] = []
    oracle = pipeline.encode(real, seed)
    if pipeline.config.latents.kind == "discrete":
        usage = code_usage(oracle.codes, oracle.values.shape[-1])
        extra["usage"] = {"perplexity": usage.perplexity.tolist(), "frequency": usage.frequency.tolist()}
        files.append(plot_usage(usage, out / "usage.png"))
    first = pipeline.latents_for(Request(count=batch.size, seed=seed), batch)
    second = pipeline.latents_for(Request(count=batch.size, seed=seed + 1), batch)
    if first is not None and second is not None and not torch.equal(first.values, second.values):
        switched = latent_switching(pipeline, batch, first, second, SWITCH_SHARES, seed)
        extra["switching"] = {"shares": switched.shares, "distances": switched.distances}
    return extra, files
