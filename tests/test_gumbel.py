"""Gumbel-Softmax samples: exact categories forward, the soft sample's gradient backward, masked categories never."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from core.gumbel import gumbel_softmax
from core.types import LatentLogits
from tests.support import streams

LOGITS = torch.tensor([1.0, -0.5, 0.3, 2.0])


def repeated(size: int, count: int = 1, mask: Tensor | None = None) -> LatentLogits:
    """The same logits for every sample and latent."""
    rows = None if mask is None else mask.expand(size, -1)
    return LatentLogits(LOGITS.expand(size, count, -1), rows)


def gradient(logits: LatentLogits, hard: bool, temperature: float) -> Tensor:
    """Of a fixed linear function of the sample, with respect to the logits."""
    values = logits.values.clone().requires_grad_(True)
    sample = gumbel_softmax(LatentLogits(values, logits.mask), streams(len(values)), temperature, hard)
    (sample * torch.arange(1.0, 1 + sample.shape[-1])).sum().backward()
    assert values.grad is not None
    return values.grad


@pytest.mark.parametrize("temperature", [0.01, 1.0, 30.0])
def test_a_hard_sample_is_exactly_one_hot(temperature: float) -> None:
    sample = gumbel_softmax(repeated(500, 3), streams(500), temperature)
    assert ((sample == 0) | (sample == 1)).all()
    assert torch.equal(sample.sum(-1), torch.ones(500, 3))


@pytest.mark.parametrize("temperature", [0.01, 1.0, 10.0])
def test_frequencies_are_softmax_of_the_logits_at_every_temperature(temperature: float) -> None:
    n = 20000
    frequency = gumbel_softmax(repeated(n, 2), streams(n), temperature).mean(0)
    p = torch.softmax(LOGITS, -1)
    assert ((frequency - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_latents_of_a_sample_are_drawn_independently() -> None:
    n = 20000
    first, second = gumbel_softmax(repeated(n, 2), streams(n)).unbind(1)
    p = torch.softmax(LOGITS, -1)
    both = torch.outer(p, p)
    assert ((first.T @ second / n - both).abs() < 4.5 * (both * (1 - both) / n).sqrt()).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_the_straight_through_gradient_is_that_of_the_soft_sample(temperature: float) -> None:
    hard, soft = (gradient(repeated(6, 2), choice, temperature) for choice in (True, False))
    assert soft.abs().max() > 1e-3
    assert torch.equal(hard, soft)


def test_the_soft_sample_is_softmax_of_the_noisy_logits() -> None:
    soft = gumbel_softmax(repeated(5, 2), streams(5), temperature=0.7, hard=False)
    expected = torch.softmax((LOGITS + streams(5).gumbel(2, 4)) / 0.7, -1)
    torch.testing.assert_close(soft, expected, rtol=0, atol=0)


def test_the_soft_sample_tends_to_the_hard_one_as_temperature_tends_to_zero() -> None:
    hard = gumbel_softmax(repeated(200), streams(200))
    distances = [
        float((gumbel_softmax(repeated(200), streams(200), t, hard=False) - hard).abs().mean())
        for t in (1.0, 0.1, 0.01, 0.001)
    ]
    assert all(after < 0.5 * before for before, after in pairwise(distances))
    assert distances[-1] < 1e-3


def test_the_soft_sample_tends_to_uniform_as_temperature_grows() -> None:
    soft = gumbel_softmax(repeated(50), streams(50), temperature=1e4, hard=False)
    torch.testing.assert_close(soft, torch.full_like(soft, 0.25), rtol=0, atol=1e-3)


@pytest.mark.parametrize("hard", [True, False])
def test_masked_categories_get_no_probability_and_no_gradient(hard: bool) -> None:
    logits = repeated(300, 2, torch.tensor([True, False, True, False]))  # category 3 would be the likeliest
    assert not gumbel_softmax(logits, streams(300), hard=hard)[..., [1, 3]].any()
    slope = gradient(logits, hard, 1.0)
    assert not slope[..., [1, 3]].any()
    assert slope[..., [0, 2]].abs().min() > 0


def test_each_sample_has_its_own_mask() -> None:
    mask = torch.tensor([[True, False, False, False], [False, False, True, False]])
    sample = gumbel_softmax(LatentLogits(LOGITS.expand(2, 3, -1), mask), streams(2))
    assert sample.argmax(-1).tolist() == [[0, 0, 0], [2, 2, 2]]


def test_padding_a_codebook_leaves_the_distribution_of_its_codes_as_it_was() -> None:
    n = 20000
    padded = torch.cat([LOGITS, torch.tensor([5.0, 50.0])]).expand(n, 1, -1)
    mask = (torch.arange(6) < 4).expand(n, -1)
    frequency = gumbel_softmax(LatentLogits(padded, mask), streams(n)).mean((0, 1))
    p = torch.softmax(LOGITS, -1)
    assert ((frequency[:4] - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()
    assert not frequency[4:].any()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    values = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    together = gumbel_softmax(LatentLogits(values), streams(5), hard=False)
    alone = gumbel_softmax(LatentLogits(values[:1]), streams(1), hard=False)
    assert torch.equal(together[:1], alone)
