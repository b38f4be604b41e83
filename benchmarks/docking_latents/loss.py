"""Denoising loss at fixed noise levels under latents from every source, on the same noise."""

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from benchmarks.docking_latents.common import (
    excludes_zero,
    folder,
    interval,
    latents_of,
    markdown,
    plain,
    pockets,
    shown,
    sources,
)
from core.errors import RequestError
from core.files import write_text
from core.interfaces import Denoiser
from core.losses import score_matching
from core.pipeline import Pipeline
from core.plots import COLOURS, new_figure, save_figure
from core.rng import SampleStreams
from core.types import Latents
from domains.docking.complex import Complex
from domains.docking.evaluation import poses_of
from domains.docking.geometry import DockingGeometry
from domains.docking.metrics.table import Interval
from domains.docking.noise import FIELDS
from domains.docking.pose import Pose, pose_of

logger = logging.getLogger("disco")
PARTS = (*FIELDS, "total")
TIMES = tuple(round(0.1 * step, 1) for step in range(1, 11))
PAIRS = (
    ("encoder", "plain"), ("encoder", "dropped"), ("encoder", "random"), ("prior", "plain"), ("prior", "dropped"),
    ("dropped", "plain"),
)  # fmt: skip
Variants = Mapping[str, tuple[Denoiser, Latents | None]]


@torch.no_grad()
def losses_of(
    variants: Variants, geometry: DockingGeometry, each: Complex, times: Sequence[float], draws: int, seed: int,
    device: torch.device,
) -> Float[np.ndarray, "v t 4"]:  # fmt: skip
    """Means over ``draws`` noises of one complex, the same ones for every variant; torsions: NaN where it has none."""
    batch = poses_of(each, draws).to(device)
    clean = Pose.concatenate([pose_of(each.graph, each.graph["ligand"].matched)] * draws).to(device)
    found = np.full((len(variants), len(times), len(PARTS)), np.nan)
    for column, time in enumerate(times):
        t = torch.full((draws,), time, device=device)
        corrupted = geometry.corrupt(clean, t, SampleStreams(seed, batch.ids, f"loss at {time:g}", device))
        for row, (denoiser, latents) in enumerate(variants.values()):
            predicted = denoiser(corrupted.state, geometry.noise_level(t), latents, batch)
            for number, name in enumerate(FIELDS):
                if predicted[name].shape[1]:
                    found[row, column, number] = float(score_matching({name: predicted[name]}, corrupted).mean())
            found[row, column, -1] = float(score_matching(predicted, corrupted).mean())
    return found


def variants_of(pipeline: Pipeline, other: Pipeline | None, each: Complex, draws: int, seed: int) -> Variants:
    """Denoisers with their latents for one complex; ``plain``: the other model without latents."""
    batch = poses_of(each, draws).to(pipeline.device)
    found = {name: (pipeline.denoiser, latents_of(pipeline, batch, name, seed)) for name in sources(pipeline)}
    return found if other is None else {**found, "plain": (other.denoiser, None)}


def measure(
    pipeline: Pipeline, other: Pipeline | None, complexes: Sequence[Complex], times: Sequence[float], draws: int,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "c t 4"]]:  # fmt: skip
    """Loss of every variant: complexes x times x (tr, rot, tor, total).

    Raises RequestError where the two models have other noises.
    """
    geometry = pipeline.geometry
    assert isinstance(geometry, DockingGeometry)
    if other is not None and other.config.model.noise != pipeline.config.model.noise:
        raise RequestError(f"{other.name}: its noise (model.noise) is not that of {pipeline.name}: no common loss")
    found, names = [], [*sources(pipeline), *(["plain"] if other is not None else [])]
    for number, each in enumerate(complexes, start=1):
        variants = variants_of(pipeline, other, each, draws, seed)
        found.append(losses_of(variants, geometry, each, times, draws, seed, pipeline.device))
        logger.info("loss: %d of %d complexes", number, len(complexes))
    return {name: np.stack([losses[row] for losses in found]) for row, name in enumerate(names)}


