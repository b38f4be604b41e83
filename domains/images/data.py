"""Image data sets."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits

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
    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 8 - 1  # pixel values 0..16
    labels = torch.from_numpy(raw.target).long()
    held_out = torch.arange(len(labels)) % HELD_OUT_EVERY == 0
    chosen = {"train": ~held_out, "val": held_out, "all": torch.ones_like(held_out)}
    if split not in chosen:
        raise DataError(f"unknown split '{split}'; known: {', '.join(chosen)}")
    return TensorDataset({"x": images[chosen[split]]}, labels[chosen[split]])
