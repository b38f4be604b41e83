"""What the latents do, measured on any domain (DisCo-Diff sections 3.2, 4.1 and appendix F.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.guidance import ScoreField
from core.interfaces import scalar_times
from core.losses import score_matching
from core.pipeline import Pipeline, Request
from core.rng import SampleStreams
from core.samplers import Heun, Segment, Step, run_segments
from core.types import Latents, Samples, Tangent

CURVATURE_STEP = 1e-3  # the paper's dt


@dataclass(frozen=True)
class Curve:
    """A quantity along the reverse process: its mean over samples at decreasing noise levels."""

    levels: list[float]
    values: list[float]


def flatten(tangent: Tangent) -> Tensor:
    """All fields of a tangent as one [B, D] matrix, in order of their names."""
    return torch.cat([tangent[name].flatten(1) for name in sorted(tangent)], dim=1)


def curvature(field: ScoreField, state: Any, t: Tensor, dt: float = CURVATURE_STEP) -> Tensor:
    """[B] curvature of the ODE trajectories at the scalar time t (DisCo-Diff appendix F.3).

    kappa = ||T(t) - T(t - dt)|| / ||x(t) - x(t - dt)||, T the unit tangent, x(t - dt) one Euler step away.
    A straight trajectory has 0; a circle of radius r has 1/r.
    """
    velocity = field.velocity(state, t)
    step = {name: -dt * value for name, value in velocity.items()}
    ahead = field.velocity(field.geometry.retract(state, step), t - dt)
    now, then = flatten(velocity), flatten(ahead)
    turn = now / now.norm(dim=1, keepdim=True) - then / then.norm(dim=1, keepdim=True)
    return turn.norm(dim=1) / flatten(step).norm(dim=1)


def jacobian_norm(
    function: Callable[[Tensor], Tensor], x: Tensor, probes: int = 0, streams: SampleStreams | None = None
) -> Tensor:
    """[B] Frobenius norm of d function(x)_b / d x_b for x [B, ...].

    probes = 0: exact, one backward pass per output number (for small D). Otherwise Hutchinson's estimate
    E ||J^T v||^2 with that many normal v per sample from ``streams``.
    """
    if probes and streams is None:
        raise ValueError("an estimate with probes needs streams to draw them from")
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        output = function(x).flatten(1)
    size, dims = output.shape
    total = torch.zeros(size, dtype=output.dtype, device=x.device)
    for index in range(probes or dims):
        if probes and streams is not None:
            vector = streams.normal(dims, dtype=output.dtype)
        else:
            vector = torch.nn.functional.one_hot(torch.tensor(index, device=x.device), dims).to(output).expand(size, -1)
        (product,) = torch.autograd.grad(output, x, vector, retain_graph=True)
        total += product.flatten(1).square().sum(1)
    return (total / (probes or 1)).sqrt()


def field_function(field: ScoreField, t: Tensor, kind: str, name: str = "x") -> Callable[[Tensor], Tensor]:
    """x -> ``score`` or ``denoiser`` D = x + sigma^2 score of one flat field at the scalar time t."""

    def evaluate(x: Tensor) -> Tensor:
        score = field.score({name: x}, t)[name]
        if kind == "score":
            return score
        sigma = field.geometry.sigma({name: x}, scalar_times(t, len(x)))[name]
        return x + sigma**2 * score

    return evaluate


def record_states(pipeline: Pipeline, batch: Samples, latents: Latents | None, steps: int, seed: int = 0) -> list[Step]:
    """States along the model's ODE, at every point of its time grid, the clean end included."""
    states: list[Step] = []
    end, _ = pipeline.solve(batch, latents, Request(steps=steps, seed=seed, sampler=Heun()), states.append)
    return [*states, Step(steps, pipeline.domain.sampling_times(steps)[-1], end)]


def along_trajectory(
    states: Sequence[Step], geometry: Any, measure: Callable[[Step], Tensor], statistic: str = "mean"
) -> Curve:
    """``mean`` or ``median`` of ``measure`` over samples at every recorded state that still has noise."""
    reduce: Any = {"mean": torch.mean, "median": torch.median}[statistic]
    noisy = [step for step in states if float(step.t) > CURVATURE_STEP]
    levels = [float(geometry.noise_level(scalar_times(step.t, 1))[0]) for step in noisy]
    return Curve(levels, [float(reduce(measure(step))) for step in noisy])


def curvature_curve(field: ScoreField, states: Sequence[Step], statistic: str = "mean") -> Curve:
    """Curvature against noise level. The paper shows the mean, which single trajectories dominate that nearly stand
    still for a moment (the direction of a tiny velocity turns fast); the median shows the typical one."""
    with torch.no_grad():
        return along_trajectory(states, field.geometry, lambda step: curvature(field, step.state, step.t), statistic)


