"""Score of a sample during generation, with classifier-free guidance on latents and classes (DisCo-Diff appendix B)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import RequestError
from core.interfaces import Denoiser, Geometry, scalar_times
from core.types import Latents, Tangent


@dataclass(frozen=True)
class Guidance:
    """How strongly to push away from the unconditional score.

    latents, classes: extra strength w in s = s_c + w (s_c - s_null), the convention of the paper's tables and of the
    authors' docking code: 0 is no guidance, and costs nothing. The formula of the paper's appendix B,
    w' s_c + (1 - w') s_null, is the same with w' = 1 + w: build it with ``from_interpolation``.
    interval: guidance acts where low < noise level <= high; everywhere by default.
    """

    latents: float = 0.0
    classes: float = 0.0
    interval: tuple[float, float] = (0.0, math.inf)

    @staticmethod
    def from_interpolation(latents: float = 1.0, classes: float = 1.0, **options: Any) -> "Guidance":
        """Appendix B's convention: 1 is no guidance, 0 is unconditional."""
        return Guidance(latents - 1, classes - 1, **options)

    def active(self, level: float) -> bool:
        return self.interval[0] < level <= self.interval[1]


class ScoreField:
    """The guided score of B samples as a function of state and time: all that a sampler sees of a model.

    All branches of guidance are evaluated in one batched call. ``nfe`` counts network evaluations per sample: a call
    with two branches counts two (the paper's Table 1 counts so).
    """

    def __init__(
        self, denoiser: Denoiser | Callable[..., Tangent], geometry: Geometry[Any], batch: Any,
        latents: Latents | None = None, guidance: Guidance = Guidance(), null_label: int | None = None,
    ) -> None:  # fmt: skip
        if guidance.latents and latents is None:
            raise RequestError(
                "guidance on latents was asked for, and this model has no latents: leave --guidance at 0"
            )
        if guidance.classes and null_label is None:
            raise RequestError("guidance on classes was asked for, and this model was trained without dropping classes")
        self.geometry, self.guidance, self.nfe = geometry, guidance, 0
        self._denoiser, self._batch, self._latents, self._null_label = denoiser, batch, latents, null_label
        self._weights: list[float] = []
        branches: list[tuple[Latents | None, Tensor | None]] = [(latents, batch.label)]
        if guidance.latents and latents is not None:
            self._weights.append(guidance.latents)
            branches.append((latents.dropped(), batch.label))
        if guidance.classes and null_label is not None:
            self._weights.append(guidance.classes)
            branches.append((latents, torch.full_like(batch.label, null_label)))
        self._branches = len(branches)
        if self._weights:
            index = torch.arange(batch.size, device=batch.ids.device).repeat(self._branches)
            labels = [label for _, label in branches if label is not None]
            self._all_batch = batch.select(index)
            if labels:
                self._all_batch = self._all_batch.with_label(torch.cat(labels))
            kept = [z for z, _ in branches if z is not None]
            self._all_latents = Latents.concatenate(kept) if kept else None

    def score(self, state: Any, t: Tensor) -> Tangent:
        """Guided score per field of the physical ``state`` at the scalar time t."""
        times = scalar_times(t, self._batch.size)
        level = self.geometry.noise_level(times)
        canonical = self.geometry.canonical(state, times)
        if not self._weights or not self.guidance.active(float(level[0])):
            self.nfe += 1
            return self._denoiser(canonical, level, self._latents, self._batch)
        self.nfe += self._branches
        stacked = self._denoiser(
            self.geometry.concatenate([canonical] * self._branches),
            level.repeat(self._branches),
            self._all_latents,
            self._all_batch,
        )
        conditional, *nulls = self.geometry.split(stacked, self._branches)
        return {
            name: value + sum(w * (value - null[name]) for w, null in zip(self._weights, nulls, strict=True))
            for name, value in conditional.items()
        }

    def velocity(self, state: Any, t: Tensor) -> Tangent:
        """Right-hand side of the probability-flow ODE at the scalar time t."""
        times = scalar_times(t, self._batch.size)
        return self.geometry.velocity(state, times, self.score(state, t))

    def with_latents(self, latents: Latents) -> "ScoreField":
        """The same field under other latents (latent switching)."""
        return ScoreField(self._denoiser, self.geometry, self._batch, latents, self.guidance, self._null_label)
