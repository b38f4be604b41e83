"""The autoregressive prior: causality, normalisation, and sampling that follows exp(log p) under every option."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from core.prior import (
    PriorOptions,
    TransformerPrior,
    log_probabilities,
    negative_log_likelihood,
    nucleus,
    sample_codes,
)
from core.transformer import Condition
from core.types import Batch
from tests.support import streams

COUNT, CODES = 2, 3
SAMPLES = 4000


def small_prior(count: int = COUNT, codes: int = CODES, condition: Condition | None = None) -> TransformerPrior:
    """Random weights, with code tables large enough for later codes to depend strongly on earlier ones."""
    torch.manual_seed(2)
    prior = TransformerPrior(count, codes, width=8, depth=1, heads=2, condition=condition).eval().requires_grad_(False)
    prior.table *= 50
    return prior


def all_codes(count: int = COUNT, codes: int = CODES) -> Tensor:
    return torch.tensor(list(product(range(codes), repeat=count)))


def exact(prior: TransformerPrior) -> Tensor:
    """[K, K] joint probabilities of two codes."""
    every = all_codes()
    return log_probabilities(prior, Batch(torch.arange(len(every))), every).sum(1).exp().reshape(CODES, CODES)


def sampled(prior: TransformerPrior, options: PriorOptions = PriorOptions(), size: int = SAMPLES) -> Tensor:
    return sample_codes(prior, Batch(torch.arange(size)), COUNT, streams(size), options)


def joint(codes: Tensor) -> Tensor:
    """[K, K] frequencies of pairs of codes."""
    return torch.bincount(codes[:, 0] * CODES + codes[:, 1], minlength=CODES**2).reshape(CODES, CODES) / len(codes)


def assert_close_within_4_errors(frequency: Tensor, p: Tensor, n: int = SAMPLES) -> None:
    assert ((frequency - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-6).all(), (frequency, p)


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_code_influences_later_slots_only(changed: int) -> None:
    prior, codes, batch = small_prior(count=4), torch.tensor([[0, 1, 2, 0]]), Batch(torch.arange(1))
    other = codes.clone()
    other[0, changed] = (codes[0, changed] + 1) % CODES
    before, after = (prior(batch, c).values[0] for c in (codes, other))
    assert torch.equal(before[: changed + 1], after[: changed + 1])
    for slot in range(changed + 1, 4):
        assert (before[slot] - after[slot]).abs().max() > 1e-3


@pytest.mark.parametrize("given", [0, 1, 2, 3, 4])
def test_logits_given_a_prefix_are_those_of_the_whole_call(given: int) -> None:
    prior, codes, batch = small_prior(count=4), torch.tensor([[2, 1, 0, 1], [0, 0, 1, 2]]), Batch(torch.arange(2))
    part, whole = prior(batch, codes[:, :given]).values, prior(batch, codes).values
    assert part.shape == (2, min(given + 1, 4), CODES)
    torch.testing.assert_close(part, whole[:, : part.shape[1]], rtol=0, atol=1e-5)


def test_probabilities_of_all_code_vectors_sum_to_one() -> None:
    every = all_codes(count=3)
    log_p = log_probabilities(small_prior(count=3), Batch(torch.arange(len(every))), every)
    assert log_p.sum(1).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_loss_is_the_negative_sum_of_log_probabilities() -> None:
    prior, codes, batch = small_prior(), all_codes(), Batch(torch.arange(9))
    by_hand = torch.log_softmax(prior(batch, codes).values, -1)
    first, second = (by_hand[torch.arange(9), slot, codes[:, slot]] for slot in range(2))
    torch.testing.assert_close(negative_log_likelihood(prior, batch, codes), -(first + second))


def test_the_loss_has_a_gradient_for_every_parameter() -> None:
    prior = small_prior().requires_grad_(True)
    negative_log_likelihood(prior, Batch(torch.arange(9)), all_codes()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


def test_sampled_frequencies_are_the_probabilities() -> None:
    prior = small_prior()
    p = exact(prior)
    assert (p / (p.sum(1, keepdim=True) * p.sum(0)) - 1).abs().max() > 0.2  # the second code depends on the first
    assert_close_within_4_errors(joint(sampled(prior)), p)


def test_temperature_divides_the_logits() -> None:
    prior = small_prior()
    logits = prior(Batch(torch.arange(9)), all_codes()).values
    log_p = torch.log_softmax(logits / 3, -1).gather(-1, all_codes()[..., None]).sum((1, 2))
    drawn = sampled(prior, PriorOptions(temperature=3.0))
    assert_close_within_4_errors(joint(drawn), log_p.exp().reshape(CODES, CODES))


def test_temperature_towards_zero_takes_the_likeliest_code_of_every_slot() -> None:
    prior = small_prior(count=4)
    greedy = torch.empty(1, 0, dtype=torch.int64)
    for slot in range(4):
        best = prior(Batch(torch.arange(1)), greedy).values[:, slot].argmax(-1)
        greedy = torch.cat([greedy, best[:, None]], dim=1)
    drawn = sample_codes(prior, Batch(torch.arange(50)), 4, streams(50), PriorOptions(temperature=1e-4))
    assert torch.equal(drawn, greedy.expand(50, -1))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.3, [1]), (0.5, [1]), (0.51, [1, 3]), (0.75, [1, 3]), (0.8, [0, 1, 3]), (1.0, [0, 1, 2, 3])],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: list[int]) -> None:
    probabilities = torch.tensor([[0.125, 0.5, 0.125, 0.25]]) + torch.tensor([[0.03125, 0, -0.03125, 0]])
    result = nucleus(probabilities, top_p)
    assert result.nonzero()[:, 1].tolist() == kept
    assert torch.equal(result[0, kept], probabilities[0, kept])


def test_top_p_draws_only_from_the_nucleus_in_the_right_proportions() -> None:
    prior = small_prior()
    p = exact(prior)
    first = nucleus(p.sum(1)[None], 0.7)[0]
    second = nucleus(p / p.sum(1, keepdim=True), 0.7)
    expected = (first / first.sum())[:, None] * second / second.sum(1, keepdim=True)
    assert (expected == 0).any()
    assert_close_within_4_errors(joint(sampled(prior, PriorOptions(top_p=0.7))), expected)


def test_a_fixed_prefix_gives_the_exact_conditional_distribution() -> None:
    prior = small_prior()
    drawn = sampled(prior, PriorOptions(fixed=torch.tensor([[2, -1]]).expand(SAMPLES, -1)))
    assert (drawn[:, 0] == 2).all()
    p = exact(prior)[2]
    assert_close_within_4_errors(joint(drawn)[2], p / p.sum())


@pytest.mark.parametrize("candidates", [1, 3])
def test_fixed_codes_are_kept_wherever_they_stand(candidates: int) -> None:
    fixed = torch.tensor([[-1, 1, -1, 2], [0, -1, -1, -1], [2, 2, 1, 0]])
    options = PriorOptions(fixed=fixed, candidates=candidates)
    drawn = sample_codes(small_prior(count=4), Batch(torch.arange(3)), 4, streams(3), options)
    assert torch.equal(drawn[fixed >= 0], fixed[fixed >= 0])


def test_many_candidates_approach_the_exact_conditional_of_a_fixed_later_code() -> None:
    prior, size, candidates, later = small_prior(), 2000, 60, 2
    p = exact(prior)
    conditional, marginal = p[:, later] / p[:, later].sum(), p.sum(1)
    fixed = torch.tensor([[-1, later]]).expand(size, -1)
    few, many = (joint(sampled(prior, PriorOptions(fixed=fixed, candidates=c), size)).sum(1) for c in (1, candidates))
    assert_close_within_4_errors(few, marginal, size)
    difference = (conditional - marginal).abs()
    assert difference.max() > 0.1
    # Resampling leaves a bias of the order of the difference over the number of candidates.
    bound = 4 * (conditional * (1 - conditional) / size).sqrt() + 3 * difference / candidates
    assert ((many - conditional).abs() < bound).all()


@pytest.mark.parametrize("options", [PriorOptions(), PriorOptions(top_p=0.8), PriorOptions(candidates=3)])
def test_codes_of_a_sample_do_not_depend_on_its_batch(options: PriorOptions) -> None:
    prior = small_prior()
    fixed = None if options.candidates == 1 else torch.tensor([[-1, 1]])

    def draw(size: int) -> Tensor:
        chosen = options if fixed is None else replace(options, fixed=fixed.expand(size, -1))
        return sampled(prior, chosen, size)

    assert torch.equal(draw(12)[:5], draw(5))
    assert len(draw(12).unique(dim=0)) > 1


def test_the_class_and_the_vector_change_the_logits() -> None:
    prior = small_prior(condition=Condition(8, classes=4, vector=2))
    codes = torch.zeros(1, 2, dtype=torch.int64)

    def logits(label: int, vector: list[float]) -> Tensor:
        batch = Batch(torch.arange(1), label=torch.tensor([label]), vector=torch.tensor([vector]))
        return prior(batch, codes).values

    assert torch.equal(logits(0, [0.0, 0.0]), logits(0, [0.0, 0.0]))
    assert (logits(0, [0.0, 0.0]) - logits(4, [0.0, 0.0])).abs().max() > 1e-3  # 4 is the dropped class
    assert (logits(0, [0.0, 0.0]) - logits(0, [0.0, 1.0])).abs().max() > 1e-3


@pytest.mark.parametrize(("classes", "vector", "missing"), [(4, 0, "class label"), (0, 2, "condition vector")])
def test_a_missing_condition_is_an_error(classes: int, vector: int, missing: str) -> None:
    prior = small_prior(condition=Condition(8, classes, vector))
    with pytest.raises(ValueError, match=missing):
        prior(Batch(torch.arange(1)), torch.zeros(1, 0, dtype=torch.int64))
