"""The toy: closed forms of the mixture, its networks, its metrics and pictures."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.config import LatentConfig
from core.errors import DataError, RequestError
from core.latents import from_codes
from core.pipeline import Generated, Pipeline
from core.prior import log_probabilities
from core.types import Batch, Latents
from domains.toy import figures, sampling
from domains.toy.domain import ToyDomain
from domains.toy.metrics import code_purity, evaluate_points, reference_points
from domains.toy.mixture import Mixture
from domains.toy.networks import POINT_SCALE, ToyDenoiser, ToyEncoder
from domains.toy.sampling import low_variance_samples
from tests.support import streams, tiny_config

MIXTURE = Mixture.eight()
SIGMAS = [0.0, 0.3, 2.0]


def points(size: int = 20) -> Tensor:
    return 3 * streams(size).normal(2, dtype=torch.float64)


def level(sigma: float, size: int = 20) -> Tensor:
    return torch.full((size,), sigma, dtype=torch.float64)


@pytest.fixture
def pipeline(trained: Callable[[str], Path]) -> Pipeline:
    return Pipeline.from_pretrained(trained("toy"), device="cpu")


def test_the_means_are_those_of_the_paper() -> None:
    d = 3 / math.sqrt(2)
    expected = {(3, 0), (-3, 0), (0, 3), (0, -3), (d, d), (d, -d), (-d, d), (-d, -d)}
    assert {tuple(row) for row in MIXTURE.means.mul(1e6).round().long().tolist()} == {
        (round(x * 1e6), round(y * 1e6)) for x, y in expected
    }


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_density_integrates_to_one(sigma: float) -> None:
    step, reach = 0.08, 14.0
    axis = torch.arange(-reach, reach, step, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = MIXTURE.log_density(grid, level(sigma, len(grid))).exp().sum() * step**2
    assert float(total) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_score_is_the_gradient_of_the_log_density(sigma: float) -> None:
    x = points().requires_grad_(True)
    (gradient,) = torch.autograd.grad(MIXTURE.log_density(x, level(sigma)).sum(), x)
    torch.testing.assert_close(MIXTURE.score(points(), level(sigma)), gradient)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_score_of_a_component_is_that_of_a_mixture_of_one(sigma: float) -> None:
    for k in (0, 5):
        alone = Mixture(MIXTURE.means[k : k + 1]).score(points(), level(sigma))
        torch.testing.assert_close(MIXTURE.component_score(points(), level(sigma), torch.full((20,), k)), alone)


def test_balanced_points_are_equally_many_per_mode_and_near_it() -> None:
    x, mode = MIXTURE.balanced(50, streams(400))
    assert torch.bincount(mode).tolist() == [50] * 8
    assert torch.equal(MIXTURE.nearest(x), mode)
    residual = x - MIXTURE.means[mode]
    assert float(residual.std()) == pytest.approx(0.2, rel=4 / math.sqrt(2 * 800))


def test_independent_points_fall_in_all_modes_by_chance() -> None:
    counts = torch.bincount(MIXTURE.nearest(MIXTURE.independent(streams(4000))), minlength=8)
    assert (counts - 500).abs().max() < 4.5 * math.sqrt(4000 * 7 / 64)
    assert len(counts.unique()) > 1


def test_nearest_takes_the_closest_mean() -> None:
    assert torch.equal(MIXTURE.nearest(0.1 * MIXTURE.means), torch.arange(8))


def test_the_standard_deviation_is_that_of_the_points() -> None:
    x, _ = MIXTURE.balanced(1000, streams(8000))
    # The means alone give exactly sqrt(9 / 2); only the noise of 16,000 numbers is left to chance.
    assert MIXTURE.std == pytest.approx(math.sqrt(4.5 + 0.04))
    error = (2 * 3 / math.sqrt(2) * 0.2 + 0.04 * math.sqrt(2)) / math.sqrt(16000)
    assert abs(float(x.square().mean()) - MIXTURE.std**2) < 4 * error


def test_training_points_are_the_same_at_every_call_and_others_in_validation() -> None:
    domain, again = ToyDomain(tiny_config("toy")), ToyDomain(tiny_config("toy", ["seed=5"]))
    train, val = domain.dataset("train"), domain.dataset("val")
    assert len(train) == 8 * 32
    assert torch.equal(train.fields["x"], again.dataset("train").fields["x"])
    assert not (train.fields["x"] == val.fields["x"]).any()
    assert torch.bincount(MIXTURE.nearest(train.fields["x"])).tolist() == [32] * 8


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(DataError, match="'test'; known: train, val"):
        ToyDomain(tiny_config("toy")).dataset("test")


@pytest.mark.parametrize("spec", [{"label": 3}, {"protein": "1abc"}])
def test_the_toy_takes_no_conditions(spec: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=r"no classes|takes no 'protein'"):
        ToyDomain(tiny_config("toy")).request(range(2), **spec)


def test_written_samples_can_be_read_back(tmp_path: Path) -> None:
    x = points(3)
    result = Generated({"x": x}, Batch(torch.tensor([4, 5, 6])), None, 0)
    (path,) = ToyDomain(tiny_config("toy")).write(result, tmp_path)
    with np.load(path) as data:
        assert np.array_equal(data["x"], x.numpy())
        assert data["id"].tolist() == [4, 5, 6]


def test_the_untrained_denoiser_is_the_score_of_one_gaussian_per_code() -> None:
    torch.manual_seed(0)
    network, x, sigma = ToyDenoiser(8, 0.2, 2.0, codes=4).double(), points(3), torch.tensor([0.01, 1.0, 9.0])
    codes, keep = torch.tensor([[1], [3], [2]]), torch.tensor([True, True, False])
    latents = Latents(from_codes(codes, 4).values.double(), keep)
    assert network.points is not None
    centre = network.points[codes[:, 0]] * POINT_SCALE * keep[:, None]
    spread = torch.where(keep, 0.2, 2.0)[:, None]
    expected = (centre - x) / (sigma.double()[:, None] ** 2 + spread**2)
    found = network({"x": x}, sigma, latents, Batch(torch.arange(3)))["x"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("codes", "spread"), [(0, 2.0), (4, 0.2)])
def test_the_correction_of_the_denoiser_is_scaled_to_unit_size(codes: int, spread: float) -> None:
    network, sigma = ToyDenoiser(8, 0.2, 2.0, codes).double(), torch.tensor([0.01, 1.0, 9.0], dtype=torch.float64)
    latents = Latents(torch.eye(4, dtype=torch.float64)[:3, None], torch.ones(3, dtype=torch.bool)) if codes else None

    def score() -> Tensor:
        return network({"x": points(3)}, sigma, latents, Batch(torch.arange(3)))["x"]

    before = score()
    with torch.no_grad():
        network.last.bias.fill_(1.0)  # H = 1 everywhere
    scale = spread / ((sigma**2 + 0.2**2) * (sigma**2 + spread**2)).sqrt()
    torch.testing.assert_close(score() - before, scale[:, None].expand(3, 2), rtol=1e-6, atol=1e-9)


def test_the_encoder_gives_one_latent() -> None:
    torch.manual_seed(0)
    encoder = ToyEncoder(LatentConfig(count=1, codes=5), 8, scale=2.0)
    assert encoder(Batch(torch.arange(6), {"x": points(6).float()})).values.shape == (6, 1, 5)


def test_code_purity_by_hand() -> None:
    codes = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3])
    modes = torch.tensor([1, 1, 4, 1, 1, 7, 7, 5, 7])
    purity = code_purity(codes, modes, width=5)
    assert purity.purity[[0, 2, 3]].tolist() == pytest.approx([2 / 3, 1, 3 / 4])
    assert purity.purity[[1, 4]].isnan().all()
    assert purity.mode[[0, 2, 3]].tolist() == [1, 1, 7]
    assert (purity.used, purity.modes_owned) == (3, 2)


def test_true_points_are_as_close_to_the_reference_as_true_points_can_be() -> None:
    fresh, _ = MIXTURE.balanced(50, streams(400))
    measured = evaluate_points(MIXTURE, fresh)
    assert measured["mode_imbalance"] == 0
    assert measured["spread"] == pytest.approx(0.2, rel=4 / math.sqrt(2 * 800))
    assert 0 < measured["w2"] < 0.2  # partners of one mode are nearer than its spread
    assert evaluate_points(MIXTURE, reference_points(MIXTURE, 400, balanced=True))["w2"] == 0
    # Independent points miss the weights of the modes, and mass has to move from one to another.
    assert evaluate_points(MIXTURE, reference_points(MIXTURE, 400, balanced=False))["w2"] > 2 * measured["w2"]


def test_points_of_one_mode_only_are_measured_as_such() -> None:
    measured = evaluate_points(MIXTURE, MIXTURE.means[:1].expand(83, -1))  # 80 are used
    assert measured["mode_imbalance"] == pytest.approx(7 / 8)
    assert measured["spread"] == 0
    reference = reference_points(MIXTURE, 80, balanced=True)
    expected = (reference - MIXTURE.means[0]).square().sum(1).mean().sqrt()
    assert measured["w2"] == pytest.approx(float(expected))


def test_fewer_points_than_modes_cannot_be_measured() -> None:
    with pytest.raises(RequestError, match="at least 8"):
        evaluate_points(MIXTURE, torch.zeros(7, 2))


def test_low_variance_samples_are_reproducible(pipeline: Pipeline) -> None:
    first, again, other = (low_variance_samples(pipeline, 16, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not (first == other).any()


def test_codes_of_low_variance_samples_follow_the_prior_closely(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, drawn = 256, []

    def recording(codes: Tensor, width: int) -> Latents:
        drawn.append(codes[:, 0])
        return from_codes(codes, width)

    monkeypatch.setattr(sampling, "from_codes", recording)
    low_variance_samples(pipeline, size)
    with torch.no_grad():
        p = log_probabilities(pipeline.networks["prior"], Batch(torch.arange(8)), torch.arange(8)[:, None])[:, 0].exp()
    share = torch.bincount(drawn[0], minlength=8) / size
    # 2^k Sobol points have exactly one number in every interval of 1/size: at most one is lost at each end.
    assert ((share - p).abs() <= 2 / size + 1e-6).all()


def test_there_may_be_fewer_low_variance_samples_than_codes(pipeline: Pipeline) -> None:
    assert low_variance_samples(pipeline, 4).shape == (4, 2)


def test_figures_are_written(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figures, "STEPS", 6)
    for name in ("run_model", "run_exact"):
        monkeypatch.setattr(figures, name, partial(getattr(figures, name), count=24))
    paths = pipeline.domain.figures(pipeline, tmp_path)
    assert [path.name for path in paths] == ["toy-samples.png", "toy-curves.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def exact_curve(pipeline: Pipeline, measure: str, conditional: bool) -> tuple[Tensor, Tensor]:
    """Levels and values of the closed-form score's curve."""
    curve = figures.trajectory_curves({"exact": figures.run_exact(pipeline, conditional, count=16)})[measure]["exact"]
    return torch.tensor(curve.levels, dtype=torch.float64), torch.tensor(curve.values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("mean curvature", torch.zeros_like),
        ("median curvature", torch.zeros_like),
        ("jacobian of the score", lambda s: math.sqrt(2) / (0.04 + s**2)),
        ("jacobian of the denoiser", lambda s: math.sqrt(2) * 0.04 / (0.04 + s**2)),
    ],
)
def test_exact_curves_of_one_mode_and_of_the_mixture(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, measure: str, expected: Callable[[Tensor], Tensor]
) -> None:
    monkeypatch.setattr(figures, "STEPS", 12)
    levels, values = exact_curve(pipeline, measure, conditional=True)
    assert levels.min() >= 0.01
    torch.testing.assert_close(values, expected(levels), rtol=1e-6, atol=1e-5)
    assert (exact_curve(pipeline, measure, conditional=False)[1] - values).abs().max() > 0.01
