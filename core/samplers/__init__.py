"""Samplers by name. All run on any geometry, except where a sampler says that it needs a flat one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from core.errors import ConfigError
from core.samplers.base import Callback, OneStep, Sampler, Step
from core.samplers.mixed import Mixed, Segment, run_segments
from core.samplers.ode import DPMSolver2M, Euler, Heun
from core.samplers.sde import DDPM, Churn, EulerMaruyama, LowTemperature, Restart

SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "dpmpp-2m": DPMSolver2M,
    "churn": Churn,
    "euler-maruyama": EulerMaruyama,
    "ddpm": DDPM,
    "restart-623": Restart,
    "low-temperature": LowTemperature,
    "mixed": Mixed,
}


def make_sampler(name: str, options: Mapping[str, Any] | None = None) -> Sampler:
    """Sampler by name, with options of its dataclass; options that are samplers are given by name.

    Raises ConfigError for an unknown name, an unknown option or a value of the wrong type.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"unknown sampler '{name}'; known: {', '.join(SAMPLERS)}")
    known = {f.name: f for f in dataclasses.fields(SAMPLERS[name])}  # type: ignore[arg-type]
    resolved: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key not in known or key in ("low_field", "intervals"):
            raise ConfigError(f"sampler '{name}' has no option '{key}'; it has: {', '.join(known) or 'none'}")
        if key in ("solver", "high", "low"):
            resolved[key] = make_sampler(value)
        elif isinstance(value, int | float | Mapping) and not isinstance(value, bool):
            resolved[key] = value
        else:
            raise ConfigError(f"option '{key}' of sampler '{name}' must be a number, not {value!r}")
    return SAMPLERS[name](**resolved)


__all__ = [
    "DDPM", "SAMPLERS", "Callback", "Churn", "DPMSolver2M", "Euler", "EulerMaruyama", "Heun", "LowTemperature",
    "Mixed", "OneStep", "Restart", "Sampler", "Segment", "Step", "make_sampler", "run_segments",
]  # fmt: skip
