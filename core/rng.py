"""Randomness: one counter-based stream per sample.

Draw number ``d`` of sample ``s`` is a pure function of (seed, purpose, s, d): it does not depend on the batch that
the sample happens to sit in, on the number of workers, or on the device. Nothing has to be saved to resume.
The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), evaluated for
the whole batch at once in integer tensor arithmetic.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: Sequence[Any], key: tuple[int, int], rounds: int = 10) -> list[Any]:
    """Philox4x32 block function.

    counter: four int64 arrays (torch or NumPy alike) that broadcast together and hold 32-bit words; key: two 32-bit
    words. Returns four arrays of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # int64 products wrap modulo 2^64, so the masked high word is the true one.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def derive_key(seed: int, purpose: str) -> tuple[int, int]:
    """Two 32-bit key words from a user's seed and the name of what the numbers are for."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


class SampleStreams:
    """One random stream per sample.

    Successive calls advance a draw counter that all samples share, so the n-th call means the same thing for every
    sample. Streams of different ``purpose`` are independent.

    seed: the user's seed; ids: [B] sample numbers (any int64 >= 0); purpose: e.g. ``"noise"`` or ``"latents"``.
    """

    def __init__(
        self, seed: int, ids: Tensor | Sequence[int], purpose: str, device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.purpose = seed, purpose
        self.ids = torch.as_tensor(ids, dtype=torch.int64, device=device)
        self._key = derive_key(seed, purpose)
        self._draw = 0

    def __len__(self) -> int:
        return len(self.ids)

    def _words(self, per_sample: int) -> Tensor:
        """[B, >= per_sample] random 32-bit words in int64 for the next draw."""
        count, draw = -(-per_sample // 4), self._draw
        self._draw += 1
        if self.ids.device.type == "cpu":
            # The same arithmetic in NumPy: a tenth of torch's overhead per operation on small arrays.
            ids = self.ids.numpy()[:, None]
            counters = (np.arange(count)[None], np.array([[draw]]), ids & _MASK, (ids >> 32) & _MASK)
            words = np.stack(philox4x32(counters, self._key), axis=-1)
            return torch.from_numpy(words.reshape(len(ids), 4 * count))
        blocks = torch.arange(count, device=self.ids.device)[None]
        column = self.ids[:, None]
        counter = (blocks, torch.full_like(blocks, draw), column & _MASK, (column >> 32) & _MASK)
        return torch.stack(philox4x32(counter, self._key), dim=-1).flatten(1)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[B, *shape] numbers in the open interval (0, 1)."""
        count = math.prod(shape)
        if dtype == torch.float64:
            words = self._words(2 * count)
            values = (words[:, 0 : 2 * count : 2] * 2**20 + (words[:, 1 : 2 * count : 2] >> 12)).to(dtype)
            values = (values + 0.5) * 2.0**-52
        else:
            # 23 bits, so that adding one half is exact and 1.0 is never reached.
            values = ((self._words(count)[:, :count] >> 9).to(torch.float32) + 0.5) * 2.0**-23
        return values.to(dtype).reshape(len(self), *shape)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[B, *shape] standard normal numbers (Box-Muller in float64, then cast)."""
        count = math.prod(shape)
        half = -(-count // 2)
        words = self._words(2 * half).to(torch.float64)
        first, second = words[:, :half], words[:, half : 2 * half]
        radius = (-2 * ((first + 0.5) * 2.0**-32).log()).sqrt()
        angle = (2 * math.pi * 2.0**-32) * second
        values = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
        return values.to(dtype).reshape(len(self), *shape)

    def gumbel(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[B, *shape] standard Gumbel noise, -log(-log U)."""
        return -(-self.uniform(*shape, dtype=torch.float64).log()).log().to(dtype)


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Categories drawn by inverting the cumulative sum.

    probabilities: [N, K], need not be normalised; uniform: [N] in (0, 1). Returns [N] indices, never one of
    probability zero.
    """
    cumulative = probabilities.double().cumsum(-1)
    below = (cumulative <= uniform.double()[:, None] * cumulative[:, -1:]).sum(-1)
    # Rounding can put the threshold on the very last cumulative value.
    last_possible = (probabilities > 0).long().cumsum(-1).argmax(-1)
    return torch.minimum(below, last_possible)
