"""Datasets that fit in memory, and the order in which training sees samples."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.rng import derive_key
from core.types import Batch


@dataclass(frozen=True)
class TensorDataset:
    """Clean fields [N, ...] and optional labels [N]."""

    fields: Mapping[str, Tensor]
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names, shapes and values."""
        digest = hashlib.sha256()
        tensors = {**self.fields, **({} if self.label is None else {"label": self.label})}
        for name, value in sorted(tensors.items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(np.ascontiguousarray(value.numpy()).tobytes())
        return digest.hexdigest()

    def load(self, indices: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> Batch:
        index = torch.as_tensor(np.asarray(indices))
        return Batch(
            ids=torch.as_tensor(np.asarray(ids)),
            fields={name: value[index] for name, value in self.fields.items()},
            label=None if self.label is None else self.label[index],
        )


class EpochOrder:
    """Which sample stands at which place of training: a new permutation every epoch, known without any state.

    Place n (counted from the start of training over all processes) is sample permutation(seed, n // N)[n % N].
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            generator = np.random.default_rng(derive_key(self.seed, f"order/{epoch}"))
            self._epoch, self._permutation = epoch, generator.permutation(self.size)
        return self._permutation

    def indices(self, places: range) -> np.ndarray:
        """[len(places)] sample numbers at the given places."""
        numbers = np.arange(places.start, places.stop)
        epochs = numbers // self.size
        parts = [self._of_epoch(int(e))[numbers[epochs == e] % self.size] for e in np.unique(epochs)]
        return np.concatenate(parts)
