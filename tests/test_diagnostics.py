"""Diagnostics against curves, maps and Gaussians whose answers are known, and on a small trained model."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.diagnostics import (
    along_trajectory,
    curvature,
    curvature_curve,
    field_function,
    flatten,
    jacobian_curve,
    jacobian_norm,
    latent_switching,
    loss_by_level,
    oracle_and_sampled,
    record_states,
)
from core.geometry import Euclidean
from core.guidance import ScoreField
from core.interfaces import Denoiser
from core.latents import from_codes
from core.pipeline import Pipeline, Request
from core.samplers import Heun, Step
from core.types import Batch, Latents, Tangent
from domains.toy.domain import ToyDomain
from tests.support import exact_field, streams, tiny_config

SPREAD = 0.5
T = torch.tensor(1.5, dtype=torch.float64)


def field_with_velocity(velocity: Callable[[Tensor], Tensor], size: int) -> ScoreField:
    """A field whose ODE is dx/dt = velocity(x), whatever the time."""

    def score(state: Mapping[str, Tensor], level: Tensor, *_: object) -> dict[str, Tensor]:
        return {"x": -velocity(state["x"]) / level[:, None]}

    return ScoreField(score, Euclidean({"x": (2,)}), Batch(torch.arange(size)))


class GaussianDenoiser(Denoiser):
    """Exact score of N(0, SPREAD^2); D = x SPREAD^2 / (SPREAD^2 + sigma^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, state: Any, level: Tensor, latents: Latents | None, batch: Any) -> Tangent:
        return {"x": -state["x"] / (SPREAD**2 + level[:, None] ** 2)}


def gaussian_field(size: int) -> ScoreField:
    return ScoreField(GaussianDenoiser(), Euclidean({"x": (2,)}), Batch(torch.arange(size)))


def gaussian_pipeline(weighting: str = "edm") -> Pipeline:
    domain = ToyDomain(tiny_config("toy-plain", [f"model.noise.weighting={weighting}"]))
    return Pipeline(domain, {"denoiser": GaussianDenoiser()})


@pytest.fixture
def pipeline(trained: Callable[[str], Path]) -> Pipeline:
    return Pipeline.from_pretrained(trained("toy"), device="cpu")


def test_the_curvature_of_circles_is_the_inverse_of_their_radius() -> None:
    radius = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    x = radius[:, None] * torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    turning = field_with_velocity(lambda x: torch.stack([-x[:, 1], x[:, 0]], dim=1), 3)
    torch.testing.assert_close(curvature(turning, {"x": x}, T), 1 / radius, rtol=1e-5, atol=0)


def test_the_curvature_does_not_depend_on_the_speed() -> None:
    x = streams(5).normal(2, dtype=torch.float64)
    slow, fast = (
        field_with_velocity(lambda x, v=v: v * torch.stack([-x[:, 1], x[:, 0]], dim=1), 5) for v in (0.5, 3.0)
    )
    torch.testing.assert_close(curvature(slow, {"x": x}, T), curvature(fast, {"x": x}, T), rtol=1e-4, atol=0)


