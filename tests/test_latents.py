"""Discrete latents and their head: dropping, codes, usage, and standardised logits that cannot collapse."""

import math

import pytest
import torch
from torch import Tensor

from core.config import LatentConfig
from core.heads import LatentHead
from core.latents import CategoricalSpace, code_usage, drop_latents, from_codes, keep_all
from core.prior import TransformerPrior, negative_log_likelihood
from core.spaces import latent_space
from core.types import Batch, LatentLogits, Latents
from tests.support import streams

GAIN = 3.0


@pytest.fixture
def head() -> LatentHead:
    torch.manual_seed(0)
    return LatentHead(LatentConfig(count=2, codes=4, gain=GAIN), width=5)


def tokens(size: int = 64) -> Tensor:
    return 2 + torch.randn(size, 2, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_dropped_samples_is_the_probability(probability: float) -> None:
    n = 10000
    dropped = ~drop_latents(torch.zeros(n, 1, 2), probability, streams(n)).keep
    error = abs(float(dropped.double().mean()) - probability)
    assert error <= 4 * math.sqrt(probability * (1 - probability) / n)


def test_dropping_marks_the_whole_vector_and_leaves_the_values() -> None:
    values = torch.rand(50, 3, 4)
    latents = drop_latents(values, 0.5, streams(50))
    assert latents.keep.shape == (50,)  # one mark per sample, for all its latents at once
    assert torch.equal(latents.values, values)


def test_whether_a_sample_is_dropped_does_not_depend_on_its_batch() -> None:
    together = drop_latents(torch.zeros(20, 1, 2), 0.5, streams(20)).keep
    assert torch.equal(drop_latents(torch.zeros(7, 1, 2), 0.5, streams(7)).keep, together[:7])
    assert 0 < together.sum() < 20


def test_codes_survive_the_round_trip_through_latents() -> None:
    codes = torch.tensor([[0, 3], [2, 2], [1, 0]])
    latents = from_codes(codes, 4)
    assert torch.equal(latents.codes, codes)
    assert torch.equal(latents.values.sum(-1), torch.ones(3, 2))
    assert latents.keep.all()


def test_concatenate_keeps_order_and_marks() -> None:
    first, second = from_codes(torch.tensor([[1], [0]]), 2), from_codes(torch.tensor([[1]]), 2).dropped()
    both = Latents.concatenate([first, second])
    assert both.codes.tolist() == [[1], [0], [1]]
    assert both.keep.tolist() == [True, True, False]


def test_dropped_latents_keep_their_values_and_leave_the_original_alone() -> None:
    latents = keep_all(torch.rand(3, 1, 2))
    dropped = latents.dropped()
    assert not dropped.keep.any()
    assert latents.keep.all()
    assert torch.equal(dropped.values, latents.values)


def test_changing_dtype_changes_values_only() -> None:
    changed = from_codes(torch.tensor([[1]]), 2).to(torch.float64)
    assert (changed.values.dtype, changed.keep.dtype) == (torch.float64, torch.bool)


@pytest.mark.parametrize("width", [2, 5, 100])
def test_evenly_used_codes_have_perplexity_equal_to_their_number(width: int) -> None:
    usage = code_usage(torch.arange(3 * width)[:, None] % width, width)
    assert usage.entropy.item() == pytest.approx(math.log(width))
    assert usage.perplexity.item() == pytest.approx(width)


def test_a_single_used_code_has_perplexity_one() -> None:
    usage = code_usage(torch.full((9, 1), 2), 4)
    assert usage.frequency.tolist() == [[0, 0, 1, 0]]
    assert (usage.entropy.item(), usage.perplexity.item()) == (0, 1)


def test_usage_is_counted_for_each_latent_by_itself() -> None:
    usage = code_usage(torch.tensor([[0, 1], [0, 1], [1, 1], [0, 1]]), 2)
    assert usage.frequency.tolist() == [[0.75, 0.25], [0, 1]]
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert usage.entropy.tolist() == pytest.approx([entropy, 0])


def test_extraction_gives_the_codes_of_training_with_a_sharper_gradient() -> None:
    space = CategoricalSpace(count=2, codes=4)
    gradients = []
    for sample in (space.encode, space.extract):
        values = (torch.arange(24.0).reshape(3, 2, 4) / 10).requires_grad_(True)
        chosen = sample(LatentLogits(values), streams(3))
        (chosen * torch.arange(4.0)).sum().backward()
        gradients.append((chosen.detach(), values.grad))
    (trained, soft), (extracted, sharp) = gradients
    assert torch.equal(trained, extracted)
    assert not torch.allclose(soft, sharp, atol=1e-3)


def test_discrete_latents_have_no_penalty() -> None:
    assert CategoricalSpace(1, 4).penalty(LatentLogits(torch.randn(3, 1, 4))).tolist() == [0, 0, 0]


def test_the_prior_loss_of_discrete_latents_is_the_likelihood_of_their_codes() -> None:
    torch.manual_seed(0)
    prior, batch, codes = TransformerPrior(2, 3, 8, 1, 2), Batch(torch.arange(4)), torch.tensor([[0, 2]] * 4)
    loss = CategoricalSpace(2, 3).prior_loss(prior, batch, from_codes(codes, 3).values, streams(4))
    assert torch.equal(loss, negative_log_likelihood(prior, batch, codes))


def test_a_model_without_latents_has_no_space() -> None:
    with pytest.raises(ValueError, match="none"):
        latent_space(LatentConfig(kind="none"))


def test_training_logits_have_mean_zero_and_the_gain_as_standard_deviation(head: LatentHead) -> None:
    logits = head(tokens()).values
    torch.testing.assert_close(logits.mean(0), torch.zeros(2, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits.square().mean(0), torch.full((2, 4), GAIN**2), rtol=1e-3, atol=0)


def test_standardising_keeps_the_order_of_samples(head: LatentHead) -> None:
    plain = torch.einsum("bmw,mwk->bmk", tokens(), head.weight) + head.bias
    assert torch.equal(head(tokens()).values.argsort(0), plain.argsort(0))


def test_a_constant_added_to_one_logit_changes_nothing_in_training(head: LatentHead) -> None:
    before = head(tokens()).values
    with torch.no_grad():
        head.bias[0, 1] += 100.0  # this code would win for every sample
    torch.testing.assert_close(head(tokens()).values, before, rtol=0, atol=1e-3)


def test_the_scale_of_one_logit_changes_nothing_in_training(head: LatentHead) -> None:
    before = head(tokens()).values
    with torch.no_grad():
        head.weight[0, :, 1] *= 50.0
    torch.testing.assert_close(head(tokens()).values, before, rtol=0, atol=1e-3)


def test_running_averages_converge_to_the_moments_of_training(head: LatentHead) -> None:
    for _ in range(300):  # what is left of the start is 0.95^300 = 2e-7
        trained = head(tokens()).values
    torch.testing.assert_close(head.eval()(tokens()).values, trained, rtol=0, atol=1e-4)


def test_evaluation_treats_every_sample_by_itself_and_leaves_the_averages(head: LatentHead) -> None:
    head(tokens())
    averages = head.mean.clone()
    together = head.eval()(tokens()).values
    torch.testing.assert_close(head(tokens()[3:4]).values, together[3:4], rtol=0, atol=1e-5)
    assert torch.equal(head.mean, averages)


def test_one_step_moves_the_averages_by_their_momentum(head: LatentHead) -> None:
    head(tokens())
    plain = torch.einsum("bmw,mwk->bmk", tokens(), head.weight) + head.bias
    torch.testing.assert_close(head.mean, 0.05 * plain.mean(0))
    torch.testing.assert_close(head.variance, 0.95 + 0.05 * plain.var(0, correction=0))


def test_gaussian_latents_get_a_plain_linear_head() -> None:
    torch.manual_seed(0)
    head = LatentHead(LatentConfig(kind="gaussian", count=2, codes=3), width=5)
    with torch.no_grad():
        head.bias.normal_()
    expected = torch.stack([tokens()[:, m] @ head.weight[m] + head.bias[m] for m in range(2)], dim=1)
    torch.testing.assert_close(head(tokens()).values, expected)
    assert expected.shape[-1] == 6  # means and log-variances
    assert not list(head.buffers())


def test_the_gradient_reaches_tokens_weights_and_gain_but_no_bias(head: LatentHead) -> None:
    inputs = tokens().requires_grad_(True)
    (head(inputs).values ** 3).sum().backward()
    assert inputs.grad is not None
    assert head.weight.grad is not None
    assert head.log_gain.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert head.weight.grad.abs().sum() > 0
    assert head.log_gain.grad.abs().sum() > 0
    torch.testing.assert_close(head.bias.grad, torch.zeros(2, 4), rtol=0, atol=0.05)
