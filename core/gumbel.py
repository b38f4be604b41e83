"""Gumbel-Softmax relaxation of categorical latents (DisCo-Diff section 3.1; Jang et al. 2017; Maddison et al. 2017)."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.rng import SampleStreams
from core.types import LatentLogits

TRAINING_TEMPERATURE = 1.0  # constant, no annealing (DisCo-Diff appendix D.2)
EXTRACTION_TEMPERATURE = 0.01  # for the targets of the autoregressive prior (DisCo-Diff Alg. 2)


def gumbel_softmax(
    logits: LatentLogits, streams: SampleStreams, temperature: float = TRAINING_TEMPERATURE, hard: bool = True
) -> Float[Tensor, "b m k"]:
    """Differentiable sample of M categorical latents.

    y = softmax((logits + g) / temperature), g ~ Gumbel(0, 1). With ``hard`` the value is the one-hot of argmax y and
    the gradient that of y (straight-through). The hard value is an exact categorical sample at every temperature;
    the temperature only shapes the gradient. Categories outside the mask get probability zero.
    """
    masked = logits.masked
    count, width = masked.shape[1:]
    if logits.mask is None:
        noise = streams.gumbel(count, width)
    else:  # slot by slot: a sample's numbers then do not depend on how far the batch pads its codebook
        noise = torch.stack([streams.gumbel(width) for _ in range(count)], dim=1)
    noise = noise.to(masked.device)
    soft = torch.softmax((masked.float() + noise) / temperature, dim=-1)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    # (one_hot - soft) first: the sum is then exactly one_hot, not one_hot up to rounding.
    return (one_hot - soft).detach() + soft