def test_the_curvature_of_straight_lines_is_zero() -> None:
    # Trajectories of a centred Gaussian all go straight to the middle.
    x = streams(5).normal(2, dtype=torch.float64)
    torch.testing.assert_close(
        curvature(gaussian_field(5), {"x": x}, T), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_flatten_puts_fields_in_the_order_of_their_names() -> None:
    flat = flatten({"b": torch.tensor([[[1.0, 2.0]]]), "a": torch.tensor([[3.0]])})
    assert flat.tolist() == [[3, 1, 2]]


def test_the_jacobian_norm_of_a_linear_map_is_its_frobenius_norm() -> None:
    matrix = streams(4).normal(3, dtype=torch.float64)
    norms = jacobian_norm(lambda x: x @ matrix.T, streams(6).normal(3, dtype=torch.float64))
    torch.testing.assert_close(norms, matrix.norm().expand(6))


def test_the_jacobian_norm_belongs_to_each_sample() -> None:
    x = streams(6).normal(2, 2, dtype=torch.float64)
    torch.testing.assert_close(jacobian_norm(torch.square, x), (2 * x).flatten(1).norm(dim=1))


def test_hutchinsons_estimate_tends_to_the_exact_norm() -> None:
    matrix, probes = streams(3).normal(3, dtype=torch.float64), 500
    x = torch.zeros(2, 3, dtype=torch.float64)
    estimate = jacobian_norm(lambda x: x @ matrix.T, x, probes, streams(2, purpose="probes"))
    # The variance of |J^T v|^2 is 2 |J^T J|_F^2, at most 2 |J|_F^4; the root halves the relative error.
    assert ((estimate / matrix.norm() - 1).abs() < 4 * 0.5 * math.sqrt(2 / probes)).all()
    assert estimate[0] != estimate[1]


@pytest.mark.parametrize(("kind", "factor"), [("score", 1.0), ("denoiser", SPREAD**2)])
def test_jacobians_of_a_gaussian_score_and_denoiser(kind: str, factor: float) -> None:
    x = streams(3).normal(2, dtype=torch.float64)
    norms = jacobian_norm(field_function(gaussian_field(3), T, kind), x)
    torch.testing.assert_close(norms, torch.full_like(norms, factor * math.sqrt(2) / (SPREAD**2 + 1.5**2)))


def test_the_denoiser_of_a_field_is_the_posterior_mean() -> None:
    x = streams(3).normal(2, dtype=torch.float64)
    denoised = field_function(gaussian_field(3), T, "denoiser")(x)
    torch.testing.assert_close(denoised, x * SPREAD**2 / (SPREAD**2 + T**2))


def recorded(levels: list[float], size: int = 3) -> list[Step]:
    states = streams(size)
    return [
        Step(i, torch.tensor(level, dtype=torch.float64), {"x": states.normal(2, dtype=torch.float64)})
        for i, level in enumerate(levels)
    ]


@pytest.mark.parametrize(("statistic", "expected"), [("mean", 2.0), ("median", 1.0)])
def test_curves_reduce_over_samples_at_every_noisy_state(statistic: str, expected: float) -> None:
    curve = along_trajectory(
        recorded([3.0, 0.5, 0.0]), Euclidean({"x": (2,)}), lambda _: torch.tensor([0.0, 1.0, 5.0]), statistic
    )
    assert curve.levels == [3.0, 0.5]
    assert curve.values == pytest.approx([expected] * 2)


def test_jacobian_curve_of_a_gaussian() -> None:
    curve = jacobian_curve(gaussian_field(3), recorded([3.0, 0.5, 0.0]), "score")
    assert curve.values == pytest.approx([math.sqrt(2) / (SPREAD**2 + s**2) for s in (3.0, 0.5)])


def test_trajectories_of_the_mixture_bend() -> None:
    curve = curvature_curve(exact_field(3), recorded([1.2, 1.0]))
    assert min(curve.values) > 1e-3


def test_recorded_states_lead_from_noise_to_the_sample(pipeline: Pipeline) -> None:
    batch, latents = pipeline.domain.request(range(3)), from_codes(torch.tensor([[0], [3], [5]]), 8)
    states = record_states(pipeline, batch, latents, steps=5, seed=4)
    assert [step.index for step in states] == list(range(6))
    assert [float(step.t) for step in states] == pipeline.domain.sampling_times(5).tolist()
    end, _ = pipeline.solve(batch, latents, Request(steps=5, seed=4, sampler=Heun()))
    assert torch.equal(states[-1].state["x"], end["x"])


def gaussian_batch(size: int) -> Batch:
    return Batch(torch.arange(size), {"x": SPREAD * streams(size, purpose="data").normal(2)})


def test_the_loss_curve_of_an_exact_denoiser_is_the_posterior_variance() -> None:
    size, repeats, levels = 1000, 2, [0.1, 0.5, 3.0]
    curve = loss_by_level(gaussian_pipeline(), gaussian_batch(size), levels, with_latents=False, repeats=repeats)
    assert curve.levels == levels
    for level, value in zip(levels, curve.values, strict=True):
        expected = SPREAD**2 * level**2 / (SPREAD**2 + level**2)
        # Repeats share the data, so only ``size`` x 2 errors are counted as independent.
        assert value == pytest.approx(expected, rel=4 * math.sqrt(2 / (2 * size)))


@pytest.mark.parametrize("weighting", ["uniform", "inverse-square", "edm-monotonic"])
def test_the_loss_curve_does_not_depend_on_the_training_weight(weighting: str) -> None:
    levels, batch = [0.1, 0.5, 3.0], gaussian_batch(8)
    reference = loss_by_level(gaussian_pipeline("edm"), batch, levels, with_latents=False).values
    other = loss_by_level(gaussian_pipeline(weighting), batch, levels, with_latents=False).values
    assert other == pytest.approx(reference, rel=1e-4)


def test_loss_curves_with_and_without_latents_differ(pipeline: Pipeline) -> None:
    data = pipeline.domain.dataset("val")
    batch = data.load(range(0, len(data), 8), range(len(data) // 8))
    curves = [loss_by_level(pipeline, batch, [0.5, 2.0], with_latents) for with_latents in (True, False)]
    assert all(math.isfinite(value) and value > 0 for curve in curves for value in curve.values)
    assert curves[0].values != curves[1].values


def two_latents() -> tuple[Latents, Latents]:
    return from_codes(torch.tensor([[0]] * 4), 8), from_codes(torch.tensor([[5]] * 4), 8)


def test_switching_after_all_or_none_of_the_steps_is_no_switch(pipeline: Pipeline) -> None:
    batch, (first, second) = pipeline.domain.request(range(4)), two_latents()
    result = latent_switching(pipeline, batch, first, second, [0.0, 0.5, 1.0], seed=2)
    assert result.shares == [0.0, 0.5, 1.0]
    for state, latents in ((result.states[0], second), (result.states[2], first)):
        unswitched, _ = pipeline.solve(batch, latents, Request(seed=2, sampler=Heun()))
        assert torch.equal(state["x"], unswitched["x"])
    assert result.distances[0] == pytest.approx(1)
    assert result.distances[2] == 0
    assert result.distances[1] > 0


def test_switching_is_measured_under_the_guidance_of_the_model(trained: Callable[[str], Path]) -> None:
    pipeline = Pipeline.from_pretrained(trained("toy"), device="cpu", overrides=["sampling.guidance=1.0"])
    result = latent_switching(pipeline, pipeline.domain.request(range(4)), *two_latents(), [0.0, 1.0])
    assert result.distances == pytest.approx([1, 0])


def test_figures_of_merit_under_encoded_sampled_and_dropped_latents(pipeline: Pipeline) -> None:
    batch = pipeline.domain.dataset("val").load(range(0, 256, 8), range(32))
    results = oracle_and_sampled(pipeline, batch, Request(count=32, steps=4))
    assert set(results) == {"oracle", "sampled", "none"}
    for row in results.values():
        assert set(row) == {"w2", "mode_imbalance", "spread"}
        assert all(map(math.isfinite, row.values()))
    assert results["oracle"]["w2"] != results["none"]["w2"]
