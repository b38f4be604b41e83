"""The autoregressive prior p(z) = prod_i p(z_i | z_<i, c) (DisCo-Diff Eq. 4, Alg. 2 and 3)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.interfaces import PriorNet
from core.rng import SampleStreams, inverse_cdf
from core.transformer import Condition, Transformer
from core.types import Batch, LatentLogits


@dataclass(frozen=True)
class PriorOptions:
    """How to sample from a prior.

    temperature: divides the logits (1: the trained distribution); top_p: keep the smallest set of codes whose
    probability reaches it; fixed: [B, M] codes to keep, -1 where free. A fixed prefix gives the exact conditional
    distribution. Codes fixed behind free ones are exact only in the limit of many ``candidates``: that many
    completions are drawn per sample and one is resampled by the likelihood of its fixed codes.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    fixed: Int[Tensor, "b m"] | None = None
    candidates: int = 1


class TransformerPrior(PriorNet):
    """Causal Transformer over M tokens with K codes each (DisCo-Diff appendix D.1: width 512, 12 layers, 8 heads).

    The first token carries the condition; token j + 1 is code z_j from a table of its own latent.
    """

    def __init__(
        self, count: int, codes: int, width: int = 512, depth: int = 12, heads: int = 8, dropout: float = 0.0,
        condition: Condition | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.condition = condition if condition is not None else Condition(width)
        self.table = nn.Parameter(torch.randn(count, codes, width) * 0.02)
        self.position = nn.Parameter(torch.randn(count, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.transformer = Transformer(width, depth, heads, dropout, causal=True)
        self.head = nn.Parameter(torch.randn(count, width, codes) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(count, codes))

    def forward(self, batch: Batch, codes: Int[Tensor, "b j"]) -> LatentLogits:
        count = len(self.table)
        slots = min(codes.shape[1] + 1, count)
        previous = codes[:, : slots - 1]
        embedded = self.table[torch.arange(slots - 1, device=codes.device), previous]
        start = self.condition(batch.size, batch.label, batch.vector)
        tokens = torch.cat([start[:, None], embedded], dim=1) + self.position[:slots]
        hidden = self.transformer(self.dropout(tokens))
        return LatentLogits(torch.einsum("bmw,mwk->bmk", hidden, self.head[:slots]) + self.bias[:slots])


def log_probabilities(prior: nn.Module, batch: Any, codes: Int[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """log p(z_i | z_<i, c) of every slot, teacher-forced in one call."""
    logits: LatentLogits = prior(batch, codes)
    log_p = torch.log_softmax(logits.masked.float(), dim=-1)
    return log_p.gather(-1, codes[..., None])[..., 0]


def negative_log_likelihood(prior: nn.Module, batch: Any, codes: Int[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """-sum_i log p(z_i | z_<i, c) in nats: the loss of the second stage (DisCo-Diff Eq. 4)."""
    return -log_probabilities(prior, batch, codes).sum(-1)


def nucleus(probabilities: Float[Tensor, "n k"], top_p: float) -> Float[Tensor, "n k"]:
    """Zero all but the smallest set of most likely codes whose probability reaches ``top_p``."""
    if top_p >= 1:
        return probabilities
    ordered, index = probabilities.sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)


@torch.no_grad()
def sample_codes(
    prior: nn.Module, batch: Any, count: int, streams: SampleStreams, options: PriorOptions = PriorOptions()
) -> Int[Tensor, "b m"]:
    """Ancestral sampling of ``count`` codes per sample, with the options of ``PriorOptions``."""
    size, repeats = len(streams), options.candidates
    if repeats > 1:
        batch = batch.select(torch.arange(size, device=streams.ids.device).repeat_interleave(repeats))
    fixed = None if options.fixed is None else options.fixed.repeat_interleave(repeats, 0)
    codes = torch.empty(size * repeats, 0, dtype=torch.int64, device=streams.ids.device)
    log_weight = torch.zeros(size * repeats, dtype=torch.float64, device=codes.device)
    for slot in range(count):
        logits = prior(batch, codes).masked[:, slot].double()
        probabilities = nucleus(torch.softmax(logits / options.temperature, -1), options.top_p)
        choice = inverse_cdf(probabilities, streams.uniform(repeats, dtype=torch.float64).flatten())
        if fixed is not None:
            given = fixed[:, slot] >= 0
            choice = torch.where(given, fixed[:, slot], choice)
            chosen = torch.log_softmax(logits / options.temperature, -1).gather(1, choice[:, None])[:, 0]
            log_weight = log_weight + torch.where(given, chosen, torch.zeros_like(chosen))
        codes = torch.cat([codes, choice[:, None]], dim=1)
    if repeats == 1:
        return codes
    weight = torch.softmax(log_weight.reshape(size, repeats), dim=-1)
    winner = inverse_cdf(weight, streams.uniform(1, dtype=torch.float64)[:, 0])
    return codes.reshape(size, repeats, count)[torch.arange(size, device=codes.device), winner]
