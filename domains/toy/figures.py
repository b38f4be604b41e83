"""The paper's figures 3 and 4 redrawn: samples, trajectories, curvature and Jacobian norm, for one or more models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.diagnostics import Curve, curvature_curve, jacobian_curve, record_states
from core.guidance import ScoreField
from core.pipeline import Pipeline, Request
from core.plots import draw_curves, new_figure, save_figure, scatter
from core.samplers import Heun, Step
from domains.toy.mixture import Mixture

SAMPLES = 2000
PATHS_DRAWN = 120
STEPS = 50
VISIBLE = 1e-4  # what is smaller than this in every point is rounding, and not drawn


@dataclass(frozen=True)
class ToyRun:
    """A model's reverse process: its score field, the states on the way, and the integer that colours each sample."""

    field: ScoreField
    states: list[Step]
    colour: Tensor


def run_model(pipeline: Pipeline, count: int = SAMPLES, seed: int = 0) -> ToyRun:
    """Samples of a trained model, coloured by code, or by mode where it has no latents."""
    batch = pipeline.domain.request(range(count))
    latents = pipeline.latents_for(Request(count=count, seed=seed), batch)
    states = record_states(pipeline, batch, latents, STEPS, seed)
    mixture: Mixture = pipeline.domain.mixture  # type: ignore[attr-defined]
    with_codes = latents is not None and pipeline.config.latents.kind == "discrete"
    colour = latents.codes[:, 0] if with_codes and latents else mixture.nearest(states[-1].state["x"])
    return ToyRun(pipeline.field(batch, latents), states, colour)


def run_exact(pipeline: Pipeline, conditional: bool, count: int = SAMPLES, seed: int = 0) -> ToyRun:
    """The same with the closed-form score: of the whole mixture, or of one component per sample."""
    pipeline = Pipeline(pipeline.domain, {})  # closed forms need no network and no GPU
    batch = pipeline.domain.request(range(count))
    mixture: Mixture = pipeline.domain.mixture  # type: ignore[attr-defined]
    mode = torch.arange(count) % len(mixture.means)

    def score(state: Mapping[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        x = state["x"]
        return {"x": mixture.component_score(x, level, mode) if conditional else mixture.score(x, level)}

    field = ScoreField(score, pipeline.geometry, batch)
    start, times, streams = pipeline.start(batch, STEPS, seed)
    states: list[Step] = []
    end = Heun().run(field, start, times, streams, states.append)
    return ToyRun(field, [*states, Step(STEPS, times[-1], end)], mode)


Measure = Callable[[ToyRun], Curve]
MEASURES: dict[str, Measure] = {
    "mean curvature": lambda run: curvature_curve(run.field, run.states),
    "median curvature": lambda run: curvature_curve(run.field, run.states, "median"),
    "jacobian of the denoiser": lambda run: jacobian_curve(run.field, run.states, "denoiser"),
    "jacobian of the score": lambda run: jacobian_curve(run.field, run.states, "score"),
}


def trajectory_curves(runs: Mapping[str, ToyRun]) -> dict[str, dict[str, Curve]]:
    """Every measure for every run, over noise levels 0.01 and up (below, all that is left is rounding)."""
    curves: dict[str, dict[str, Curve]] = {}
    for measure_name, measure in MEASURES.items():
        curves[measure_name] = {}
        for run_name, run in runs.items():
            curve = measure(run)
            kept = [(level, value) for level, value in zip(curve.levels, curve.values, strict=True) if level >= 0.01]
            curves[measure_name][run_name] = Curve(*map(list, zip(*kept, strict=True)))
    return curves


def runs_with_references(pipelines: Mapping[str, Pipeline]) -> dict[str, ToyRun]:
    """Every model's run, then those of the two exact scores, which are those of Gaussian noise."""
    runs = {name: run_model(pipeline) for name, pipeline in pipelines.items()}
    reference = next(iter(pipelines.values()))
    if not reference.geometry.gaussian:
        return runs
    runs["exact mixture"] = run_exact(reference, conditional=False)
    runs["exact single mode"] = run_exact(reference, conditional=True)
    return runs


def draw_figures(pipelines: Mapping[str, Pipeline], out: Path) -> list[Path]:
    """Figure 3 (samples and trajectories per model) and figure 4 (curves of all models with the exact ones)."""
    runs = runs_with_references(pipelines)
    models = {name: runs[name] for name in pipelines}
    return [
        draw_samples(models, out / "toy-samples.png"),
        draw_trajectory_curves(trajectory_curves(runs), out / "toy-curves.png"),
    ]


def draw_samples(runs: Mapping[str, ToyRun], path: Path) -> Path:
    """Figure 3: generated points and, below, their trajectories; one column per run."""
    figure, axes = new_figure(columns=len(runs), rows=2, size=(4.2, 4.3))
    for column, (name, run) in enumerate(runs.items()):
        end = run.states[-1].state["x"]
        scatter(axes[column], end, run.colour, f"{name}: samples")
        axis = axes[len(runs) + column]
        paths = torch.stack([step.state["x"][:PATHS_DRAWN] for step in run.states]).cpu()
        for index in range(paths.shape[1]):
            axis.plot(*paths[:, index].T.numpy(), color="#888888", linewidth=0.5, alpha=0.6)
        scatter(axis, end[:PATHS_DRAWN], run.colour[:PATHS_DRAWN], f"{name}: trajectories", limit=12.0, size=8.0)
    return save_figure(figure, path)


def draw_trajectory_curves(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> Path:
    """Figure 4: one panel per measure, on logarithmic axes."""
    figure, axes = new_figure(columns=2, rows=-(-len(curves) // 2))
    for axis, (name, group) in zip(axes, curves.items(), strict=False):
        visible = {key: curve for key, curve in group.items() if max(curve.values) > VISIBLE}
        draw_curves(axis, visible, name, log="xy")
        axis.set_ylim(bottom=max(VISIBLE, 0.5 * min(min(curve.values) for curve in visible.values())))
    return save_figure(figure, path)
