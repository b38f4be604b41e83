"""Attention against its formula, causality, embeddings."""

import math

import pytest
import torch
from torch import Tensor

from core.transformer import Attention, Condition, LatentEmbedding, Transformer, fourier_features


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_attention(module: Attention, queries: Tensor, context: Tensor, causal: bool) -> Tensor:
    """One head and one query at a time."""
    width = queries.shape[-1]
    head = width // module.heads
    q = queries @ module.query.weight.T
    k, v = context @ module.key_value.weight[:width].T, context @ module.key_value.weight[width:].T
    out = torch.zeros_like(q)
    for h in range(module.heads):
        part = slice(h * head, (h + 1) * head)
        for n in range(queries.shape[1]):
            seen = slice(0, n + 1) if causal else slice(None)
            logits = torch.einsum("bd,bld->bl", q[:, n, part], k[:, seen, part]) / math.sqrt(head)
            out[:, n, part] = torch.einsum("bl,bld->bd", torch.softmax(logits, -1), v[:, seen, part])
    return out @ module.out.weight.T + module.out.bias


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_softmax_attention_written_out(heads: int, causal: bool) -> None:
    torch.manual_seed(0)
    module, x = Attention(8, heads), random(2, 5, 8)
    torch.testing.assert_close(module(x, x, causal), naive_attention(module, x, x, causal))


def test_cross_attention_takes_keys_and_values_from_the_context() -> None:
    torch.manual_seed(0)
    module, queries, context = Attention(8, 2, context_width=3), random(2, 4, 8), random(2, 6, 3, seed=1)
    expected = naive_attention(module, queries, context, causal=False)
    torch.testing.assert_close(module(queries, context), expected)


def test_cross_attention_does_not_depend_on_the_order_of_the_context() -> None:
    torch.manual_seed(0)
    module, queries, context = Attention(8, 2, context_width=3), random(2, 4, 8), random(2, 6, 3, seed=1)
    torch.testing.assert_close(module(queries, context.flip(1)), module(queries, context))


def test_zero_init_attention_adds_nothing_but_can_learn() -> None:
    module, queries, context = Attention(8, 2, context_width=3, zero_init=True), random(2, 4, 8), random(2, 6, 3)
    out = module(queries, context)
    assert torch.equal(out, torch.zeros_like(queries))
    out.sum().backward()
    assert module.out.weight.grad is not None
    assert module.out.weight.grad.abs().sum() > 0


def test_width_must_be_divisible_by_the_heads() -> None:
    with pytest.raises(ValueError, match="10 is not divisible by 4"):
        Attention(10, 4)


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_a_causal_transformer_sees_no_later_token(changed: int) -> None:
    torch.manual_seed(0)
    model, tokens = Transformer(8, 2, 2, causal=True), random(1, 5, 8)
    other = tokens.clone()
    other[0, changed] += 1 - 2 * (tokens[0, changed] > 0)
    difference = (model(tokens) - model(other)).abs().amax((0, 2))
    assert not difference[:changed].any()
    assert (difference[changed:] > 1e-4).all()


def test_without_causality_every_token_sees_every_other() -> None:
    torch.manual_seed(0)
    model, tokens = Transformer(8, 1, 2), random(1, 5, 8)
    other = tokens.clone()
    other[0, 4] = random(8, seed=3)
    assert ((model(tokens) - model(other)).abs().amax((0, 2)) > 1e-4).all()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, tokens = Transformer(8, 1, 2, dropout=0.5), random(2, 5, 8)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.fixture
def embedding() -> LatentEmbedding:
    torch.manual_seed(0)
    return LatentEmbedding(count=3, codes=4, width=8, depth=1, heads=2)


def test_values_of_dropped_latents_have_no_influence(embedding: LatentEmbedding) -> None:
    keep = torch.tensor([True, False])
    before, after = embedding(random(2, 3, 4), keep), embedding(random(2, 3, 4, seed=1), keep)
    assert torch.equal(before[1], after[1])
    assert (before[0] - after[0]).abs().max() > 1e-2


def test_a_dropped_latent_vector_is_no_code(embedding: LatentEmbedding) -> None:
    codes = torch.eye(4)[torch.tensor([[0, 1, 2]])]
    kept, dropped = (embedding(codes, torch.tensor([keep])) for keep in (True, False))
    assert (kept - dropped).abs().max() > 1e-2


def test_no_gradient_reaches_the_values_of_dropped_latents(embedding: LatentEmbedding) -> None:
    values = random(2, 3, 4).requires_grad_(True)
    embedding(values, torch.tensor([True, False])).square().sum().backward()
    assert values.grad is not None
    assert not values.grad[1].any()
    assert values.grad[0].abs().sum() > 0


def test_the_same_code_of_different_latents_has_different_embeddings(embedding: LatentEmbedding) -> None:
    assert (embedding.table[0] - embedding.table[1]).abs().min() > 0
    swapped = torch.eye(4)[torch.tensor([[0, 1, 2], [1, 0, 2]])]
    first, second = embedding(swapped, torch.tensor([True, True]))
    assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize("width", [2, 6, 7])
def test_fourier_features_are_cosines_then_sines_then_padding(width: int) -> None:
    values, half = torch.tensor([0.0, 0.3, -2.0]), width // 2
    features = fourier_features(values, width, lowest=0.5, highest=8.0)
    assert features.shape == (3, width)
    for i in range(half):
        frequency = 0.5 * 16 ** (i / max(half - 1, 1))
        torch.testing.assert_close(features[:, i], (values * frequency).cos())
        torch.testing.assert_close(features[:, half + i], (values * frequency).sin())
    assert not features[:, 2 * half :].any()


def test_an_unconditional_condition_is_the_same_for_all_samples() -> None:
    out = Condition(6)(3, None, None)
    assert torch.equal(out, out[:1].expand(3, -1))


def test_a_condition_adds_class_and_vector() -> None:
    torch.manual_seed(0)
    condition, label, vector = Condition(6, classes=2, vector=3), torch.tensor([0, 2]), random(2, 3)
    assert condition.label is not None
    assert condition.vector is not None
    expected = condition.start + condition.label.weight[label] + condition.vector(vector)
    torch.testing.assert_close(condition(2, label, vector), expected)
