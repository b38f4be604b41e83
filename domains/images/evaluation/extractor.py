"""What a feature space is, and what those made by a network have in common."""

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.errors import DataError


@runtime_checkable
class FeatureExtractor(Protocol):
    """A fixed function of an image.

    name: stands in every figure; identity: changes whenever the features do (names cached statistics); classes:
    number of logits, 0 where it classifies nothing.
    """

    name: str
    identity: str
    dim: int
    classes: int

    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Features, on the extractor's device."""

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Class logits, which are a function of the features; [N, 0] where ``classes`` is 0."""


def exact_convolutions() -> AbstractContextManager[Any]:
    """Convolutions in full float32 on CUDA too, where PyTorch would round their inputs to 10 bits."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def colour(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Grey images with three equal channels. Raises DataError for anything but 1 or 3 channels."""
    if images.shape[1] not in (1, 3):
        raise DataError(f"images with {images.shape[1]} channels have no features: give grey or RGB images")
    return images.expand(-1, 3, -1, -1)
