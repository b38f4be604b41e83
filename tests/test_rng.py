"""Counter-based random streams: the published Philox vectors, independence of the batch, distributions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from core.rng import SampleStreams, derive_key, inverse_cdf, philox4x32
from tests.support import streams

KNOWN_ANSWERS = {  # Random123 kat_vectors, philox4x32 10: counter, key, result
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
}
DTYPES = [torch.float32, torch.float64]
KS_BOUND = 2.3  # P(sqrt(n) D > 2.3) = 2 exp(-2 2.3^2) = 5e-5, as rare as four standard errors


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def in_numpy(value: int) -> Any:
    return np.array([value], dtype=np.int64)


def in_torch(value: int) -> Any:
    return torch.tensor([value], dtype=torch.int64)


@pytest.mark.parametrize("array", [in_numpy, in_torch])
@pytest.mark.parametrize("vector", KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(vector: str, array: Callable[[int], Any]) -> None:
    counter, key, expected = map(words, KNOWN_ANSWERS[vector])
    result = philox4x32([array(word) for word in counter], (key[0], key[1]))
    assert [int(word[0]) for word in result] == expected


def test_streams_are_philox_of_block_draw_and_sample_number() -> None:
    ids = torch.tensor([0, 7, 2**32 + 7, 2**62 + 5])
    stream = SampleStreams(3, ids, "test")
    stream.uniform(1)
    drawn = stream.uniform(8)  # the second draw: two blocks of four words
    low, high = ids[:, None] & 0xFFFFFFFF, ids[:, None] >> 32
    blocks = philox4x32([torch.arange(2)[None], torch.tensor([[1]]), low, high], derive_key(3, "test"))
    expected = ((torch.stack(blocks, dim=-1).flatten(1) >> 9).double() + 0.5) * 2.0**-23
    assert torch.equal(drawn.double(), expected)


def test_double_precision_numbers_use_52_bits_of_two_words() -> None:
    drawn = streams(3).uniform(2, dtype=torch.float64)
    ids = torch.arange(3)[:, None]
    zero = torch.zeros_like(ids)
    w = torch.cat(philox4x32([zero, zero, ids, zero], derive_key(0, "test")), dim=1).double()
    expected = torch.stack([w[:, 0] + w[:, 1].div(4096).floor() / 2**20, w[:, 2] + w[:, 3].div(4096).floor() / 2**20])
    assert torch.equal(drawn, (expected.T + 0.5 / 2**20) / 2**32)


@pytest.mark.parametrize("kind", ["uniform", "normal", "gumbel"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_a_sample_do_not_depend_on_its_batch(kind: str, dtype: torch.dtype) -> None:
    def draws(ids: list[int]) -> dict[int, list[torch.Tensor]]:
        stream = SampleStreams(0, ids, "test")
        values = [getattr(stream, kind)(*shape, dtype=dtype) for shape in ((3,), (2, 2), (1,))]
        return {sample: [value[row] for value in values] for row, sample in enumerate(ids)}

    together, reversed_order, alone = draws([4, 5, 6]), draws([6, 5, 4]), draws([5])
    for sample in together:
        assert all(map(torch.equal, together[sample], reversed_order[sample]))
    assert all(map(torch.equal, together[5], alone[5]))


@pytest.mark.parametrize(
    ("seed", "sample", "purpose", "skipped"),
    [(1, 0, "test", 0), (0, 1, "test", 0), (0, 0, "other", 0), (0, 0, "test", 1)],
    ids=["seed", "sample", "purpose", "draw"],
)
def test_each_part_of_the_address_changes_all_numbers(seed: int, sample: int, purpose: str, skipped: int) -> None:
    other = SampleStreams(seed, [sample], purpose)
    for _ in range(skipped):
        other.uniform(1)
    assert not (other.uniform(50) == SampleStreams(0, [0], "test").uniform(50)).any()


def test_a_draw_does_not_depend_on_how_many_numbers_earlier_draws_took() -> None:
    few, many = streams(2), streams(2)
    few.uniform(1), many.normal(37)
    assert torch.equal(few.uniform(3), many.uniform(3))


def test_sample_numbers_that_agree_in_32_bits_have_different_streams() -> None:
    drawn = SampleStreams(0, [5, 5 + 2**32, 5 + 2**33, 5 + 2**62], "test").uniform(20)
    for row in range(4):
        assert not (drawn[row] == drawn[:row]).any()


def test_streams_know_their_size_and_shape_their_numbers() -> None:
    assert len(streams(3)) == 3
    assert streams(3).normal(2, 5).shape == (3, 2, 5)
    assert streams(3).normal().shape == (3,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("extreme", [0, 0xFFFFFFFF])
def test_extreme_random_words_give_numbers_inside_the_open_interval(dtype: torch.dtype, extreme: int) -> None:
    class Extreme(SampleStreams):
        def _words(self, per_sample: int) -> torch.Tensor:
            return torch.full((1, per_sample), extreme)

    stream = Extreme(0, [0], "test")
    assert 0 < float(stream.uniform(1, dtype=dtype)) < 1
    assert math.isfinite(float(stream.normal(2, dtype=dtype).sum()))
    assert math.isfinite(float(stream.gumbel(1, dtype=dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("kind", "law"), [("uniform", stats.uniform), ("normal", stats.norm), ("gumbel", stats.gumbel_r)]
)
@pytest.mark.parametrize("across", ["samples", "numbers of one sample"])
def test_distributions(kind: str, law: Any, dtype: torch.dtype, across: str) -> None:
    size, count = (5000, 2) if across == "samples" else (2, 5000)
    values = getattr(streams(size), kind)(count, dtype=dtype).double().flatten().numpy()
    n = len(values)
    assert stats.kstest(values, law.cdf).statistic * math.sqrt(n) < KS_BOUND
    mean, variance, kurtosis = map(float, law.stats(moments="mvk"))
    assert abs(values.mean() - mean) < 4 * math.sqrt(variance / n)
    assert abs(values.var() - variance) < 4 * variance * math.sqrt((kurtosis + 2) / n)


def test_neighbouring_numbers_draws_and_samples_are_uncorrelated() -> None:
    stream = streams(4000)
    first, second = stream.normal(2, dtype=torch.float64), stream.normal(2, dtype=torch.float64)
    pairs = [(first[:, 0], first[:, 1]), (first[:, 0], second[:, 0]), (first[:-1, 0], first[1:, 0])]
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 4 / math.sqrt(len(a))


def test_inverse_cdf_frequencies_match_unnormalised_probabilities() -> None:
    n, weights = 20000, torch.tensor([3.0, 0.0, 1.0, 4.0, 0.0])
    drawn = inverse_cdf(weights.expand(n, -1), streams(n).uniform(1)[:, 0])
    p = weights / weights.sum()
    frequency = torch.bincount(drawn, minlength=5) / n
    assert ((frequency - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize(
    "weights",
    [[0.0, 0.1, 0.2, 0.7, 0.0], [0.0, 0.0, 1e-30], [1.0, 1e-20, 0.0], [5e-324, 0.0]],  # the last rounds u p to p
)
@pytest.mark.parametrize("u", [1e-300, 2.0**-24, 0.3, 1 - 2.0**-24, 1 - 2.0**-53])
def test_inverse_cdf_never_returns_a_category_of_probability_zero(weights: list[float], u: float) -> None:
    drawn = inverse_cdf(torch.tensor([weights], dtype=torch.float64), torch.tensor([u], dtype=torch.float64))
    assert weights[int(drawn)] > 0


def test_inverse_cdf_changes_category_at_the_cumulative_sums() -> None:
    probabilities = torch.tensor([0.25, 0.5, 0.25]).expand(6, -1)
    u = torch.tensor([0.01, 0.2499, 0.25, 0.7499, 0.75, 0.99])
    assert inverse_cdf(probabilities, u).tolist() == [0, 0, 1, 1, 2, 2]
