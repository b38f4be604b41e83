"""The last layer of an encoder: one set of logits per latent, kept from collapsing."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collective

from core.config import LatentConfig
from core.spaces import latent_space
from core.types import LatentLogits


class LatentHead(nn.Module):
    """Per-latent linear maps from tokens to logits, standardised over the batch and scaled by a learned gain.

    Trained by denoising alone from a random start, encoders collapse in part: a few codes win early, the denoiser stops
    listening to the others, and no gradient brings them back (docs/decisions.md has figures). Standardising
    each logit over the batch (mean 0, variance 1 across samples) leaves no way to do that; it adds no loss term. The
    paper does not mention it, but the authors' docking encoder has batch normalisation one layer earlier. Gaussian
    latents get the plain linear head.

    Statistics are those of the global batch, over all processes, so that the number of processes does not change
    the result; with gradient accumulation they are those of one micro-batch. In evaluation running averages are used.
    """

    def __init__(self, config: LatentConfig, width: int, momentum: float = 0.05) -> None:
        super().__init__()
        space = latent_space(config)
        count, out = space.count, space.encoder_width
        self.standardise, self.momentum = config.standardise and space.discrete, momentum
        self.weight = nn.Parameter(torch.randn(count, width, out) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(count, out))
        if self.standardise:
            self.log_gain = nn.Parameter(torch.full((count, 1), config.gain).log())
            self.mean: Tensor
            self.variance: Tensor
            self.register_buffer("mean", torch.zeros(count, out))
            self.register_buffer("variance", torch.ones(count, out))

    def forward(self, tokens: Float[Tensor, "b m w"]) -> LatentLogits:
        logits = torch.einsum("bmw,mwk->bmk", tokens, self.weight) + self.bias
        if not self.standardise:
            return LatentLogits(logits)
        mean, variance = self._moments(logits) if self.training else (self.mean, self.variance)
        return LatentLogits((logits - mean) * (variance + 1e-5).rsqrt() * self.log_gain.exp())

    def _moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the global batch, differentiable; the running averages follow them."""
        mean = _global_mean(logits.mean(0))
        variance = _global_mean((logits - mean).square().mean(0))
        with torch.no_grad():
            self.mean.lerp_(mean.float(), self.momentum)
            self.variance.lerp_(variance.float(), self.momentum)
        return mean, variance


def _global_mean(value: Tensor) -> Tensor:
    """Mean over all processes, with gradients."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total: Tensor = collective.all_reduce(value)
    return total / distributed.get_world_size()
