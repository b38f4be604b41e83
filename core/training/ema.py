"""Exponential moving averages of the weights."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.config import EMAConfig


def warmup_decay(decay: float) -> Callable[[int], float]:
    """min(decay, (1 + n) / (10 + n)) at update n = 0, 1, ...: early averages forget the random start."""
    return lambda n: min(decay, (1 + n) / (10 + n))


def power_decay(std: float) -> Callable[[int], float]:
    """EDM2's power-function average: beta_n = (1 - 1/n)^(gamma + 1), so that the width of the averaging profile is
    ``std`` times the length of training (Karras et al. 2024, Eq. 2 and 3). n counts from 1."""
    gamma = power_exponent(std)
    return lambda n: (1 - 1 / (n + 1)) ** (gamma + 1)


def power_exponent(std: float) -> float:
    """gamma with std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), the variance of the profile t^gamma on [0, 1]."""
    inverse = std**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots[np.isreal(roots)].real.max())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class EMA:
    """Keeps an averaged copy of a module.

    Floating-point buffers are averaged like weights: running statistics must fit the averaged weights, and those of
    the newest weights would not. Other buffers are copied.
    """

    def __init__(self, module: nn.Module, config: EMAConfig) -> None:
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.updates = 0
        schedules: dict[str, Callable[[int], float]] = {
            "warmup": warmup_decay(config.decay),
            "power": power_decay(config.std),
            "none": lambda n: 0.0,
        }
        self._decay = schedules[config.kind]
        # Walking a module tree takes longer than averaging a small network, so it is done once.
        pairs = zip(_tensors(self.average), _tensors(module), strict=True)
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages: list[Tensor] = [average for average, _ in floating]
        self._current: list[Tensor] = [current for _, current in floating]
        buffers = zip(self.average.buffers(), module.buffers(), strict=True)
        self._copied = [pair for pair in buffers if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's weights of now; call once after every optimiser step."""
        decay = self._decay(self.updates)
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._current, 1 - decay)
        for average, value in self._copied:
            average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.average.load_state_dict(state["average"])
