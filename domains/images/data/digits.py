"""The digits that ship with scikit-learn: real data that needs no file."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from core.data import TensorDataset
from core.errors import DataError

HELD_OUT_EVERY = 10  # every tenth digit is validation data


@dataclass(frozen=True)
class DataFacts:
    """Size of the images of a data set, and its number of classes."""

    resolution: int
    channels: int
    classes: int


DATA_FACTS = {"digits": DataFacts(resolution=8, channels=1, classes=10)}


def load_images(name: str, split: str) -> TensorDataset:
    """Images [N, C, H, W] in [-1, 1] with class labels. Raises DataError for an unknown name or split.

    digits: 1,797 handwritten digits of 8x8 pixels (UCI, test part of Alpaydin & Kaynak 1998), shipped with
    scikit-learn. ``all`` is train and val together.
    """
    if name not in DATA_FACTS:
        raise DataError(f"unknown image data set '{name}'; known: {', '.join(DATA_FACTS)}")
    pixels, target = _digits()
    images = torch.from_numpy(pixels).float().unsqueeze(1) / 8 - 1  # pixel values 0..16
    labels = torch.from_numpy(target).long()
    held_out = torch.arange(len(labels)) % HELD_OUT_EVERY == 0
    chosen = {"train": ~held_out, "val": held_out, "all": torch.ones_like(held_out)}
    if split not in chosen:
        raise DataError(f"unknown split '{split}'; known: {', '.join(chosen)}")
    return TensorDataset({"x": images[chosen[split]]}, labels[chosen[split]])


def digit_bytes() -> tuple[UInt8[np.ndarray, "n 1 h w"], Int64[np.ndarray, " n"]]:
    """All digits with their 17 grey levels spread over 0..255 and rounded, and their classes."""
    pixels, target = _digits()
    return np.rint(pixels * (255 / 16)).astype(np.uint8)[:, None], target.astype(np.int64)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """[1797, 8, 8] pixel values 0..16 in float64, [1797] classes."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images, raw.target
