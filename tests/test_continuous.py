"""Gaussian latents and their diffusion prior (the continuous baseline)."""

import math

import pytest
import torch
from torch import Tensor, distributions

from core import continuous
from core.continuous import GaussianSpace
from core.errors import RequestError
from core.precondition import PreconditionedDenoiser
from core.prior import PriorOptions
from core.rng import SampleStreams
from core.transformer import Condition
from core.types import Batch, LatentLogits
from tests.support import streams

SPACE = GaussianSpace(count=2, dims=3, kl_weight=0.7)


def encoding(size: int = 4) -> LatentLogits:
    return LatentLogits(torch.randn(size, 2, 6, generator=torch.Generator().manual_seed(0)))


def untrained(classes: int = 0) -> PreconditionedDenoiser:
    """Its last layer is zero, so it is the exact denoiser of N(0, 1) data: D = x / (1 + sigma^2)."""
    torch.manual_seed(0)
    prior = SPACE.build_prior(8, 1, 2, 0.0, Condition(8, classes))
    assert isinstance(prior, PreconditionedDenoiser)
    return prior.eval()


def perturbed(classes: int = 0) -> PreconditionedDenoiser:
    prior = untrained(classes)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return prior


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what holds at any number of steps."""
    monkeypatch.setattr(continuous, "SAMPLING_STEPS", 6)


def sample(prior: PreconditionedDenoiser, size: int, **options: float) -> Tensor:
    return SPACE.sample(prior, Batch(torch.arange(size)), streams(size), PriorOptions(**options))


def test_widths_count_the_numbers_per_latent() -> None:
    assert (SPACE.width, SPACE.encoder_width, SPACE.discrete) == (3, 6, False)


def test_the_penalty_is_the_weighted_divergence_from_the_standard_normal() -> None:
    mean, log_variance = encoding().values.chunk(2, dim=-1)
    posterior = distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(SPACE.penalty(encoding()), 0.7 * divergence.mean((1, 2)))


def test_the_penalty_of_a_standard_normal_is_zero() -> None:
    assert SPACE.penalty(LatentLogits(torch.zeros(2, 2, 6))).tolist() == [0, 0]


@pytest.mark.parametrize("method", ["encode", "extract"])
def test_encoded_latents_have_the_mean_and_variance_of_the_encoder(method: str) -> None:
    n, one = 20000, encoding(1)
    values = getattr(SPACE, method)(LatentLogits(one.values.expand(n, -1, -1)), streams(n))
    mean, log_variance = one.values[0].chunk(2, dim=-1)
    variance = log_variance.exp()
    assert ((values.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    assert ((values.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / n)).all()


def test_the_gradient_reaches_means_and_variances() -> None:
    values = encoding().values.requires_grad_(True)
    SPACE.encode(LatentLogits(values), streams(4)).square().sum().backward()
    assert values.grad is not None
    assert (values.grad != 0).all()


def test_the_loss_of_the_untrained_prior_on_unit_gaussian_latents_is_one() -> None:
    # lambda c_out^2 = 1 leaves the squared target of the raw network, which has variance 1 on data of variance 1.
    n = 4000
    values = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(1))
    loss = SPACE.prior_loss(untrained(), Batch(torch.arange(n)), values, streams(n)).detach()
    standard_error = math.sqrt(2 / 6 / n)  # each loss is a mean of six squares of normal numbers
    assert abs(float(loss.mean()) - 1) < 4 * standard_error


def test_the_prior_loss_has_a_gradient_for_every_parameter() -> None:
    prior = perturbed(classes=2)
    batch = Batch(torch.arange(8), label=torch.arange(8) % 3)
    loss = SPACE.prior_loss(prior, batch, torch.randn(8, 2, 3), streams(8))
    assert loss.isfinite().all()
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


def test_the_untrained_prior_samples_unit_gaussian_latents() -> None:
    n = 1500
    values = sample(untrained(), n)
    assert values.shape == (n, 2, 3)
    assert values.dtype == torch.float32
    assert (values.mean(0).abs() < 4 / math.sqrt(n)).all()
    assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / (6 * n)) + 0.01  # and 1 % for 40 steps


@pytest.mark.usefixtures("few_steps")
def test_temperature_scales_the_variance_of_the_start() -> None:
    # The untrained prior's ODE is linear, so the scale of the start is the scale of the end.
    prior = untrained()
    torch.testing.assert_close(sample(prior, 3, temperature=4.0), 2 * sample(prior, 3))


@pytest.mark.usefixtures("few_steps")
def test_a_sample_does_not_depend_on_its_batch() -> None:
    prior = perturbed()
    torch.testing.assert_close(sample(prior, 4)[:1], sample(prior, 1), rtol=1e-4, atol=1e-4)
    assert (sample(prior, 4)[0] - sample(prior, 4)[1]).abs().max() > 0.1


@pytest.mark.usefixtures("few_steps")
def test_the_seed_decides_the_sample() -> None:
    prior, batch = perturbed(), Batch(torch.arange(2))
    first, again, other = (
        SPACE.sample(prior, batch, SampleStreams(seed, range(2), "test"), PriorOptions()) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


@pytest.mark.usefixtures("few_steps")
def test_the_class_changes_the_samples() -> None:
    prior = perturbed(classes=2)
    first, second = (
        SPACE.sample(prior, Batch(torch.arange(2), label=torch.tensor([c, c])), streams(2), PriorOptions())
        for c in (0, 1)
    )
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("options", [PriorOptions(top_p=0.5), PriorOptions(fixed=torch.tensor([[0, -1]]))])
def test_what_needs_codes_is_refused(options: PriorOptions) -> None:
    with pytest.raises(RequestError, match="discrete"):
        SPACE.sample(untrained(), Batch(torch.arange(1)), streams(1), options)
