"""Batches for training from any source of images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from core.rng import SampleStreams
from core.types import Batch
from domains.images.data.augment import Transformation
from domains.images.data.sources import ImageSource


@dataclass(frozen=True)
class ImageDataset:
    """Images in [-1, 1] with classes and, where they are augmented, what was done to them.

    flip: mirror half of the images, which the network is not told; augment: probability p of the transformations of
    ``augment.py``, which it is told (``Batch.vector``), 0 = none; labels: whether batches carry class numbers. What
    happens to a sample depends on ``seed`` and the number of its random stream only.
    """

    source: ImageSource
    flip: bool = False
    augment: float = 0.0
    labels: bool = True
    seed: int = 0

    def __len__(self) -> int:
        return len(self.source)

    @property
    def content_hash(self) -> str:
        """SHA-256 of images and labels."""
        return self.source.content_hash

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> Batch:
        """Batch with ``x`` [B, C, H, W] = pixel / 127.5 - 1, label [B] or None, vector [B, 9] or None.

        Raises DataError for an image that is damaged.
        """
        index, numbers = np.asarray(indices), torch.as_tensor(np.asarray(ids))
        images = torch.from_numpy(self.source.read(index)).float() / 127.5 - 1
        vector = None
        if self.flip:
            mirrored = SampleStreams(self.seed, numbers, "flip").uniform() < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.augment:
            done = Transformation.draw(SampleStreams(self.seed, numbers, "augment"), self.augment)
            images, vector = done.apply(images), done.labels()
        label = None
        if self.labels and self.source.labels is not None:
            label = torch.from_numpy(self.source.labels[index])
        return Batch(numbers, {"x": images}, label, vector)
