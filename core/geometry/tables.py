"""Smooth positive functions of one positive variable, evaluated once on a grid and interpolated from then on."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LogTable:
    """A function of log x on a uniform grid from ``low`` to ``high``, float64; constant outside.

    values: [N] at ``LogTable.points(low, high, N)``.
    """

    low: float
    high: float
    values: Tensor

    @staticmethod
    def points(low: float, high: float, count: int) -> Tensor:
        """[N] the grid, geometric in x."""
        return torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64, device="cpu").exp()

    def to(self, device: Any) -> "LogTable":
        return LogTable(self.low, self.high, self.values.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """Cubic (four-point Lagrange) interpolation at any shape of x > 0."""
        last = len(self.values) - 1
        scale = last / math.log(self.high / self.low)
        place = ((x.double() / self.low).log() * scale).clamp(0, last)
        first = (place.floor() - 1).clamp(0, last - 3)
        u = place - first
        near = self.values[first.long()[..., None] + torch.arange(4, device=x.device)]
        v, w, z = u - 1, u - 2, u - 3
        weights = torch.stack([-v * w * z / 6, u * w * z / 2, -u * v * z / 2, u * v * w / 6], dim=-1)
        return (weights * near).sum(-1)