def differences(losses: Mapping[str, np.ndarray], level: float = 0.95) -> dict[str, list[list[Interval]]]:
    """Paired differences of ``PAIRS`` that there are: per time, of every field and the total."""
    return {
        f"{one} - {two}": [
            [interval(losses[one][:, t, part] - losses[two][:, t, part], level=level) for part in range(len(PARTS))]
            for t in range(losses[one].shape[1])
        ]
        for one, two in PAIRS
        if one in losses and two in losses
    }


def verdicts(losses: Mapping[str, np.ndarray], times: Sequence[float]) -> list[str]:
    """At which times the total losses of a pair differ: by 95 % intervals, and by ones that hold for all times at once
    (Bonferroni)."""
    single, joint = differences(losses), differences(losses, 1 - 0.05 / len(times))
    lines = []
    for name, rows in single.items():
        said = {
            kind: [f"{t:g}" for t, row in zip(times, found, strict=True) if excludes_zero(row[-1])]
            for kind, found in (("one by one", rows), ("all times at once", joint[name]))
        }
        lines.append(f"{name}: significant at t = " + "; ".join(
            f"{', '.join(found) or 'none'} ({kind})" for kind, found in said.items()
        ))  # fmt: skip
    return lines


def run(options: Namespace) -> str:
    """Measure, write loss.json, loss.md and loss.png; returns the Markdown."""
    pipeline = Pipeline.from_pretrained(options.model, options.device, options.set)
    other = None if options.plain is None else Pipeline.from_pretrained(options.plain, options.device)
    complexes, times = pockets(pipeline, options), options.times
    losses = measure(pipeline, other, complexes, times, options.draws, options.seed)
    out, paired = folder(options), differences(losses)
    text = report(losses, times, f"{len(complexes)} complexes, {options.draws} noises each per time")
    record = {
        "complexes": [each.name for each in complexes], "times": list(times), "parts": PARTS, "draws": options.draws,
        "losses": losses, "differences": paired, "verdicts": verdicts(losses, times),
    }  # fmt: skip
    write_text(out / "loss.json", json.dumps(plain(record)))
    write_text(out / "loss.md", text)
    draw(losses, paired, times, options)
    return text


def report(losses: Mapping[str, np.ndarray], times: Sequence[float], said: str) -> str:
    """Total losses and differences per time, differences of every field over all times, verdicts."""
    every = differences(losses)
    rows = [
        [f"{t:g}", *(shown(interval(value[:, i, -1])) for value in losses.values()),
         *(shown(each[i][-1], digits=4) + (" *" if excludes_zero(each[i][-1]) else "") for each in every.values())]
        for i, t in enumerate(times)
    ]  # fmt: skip
    mean = {name: value.mean(1, keepdims=True) for name, value in losses.items()}
    fields = [
        [name, *(shown(found, digits=4) + (" *" if excludes_zero(found) else "") for found in each[0])]
        for name, each in differences(mean).items()
    ]
    parts = [
        f"## Denoising loss\n\n{said}; * the 95 % interval over complexes excludes 0",
        markdown(["t", *losses, *every], rows),
        "Differences, mean over the times:", markdown(["pair", *PARTS], fields),
        "\n".join(f"- {line}" for line in verdicts(losses, times)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def draw(
    losses: Mapping[str, np.ndarray], paired: Mapping[str, list[list[Interval]]], times: Sequence[float],
    options: Namespace,
) -> None:  # fmt: skip
    figure, (left, right) = new_figure(columns=2)
    for colour, (name, value) in zip(COLOURS, losses.items(), strict=False):
        left.plot(times, value[:, :, -1].mean(0), label=name, color=colour)
    left.set(xlabel="time t", ylabel="denoising loss")
    left.legend()
    for colour, (name, rows) in zip(COLOURS, paired.items(), strict=False):
        low, middle, high = ([getattr(row[-1], key) for row in rows] for key in ("low", "value", "high"))
        right.plot(times, middle, label=name, color=colour)
        right.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
    right.axhline(0, color="#555555", linewidth=0.8)
    right.set(xlabel="time t", ylabel="difference, 95 % interval")
    right.legend(fontsize=7)
    save_figure(figure, options.out / "loss.png")
