"""The one training equation: weighted score matching with latents (DisCo-Diff Eq. 3)."""

from typing import Any

from torch import Tensor

from core.interfaces import Denoiser, Geometry
from core.rng import SampleStreams
from core.types import Corrupted, Latents, Tangent


def score_matching(predicted: Tangent, corrupted: Corrupted[Any]) -> Tensor:
    """[B] sum over fields of the mean over elements of weight (score - target)^2; a field without elements adds 0.

    For flat fields the weight is lambda sigma^4, so this is lambda ||D(x; sigma, z) - y||^2 per element.
    """
    squares = (
        (corrupted.weight[name] * (value - corrupted.target[name]) ** 2).flatten(1) for name, value in predicted.items()
    )
    per_field = [square.sum(1) / max(1, square.shape[1]) for square in squares]
    return sum(per_field[1:], start=per_field[0])


def denoising_loss(
    denoiser: Denoiser, geometry: Geometry[Any], batch: Any, t: Tensor, latents: Latents | None, streams: SampleStreams
) -> Tensor:
    """[B] loss of a denoiser on clean samples that are corrupted at times t [B]."""
    corrupted = geometry.corrupt(batch.clean, t, streams)
    predicted = denoiser(corrupted.state, geometry.noise_level(t), latents, batch)
    return score_matching(predicted, corrupted)