def jacobian_curve(
    field: ScoreField, states: Sequence[Step], kind: str, probes: int = 0, streams: SampleStreams | None = None
) -> Curve:
    """Mean Jacobian norm of the ``score`` or the ``denoiser`` against noise level, for domains with one flat field."""

    def measure(step: Step) -> Tensor:
        ((name, x),) = step.state.items()
        return jacobian_norm(field_function(field, step.t, kind, name), x, probes, streams)

    return along_trajectory(states, field.geometry, measure)


@torch.no_grad()
def loss_by_level(
    pipeline: Pipeline, batch: Samples, levels: Sequence[float], with_latents: bool, repeats: int = 4, seed: int = 0
) -> Curve:
    """Mean denoising loss ||D - y||^2 per element against noise level (DisCo-Diff Fig. 7): with the encoder's latents,
    or with the latents dropped. The training weight is divided out, so that only the error is left."""
    batch = batch.to(pipeline.device)
    latents = None
    if pipeline.space is not None:
        latents = pipeline.encode(batch, seed)
        latents = latents if with_latents else latents.dropped()
    values = []
    for level in levels:
        losses = []
        for repeat in range(repeats):
            streams = SampleStreams(seed, batch.ids, f"loss/{repeat}", pipeline.device)
            at = torch.full((batch.size,), level, device=pipeline.device)
            t = pipeline.geometry.time_at(at)
            losses.append(_squared_error(pipeline, batch, t, latents, streams).mean())
        values.append(float(torch.stack(losses).mean()))
    return Curve(list(levels), values)


def _squared_error(
    pipeline: Pipeline, batch: Any, t: Tensor, latents: Latents | None, streams: SampleStreams
) -> Tensor:
    """[B] the loss with the weight sigma^4, which makes it ||D - y||^2 per element on flat fields."""
    geometry = pipeline.geometry
    corrupted = geometry.corrupt(batch.clean, t, streams)
    weight = {name: sigma**4 for name, sigma in geometry.sigma(corrupted.state, t).items()}
    predicted = pipeline.denoiser(corrupted.state, geometry.noise_level(t), latents, batch)
    return score_matching(predicted, replace(corrupted, weight=weight))


@dataclass(frozen=True)
class SwitchResult:
    """Effect of changing the latents after a share of the steps: samples, and their distance to the run that keeps
    the first latents, relative to that between the two unswitched runs."""

    shares: list[float]
    states: list[Any]
    distances: list[float]


@torch.no_grad()
def latent_switching(
    pipeline: Pipeline, batch: Samples, first: Latents, second: Latents, shares: Sequence[float], seed: int = 0
) -> SwitchResult:
    """Start under one set of latents, go on under another after each share of the steps (DisCo-Diff appendix G).

    share 0 is all under ``second``, share 1 all under ``first``.
    """
    steps = pipeline.config.sampling.steps
    batch = batch.to(pipeline.device)
    sampler = Heun()

    def run(share: float) -> Any:
        start, times, streams = pipeline.start(batch, steps, seed)
        field = pipeline.field(batch, first)
        cut, other = round(share * steps), field.with_latents(second.to(pipeline.device))
        return run_segments(
            [Segment(sampler, times[: cut + 1]), Segment(sampler, times[cut:], other)], field, start, streams
        )

    runs = {share: run(share) for share in {0.0, 1.0, *shares}}
    distance = pipeline.geometry.distance
    scale = float(distance(runs[1.0], runs[0.0]).mean())
    states = [runs[share] for share in shares]
    apart = [float(distance(runs[1.0], state).mean()) for state in states]
    # Latents that change nothing at all leave nothing to compare with.
    return SwitchResult(list(shares), states, [d / scale if scale else 0.0 for d in apart])


@torch.no_grad()
def oracle_and_sampled(pipeline: Pipeline, batch: Samples, request: Request) -> dict[str, dict[str, float]]:
    """The domain's figures of merit from the same noise and conditions, under latents that the encoder read from real
    samples (``oracle``), latents from the prior (``sampled``) and, if the model trained so, dropped ones (``none``)."""
    latents = pipeline.encode(batch, request.seed)
    sampled = pipeline.latents_for(request, batch)
    sources = {"sampled": sampled, "oracle": latents}
    if pipeline.config.latents.drop:  # a model that never trained without latents has nothing to say about it
        sources["none"] = latents.dropped()
    results = {}
    for name, chosen in sources.items():
        state, _ = pipeline.solve_in_pieces(batch, chosen, request)
        results[name] = pipeline.domain.evaluate(state, batch)
    return results
